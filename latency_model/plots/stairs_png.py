"""Staircases as a PNG: latency above, and below it which kernel ran at each count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency_model.files import write_atomic
from latency_model.plots.lines import Line, Staircase
from latency_model.plots.style import COLOURS, KernelColours, kernel_colours

__all__ = ["stairs_png"]

_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


def stairs_png(stairs: Staircase, title: Sequence[str], notes: Sequence[str], path: Path) -> None:
    """Draw staircases to ``path``; needs matplotlib, and no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    kernels = kernel_colours(point.kernel for line in stairs.lines for point in line.points)
    strip = 0.3 + 0.22 * len(stairs.lines) if kernels.colours else 0.0
    legend = 0.2 * -(-len(kernels.legend()) // 2)
    figure = Figure(figsize=(10, 5 + strip + legend), layout="constrained")
    FigureCanvasAgg(figure)
    if kernels.colours:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, strip])
        _strip(below, stairs.lines, kernels)
        below.set_xlabel(stairs.axis)
        handles = [
            Line2D([], [], marker="s", linestyle="", color=colour, label=label)
            for colour, label in kernels.legend()
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=2, fontsize=7.5, frameon=False,
            title="kernel that takes most of the time", title_fontsize=8,
        )  # fmt: skip
    else:
        axes = figure.subplots()
        axes.set_xlabel(stairs.axis)
    for line in stairs.lines:
        _line(axes, line)
    if len(stairs.lines) == 1:
        for change in stairs.lines[0].changes:
            axes.axvline(change, color="0.75", linewidth=0.8, zorder=0)
    axes.set_ylabel("latency (µs)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(handles=_legend(stairs), fontsize=8, frameon=False, ncols=2 if len(stairs.lines) > 3 else 1)
    figure.suptitle(title[0], fontsize=11, x=0.01, ha="left")
    small = [*title[1:], *(["; ".join(notes)] if notes else [])]
    axes.set_title("\n".join(small), fontsize=8, loc="left", color="0.35")
    write_atomic(path, lambda target: figure.savefig(target, dpi=150, format="png"))


def _line(axes: Any, line: Line) -> None:
    colour, marker = COLOURS[line.colour % len(COLOURS)], _MARKERS[line.table % len(_MARKERS)]
    rows = [point.row for point in line.points]
    runs = [(aligned, run) for aligned in (True, False) for run in line.runs(aligned=aligned)]
    for aligned, chosen in runs:
        counts, latency = [line.counts[i] for i in chosen], [rows[i].latency_us for i in chosen]
        errors = [
            [rows[i].latency_us - rows[i].low_us for i in chosen],
            [rows[i].high_us - rows[i].latency_us for i in chosen],
        ]
        axes.errorbar(
            counts, latency, errors,
            color=colour, ecolor=colour, elinewidth=0.8, capsize=1.5,
            marker=marker if aligned else "x", markersize=3.2 if aligned else 4, markeredgewidth=0.9,
            linestyle=_STYLES[line.table % len(_STYLES)] if aligned else "",
            drawstyle="steps-mid", linewidth=1.1, alpha=1.0 if aligned else 0.7,
        )  # fmt: skip
    axes.plot(
        line.counts,
        line.envelope_us,
        color=colour,
        drawstyle="steps-pre",
        linewidth=2.4,
        alpha=0.25,
        zorder=1,
    )


def _legend(stairs: Staircase) -> list[Any]:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D(
            [], [],
            color=COLOURS[line.colour % len(COLOURS)], marker=_MARKERS[line.table % len(_MARKERS)],
            markersize=4, linestyle=_STYLES[line.table % len(_STYLES)], label=line.label,
        )
        for line in stairs.lines
    ]  # fmt: skip
    if not all(all(line.aligned) for line in stairs.lines):
        text = f"not a multiple of {stairs.alignment}"
        handles.append(Line2D([], [], color="0.4", marker="x", markersize=4, linestyle="", label=text))
    text = "envelope: reached by padding up"
    handles.append(Line2D([], [], color="0.4", linewidth=2.4, alpha=0.35, label=text))
    if len(stairs.lines) == 1 and stairs.lines[0].changes:
        handles.append(Line2D([], [], color="0.75", linewidth=0.8, label="another kernel"))
    return handles


def _strip(axes: Any, lines: Sequence[Line], kernels: KernelColours) -> None:
    for place, line in enumerate(lines):
        known = [(c, p.kernel) for c, p in zip(line.counts, line.points, strict=True) if p.kernel]
        axes.scatter(
            [count for count, _ in known],
            [place] * len(known),
            c=[kernels.colours[name] for _, name in known],
            marker="s",
            s=11,
            linewidths=0,
        )
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=7)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
