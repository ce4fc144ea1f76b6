"""The hyper-graph of a pruned network as a chart: layers are rows, each group of coupled channels is a vertical line.

The layout is that of parallel aggregated ordered hypergraphs (Valdivia et al., IEEE TVCG 2021): a line spans the layers
that must keep the same channels, a triangle marks each that writes them, a dot each that reads them. Residual
highways are the long lines.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruner.report.picture import AFTER, CHOSEN, FAINT, STYLE
from pruner.report.run_report import GroupRow, RunReport

__all__ = ["hypergraph", "hypergraph_picture", "layers_of", "lines_of"]

_WIDTHS = (1.5, 7.0)  # of a line whose group keeps nothing, and all
_LABEL = 44


def layers_of(groups: Sequence[GroupRow], order: Sequence[str]) -> list[str]:
    """Return the layers of ``groups`` in ``order``, those that it lacks after them."""
    named = dict.fromkeys(layer for group in groups for layer in (*group.writers, *group.readers))
    return [*(layer for layer in order if layer in named), *(n for n in named if n not in set(order))]


def lines_of(groups: Sequence[GroupRow], layers: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return (column, first row, last row) of each group, as few columns as there is room for.

    Groups come in the order of their first layers, each in the first column that is free there (the greedy colouring
    of intervals, which needs no more columns than lines that overlap at once).
    """
    place = {layer: row for row, layer in enumerate(layers)}
    spans = []
    for group in groups:
        rows = [place[layer] for layer in (*group.writers, *group.readers)]
        spans.append((min(rows), max(rows)) if rows else (0, -1))
    found: list[tuple[int, int, int]] = [(0, 0, -1)] * len(groups)
    ends: list[int] = []
    for number in sorted(range(len(groups)), key=lambda n: spans[n]):
        first, last = spans[number]
        if last < first:
            continue
        column = next((c for c, end in enumerate(ends) if end < first), len(ends))
        ends[column:] = [last, *ends[column + 1 :]]
        found[number] = (column, first, last)
    return found


def hypergraph(report: RunReport) -> dict[str, Any]:
    """Return the chart for Plotly; the report must have groups with layers."""
    layers = layers_of(report.groups, [site.name for site in report.sites])
    place = {layer: row for row, layer in enumerate(layers)}
    data: list[dict[str, Any]] = []
    columns = 0
    for group, (column, first, last) in zip(report.groups, lines_of(report.groups, layers), strict=True):
        if last < first:
            continue
        columns = max(columns, column + 1)
        text = html.escape(f"{group.name}: {_kept(group)}", quote=False)
        line = {"color": _colour(group), "width": _width(group)}
        shared: dict[str, Any] = {"type": "scatter", "showlegend": False, "hoverinfo": "text", "text": text}
        data.append(
            {
                **shared,
                "mode": "lines",
                "x": [column, column],
                "y": [first, last],
                "line": line,
                "opacity": 0.6,
            }
        )
        for symbol, members in (("triangle-up", group.writers), ("circle", group.readers)):
            rows = [place[member] for member in members]
            marker = {"symbol": symbol, "size": 10 if symbol != "circle" else 8, "color": _colour(group)}
            data.append({**shared, "mode": "markers", "x": [column] * len(rows), "y": rows, "marker": marker})
    names = [html.escape(_short(layer), quote=False) for layer in layers]
    layout = {
        "height": 140 + 20 * len(layers),
        "hovermode": "closest",
        "xaxis": {"visible": False, "range": [-0.7, columns - 0.3]},
        "yaxis": {
            "autorange": "reversed",
            "tickmode": "array",
            "tickvals": list(range(len(layers))),
            "ticktext": names,
            "automargin": True,
        },
    }
    return {"data": data, "layout": layout}


def hypergraph_picture(report: RunReport, path: Path) -> None:
    """Draw the hyper-graph into the PNG ``path``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layers = layers_of(report.groups, [site.name for site in report.sites])
    place = {layer: row for row, layer in enumerate(layers)}
    lines = lines_of(report.groups, layers)
    columns = max((column for column, _, _ in lines), default=0) + 1
    with mpl.rc_context(STYLE):
        size = (min(6.0 + 0.25 * columns, 24.0), min(1.4 + 0.22 * len(layers), 40.0))
        figure = Figure(figsize=size, dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for group, (column, first, last) in zip(report.groups, lines, strict=True):
            if last < first:
                continue
            colour = _colour(group)
            axes.plot([column, column], [first, last], color=colour, linewidth=_width(group) / 2, alpha=0.6)
            for marker, members in (("^", group.writers), ("o", group.readers)):
                rows = [place[member] for member in members]
                axes.plot([column] * len(rows), rows, marker, color=colour, markersize=6)
        axes.set_yticks(range(len(layers)), [_short(layer) for layer in layers], fontsize=7)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_xlim(-0.7, columns - 0.3)
        axes.set_xticks([])
        axes.set_title("▲ writes, ● reads; the thicker, the more is kept", fontsize=8)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        figure.savefig(path, format="png")


def _kept(group: GroupRow) -> str:
    return "removed" if group.after == 0 else f"{group.after} of {group.before} channels"


def _colour(group: GroupRow) -> str:
    return CHOSEN if group.after == 0 else FAINT if group.after == group.before else AFTER


def _width(group: GroupRow) -> float:
    thin, thick = _WIDTHS
    return thin + (thick - thin) * group.after / max(1, group.before)


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else "…" + name[1 - _LABEL :]
