"""Heat maps: one value for each pair of channel counts of a site that was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.plots.points import Point, SitePoints
from latency_model.plots.style import KernelColours, kernel_colours

__all__ = ["HEATS", "HeatMap", "heat_map"]

HEATS = ("latency", "per-mac", "ratio", "kernel")
_LABELS = {
    "latency": "latency (µs)",
    "per-mac": "picoseconds per multiply-accumulate",
    "ratio": "latency of B over A",
    "kernel": "kernel",
}
_WIDE = 10.0


@dataclass(frozen=True)
class HeatMap:
    """Values by (input count, output count); NaN where no row is. ``texts`` say the same in words.

    For ``kernel`` the values are places in ``kernels.legend()``. ``logarithmic`` asks for such a scale.
    """

    kind: str
    label: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    values: NDArray[np.float64]
    texts: tuple[tuple[str, ...], ...]
    logarithmic: bool
    kernels: KernelColours | None = None


def heat_map(found: SitePoints, kind: str) -> HeatMap:
    """Return the heat map ``kind`` of a site, one of ``HEATS``; ``ratio`` needs two tables, the others one.

    Raises ``InputError`` for another kind, another number of tables, a depthwise site, and for ``kernel`` when
    no row names one.
    """
    if kind not in HEATS:
        raise InputError(f"unknown heat map {kind!r}; give one of {', '.join(HEATS)}")
    if found.site.depthwise:
        raise InputError("a depthwise convolution has one channel count; draw its staircase, without --heat")
    if len(found.tables) != (2 if kind == "ratio" else 1):
        need = "two tables" if kind == "ratio" else "one table; ratio compares two"
        raise InputError(f"a heat map of {kind} is of {need}")
    first = {(point.inputs, point.outputs): point for point in found.tables[0]}
    second = {(point.inputs, point.outputs): point for point in found.tables[-1]}
    pairs = sorted(first.keys() & second.keys())
    if not pairs:
        raise InputError("the two tables have no channel counts of this site in common")
    kernels = kernel_colours(first[pair].kernel for pair in pairs) if kind == "kernel" else None
    if kernels is not None and not kernels.colours:
        raise InputError("no row of this site names its kernels; runtimes on a CPU do not")
    inputs, outputs = (tuple(sorted({pair[side] for pair in pairs})) for side in (0, 1))
    rows = {count: place for place, count in enumerate(inputs)}
    columns = {count: place for place, count in enumerate(outputs)}
    values = np.full((len(inputs), len(outputs)), np.nan)
    texts = [[""] * len(outputs) for _ in inputs]
    legend = [colour for colour, _ in kernels.legend()] if kernels else []
    for pair in pairs:
        a, b = first[pair], second[pair]
        value, text = _value(kind, a, b)
        if kernels is not None:
            value = float(legend.index(kernels.colours[a.kernel])) if a.kernel else math.nan
            text = f"{kernels.labels.get(a.kernel, 'unknown kernel')}, {text}"
        values[rows[pair[0]], columns[pair[1]]] = value
        texts[rows[pair[0]]][columns[pair[1]]] = f"{pair[0]} to {pair[1]} channels: {text}"
    spread = np.nanmax(values) / np.nanmin(values) if kind != "kernel" else 1.0
    logarithmic = kind == "ratio" or bool(spread > _WIDE)
    return HeatMap(
        kind, _LABELS[kind], inputs, outputs, values, tuple(map(tuple, texts)), logarithmic, kernels
    )


def _value(kind: str, a: Point, b: Point) -> tuple[float, str]:
    if kind == "ratio":
        ratio = b.row.latency_us / a.row.latency_us
        return ratio, f"{a.row.latency_us:.2f} µs, then {b.row.latency_us:.2f} µs, ratio {ratio:.3f}"
    interval = f"{a.row.latency_us:.2f} µs ({a.row.low_us:.2f} - {a.row.high_us:.2f})"
    if kind == "per-mac":
        value = a.row.latency_us * 1e6 / a.macs
        return value, f"{value:.3g} ps per MAC, {interval}"
    return a.row.latency_us, interval
