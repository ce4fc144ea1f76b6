"""A heat map as an interactive page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_model.plots.heat import HeatMap
from latency_model.plots.page import page_layout, write_page

__all__ = ["heat_html"]


def heat_html(chart: HeatMap, title: Sequence[str], note: str, path: Path) -> None:
    """Draw ``chart`` to ``path``; needs plotly. Pairs that were not measured stay empty."""
    import plotly.graph_objects as go

    values = np.log10(chart.values) if chart.logarithmic else chart.values
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(value) else float(value) for value in row] for row in values],
            # As texts the counts get cells of equal size; they need not be evenly spaced.
            x=[str(count) for count in chart.outputs],
            y=[str(count) for count in chart.inputs],
            text=chart.texts,
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            **_scale(chart, values),
        )
    )
    figure.update_xaxes(title="output channels", type="category", showgrid=False, nticks=20)
    figure.update_yaxes(title="input channels", type="category", showgrid=False, nticks=20)
    figure.update_layout(page_layout())
    write_page(figure, title, [f"{note}; empty: not measured"] if note else [], path)


def _scale(chart: HeatMap, values: Any) -> dict[str, Any]:
    if chart.kernels is not None:
        legend = chart.kernels.legend()
        size = len(legend)
        stops = [
            [edge / size, colour] for place, (colour, _) in enumerate(legend) for edge in (place, place + 1)
        ]
        bar = {"tickvals": list(range(size)), "ticktext": [label for _, label in legend], "title": "kernel"}
        return {"colorscale": stops, "zmin": -0.5, "zmax": size - 0.5, "colorbar": bar}
    if not chart.logarithmic:
        return {"colorscale": "Viridis", "zmin": 0, "colorbar": {"title": chart.label}}
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if chart.kind == "ratio":
        high = max(high, -low, float(np.log10(1.05)))
        low = -high
    ticks = np.linspace(low, high, 7)
    bar = {"tickvals": ticks.tolist(), "ticktext": [f"{10**t:.3g}" for t in ticks], "title": chart.label}
    colours = "PuOr_r" if chart.kind == "ratio" else "Viridis"
    return {"colorscale": colours, "zmin": low, "zmax": high, "colorbar": bar}
