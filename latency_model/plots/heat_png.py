"""A heat map as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_model.files import write_atomic
from latency_model.plots.heat import HeatMap

__all__ = ["heat_png"]

_MOST_TICKS = 16


def heat_png(chart: HeatMap, title: Sequence[str], note: str, path: Path) -> None:
    """Draw ``chart`` to ``path``; needs matplotlib, and no display. Pairs that were not measured stay grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8.5, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor("0.88")
    options = _options(chart)
    # Cells of equal size, by rank: counts need not be evenly spaced.
    image = axes.pcolormesh(np.ma.masked_invalid(chart.values), rasterized=True, **options)
    _ticks(axes.set_xticks, chart.outputs)
    _ticks(axes.set_yticks, chart.inputs)
    axes.tick_params(axis="x", labelrotation=60, labelsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set(xlabel="output channels", ylabel="input channels")
    if chart.kernels is not None:
        handles = [Patch(color=colour, label=label) for colour, label in chart.kernels.legend()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7.5, frameon=False)
    else:
        _bar(figure, image, axes, chart)
    figure.suptitle(title[0], fontsize=11, x=0.01, ha="left")
    told = f"{note}; grey: not measured" if note else ""
    axes.set_title("\n".join(filter(None, [*title[1:], told])), fontsize=8, loc="left", color="0.35")
    write_atomic(path, lambda target: figure.savefig(target, dpi=150, format="png"))


def _options(chart: HeatMap) -> dict[str, Any]:
    from matplotlib.colors import ListedColormap, LogNorm

    if chart.kernels is not None:
        colours = [colour for colour, _ in chart.kernels.legend()]
        return {"cmap": ListedColormap(colours), "vmin": -0.5, "vmax": len(colours) - 0.5}
    if chart.kind == "ratio":
        far = max(1.05, float(np.nanmax(np.maximum(chart.values, 1 / chart.values))))
        return {"cmap": "PuOr_r", "norm": LogNorm(1 / far, far)}
    return {"cmap": "viridis", "norm": LogNorm()} if chart.logarithmic else {"cmap": "viridis", "vmin": 0}


def _bar(figure: Any, image: Any, axes: Any, chart: HeatMap) -> None:
    from matplotlib.ticker import NullLocator

    bar = figure.colorbar(image, ax=axes, label=chart.label)
    if chart.logarithmic:
        ticks = np.geomspace(image.norm.vmin, image.norm.vmax, 7).tolist()
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        bar.ax.yaxis.set_minor_locator(NullLocator())


def _ticks(put: Any, counts: Sequence[int]) -> None:
    step = max(1, -(-len(counts) // _MOST_TICKS))
    # From the largest down: the full width is always named.
    places = list(range(len(counts) - 1, -1, -step))[::-1]
    put([place + 0.5 for place in places], [str(counts[place]) for place in places])
