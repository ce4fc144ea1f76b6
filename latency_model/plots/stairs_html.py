"""Staircases as an interactive page: hovering over a point shows its interval, kernel and flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency_model.plots.lines import Line, Staircase
from latency_model.plots.page import page_layout, write_page
from latency_model.plots.style import COLOURS, KernelColours, kernel_colours

__all__ = ["stairs_html"]

_DASHES = ("solid", "dash", "dot", "dashdot")
_MARKERS = ("circle", "square", "triangle-up", "diamond")


def stairs_html(stairs: Staircase, title: Sequence[str], notes: Sequence[str], path: Path) -> None:
    """Draw staircases to ``path``; needs plotly."""
    from plotly.subplots import make_subplots

    kernels = kernel_colours(point.kernel for line in stairs.lines for point in line.points)
    share = min(0.35, 0.06 + 0.045 * len(stairs.lines)) if kernels.colours else 0.0
    rows = 2 if kernels.colours else 1
    figure = make_subplots(
        rows=rows,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.04,
        row_heights=[1 - share, share] if rows == 2 else None,
    )
    for line in stairs.lines:
        _add(figure, line, kernels, stairs.alignment)
    if len(stairs.lines) == 1:
        for change in stairs.lines[0].changes:
            figure.add_vline(change, line={"color": "rgba(128,128,128,0.5)", "width": 1}, row=1, col=1)
    if rows == 2:
        _strip(figure, stairs.lines, kernels)
        labels = [line.label for line in stairs.lines]
        figure.update_yaxes(
            tickvals=list(range(len(labels))), ticktext=labels, autorange="reversed", showgrid=False, row=2
        )
    figure.update_yaxes(title="latency (µs)", rangemode="tozero", row=1)
    figure.update_xaxes(title=stairs.axis, row=rows)
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    figure.update_layout(page_layout(legend={"groupclick": "togglegroup", "font": {"size": 11}}))
    write_page(figure, title, notes, path)


def _add(figure: Any, line: Line, kernels: KernelColours, alignment: int) -> None:
    colour = COLOURS[line.colour % len(COLOURS)]
    runs = [(aligned, run) for aligned in (True, False) for run in line.runs(aligned=aligned)]
    named = set()
    for aligned, chosen in runs:
        points = [line.points[i] for i in chosen]
        latency = [point.row.latency_us for point in points]
        figure.add_scatter(
            x=[line.counts[i] for i in chosen],
            y=latency,
            name=line.label if aligned else f"{line.label}, not a multiple of {alignment}",
            legendgroup=line.label,
            showlegend=aligned not in named,
            mode="lines+markers" if aligned else "markers",
            line={"shape": "hvh", "color": colour, "width": 1.5, "dash": _DASHES[line.table % 4]},
            marker={
                "symbol": _MARKERS[line.table % 4] if aligned else "x-thin-open",
                "size": 6,
                "color": colour,
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [point.row.high_us - point.row.latency_us for point in points],
                "arrayminus": [point.row.latency_us - point.row.low_us for point in points],
                "thickness": 1,
                "width": 2,
            },
            text=[_hover(point.row, kernels.labels.get(point.kernel, "")) for point in points],
            hovertemplate="%{x} channels: %{y:.2f} µs<br>%{text}<extra>" + line.label + "</extra>",
            row=1,
            col=1,
        )
        named.add(aligned)
    figure.add_scatter(
        x=line.counts,
        y=line.envelope_us,
        name=f"{line.label}, envelope",
        legendgroup=line.label,
        showlegend=False,
        mode="lines",
        hoverinfo="skip",
        opacity=0.3,
        line={"shape": "vh", "color": colour, "width": 4},
        row=1,
        col=1,
    )


def _hover(row: Any, kernel: str) -> str:
    parts = [f"95 % interval {row.low_us:.2f} - {row.high_us:.2f}, {row.samples} samples", kernel]
    return "<br>".join(filter(None, [*parts, ", ".join(row.flags), row.note]))


def _strip(figure: Any, lines: Sequence[Line], kernels: KernelColours) -> None:
    for colour, label in kernels.legend():
        chosen = [
            (count, place, kernels.labels[point.kernel])
            for place, line in enumerate(lines)
            for count, point in zip(line.counts, line.points, strict=True)
            if kernels.colours.get(point.kernel) == colour
        ]
        figure.add_scatter(
            x=[count for count, _, _ in chosen],
            y=[place for _, place, _ in chosen],
            text=[name for _, _, name in chosen],
            name=label,
            legendgroup="kernels",
            legendgrouptitle={"text": "kernel that takes most of the time"},
            mode="markers",
            marker={"symbol": "square", "size": 8, "color": colour},
            hovertemplate="%{x} channels: %{text}<extra></extra>",
            row=2,
            col=1,
        )
