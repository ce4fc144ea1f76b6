"""The staircase of one convolution site over one of its channel counts, from the lookups alone."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import Kind
from latency_model.errors import InputError
from latency_model.service.api.problems import NotMeasured
from latency_model.service.prepared import Lookups
from latency_model.shapes import ConvShape

__all__ = ["efficient", "envelope_of", "stairs"]

_STEP = 0.02
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def stairs(lookups: Lookups, shape: ConvShape, axis: Literal["in", "out"]) -> dict[str, Any]:
    """Return the measured latencies of the site of ``shape`` over one count, the other as in ``shape``; JSON-ready.

    ``envelope_us`` is the least latency of any measured convolution of the site that this one can run as, padded
    with zero channels; ``efficient`` are the counts that no larger one matches within 2 %. ``others`` are the
    other counts that have points on this axis. Raises ``NotMeasured`` where the site has no row at all.
    """
    columns, table = lookups.columns, lookups.convs
    kinds = {kind: place for place, kind in enumerate(columns.kinds)}
    code = kinds.get(Kind.of(shape), -1)
    fixed = (columns.kind == code) & (columns.batch == _small(shape.batch))
    fixed &= (columns.height == _small(shape.height)) & (columns.width == _small(shape.width))
    if shape.depthwise:
        multiplier = shape.out_channels // shape.in_channels
        fixed &= (columns.groups == columns.in_channels) & (columns.groups > 1)
        fixed &= columns.out_channels == columns.in_channels * _small(multiplier)
    else:
        fixed &= columns.groups == _small(shape.groups)
        if shape.groups > 1:  # as many groups as channels is another kind of site
            fixed &= columns.in_channels != columns.groups
    places = np.flatnonzero(fixed)
    if not len(places):
        raise NotMeasured(
            f"the site of {shape.text} was not measured; POST /v1/jobs asks for it", config=shape.text
        )
    inputs, outputs = columns.in_channels[places], columns.out_channels[places]
    along, across = (outputs, inputs) if axis == "out" else (inputs, outputs)
    at = shape.in_channels if axis == "out" else shape.out_channels
    line = np.ones(len(places), dtype=bool) if shape.depthwise else across == _small(at)
    order = np.flatnonzero(line)[np.argsort(along[line], kind="stable")]
    us = table.latency_us[places]
    low, high = table.parts.values[1][places], table.parts.values[2][places]
    counts = along[order]
    reach = np.ones(len(places), dtype=bool) if shape.depthwise else across >= _small(at)
    envelope = envelope_of(counts, along[reach], us[reach])
    return {
        "config": shape.text,
        "axis": axis,
        "at": at,
        "counts": counts.tolist(),
        "latency_us": us[order].tolist(),
        "low_us": low[order].tolist(),
        "high_us": high[order].tolist(),
        "envelope_us": envelope.tolist(),
        "efficient": efficient(counts, envelope),
        "others": [] if shape.depthwise else sorted(set(across.tolist())),
    }


def _small(number: int) -> int:
    """Return ``number``; ``InputError`` where it is no 64-bit one, as no row has."""
    if number >= 2**63:
        raise InputError(f"no convolution has a size of {str(number)[:20]}…")
    return number


def envelope_of(counts: Ints, along: Ints, us: Floats) -> Floats:
    """Return the least of ``us`` over all points whose ``along`` is at least each of ``counts``."""
    order = np.argsort(along, kind="stable")
    least = np.minimum.accumulate(us[order][::-1])[::-1]
    found: Floats = least[np.searchsorted(along[order], counts, side="left")]
    return found


def efficient(counts: Ints, envelope: Floats) -> list[int]:
    """Return the counts that are the last of their plateau, as ``latency_model.grid.efficient_counts`` does."""
    chosen: list[int] = []
    last = np.inf
    for count, value in zip(counts[::-1].tolist(), envelope[::-1].tolist(), strict=True):
        if not chosen or value < last * (1.0 - _STEP):
            chosen.append(count)
            last = value
    return chosen[::-1]
