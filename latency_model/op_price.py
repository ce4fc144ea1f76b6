"""What an operator costs at any channel counts, from the rows of a table.

Operators beside convolutions move data rather than compute, so that between measured sizes of one operator
their time is taken as a line over the numbers that they read. Below the smallest measured size the time of
that size stands; above the largest there is no price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.measurement import Measurement
from latency_model.network import OpSite
from latency_model.ops import OpShape

__all__ = ["OpCurve", "OpPrice", "OpPrices"]

Array = NDArray[np.float64]
_LARGEST_MATRIX = 1 << 20
_Family = tuple[str, tuple[tuple[str, str], ...], str, str, tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class OpPrice:
    """A latency with its 95 % interval; ``source`` is ``measured`` or ``interpolated``."""

    latency_us: float
    low_us: float
    high_us: float
    source: str


@dataclass(frozen=True)
class OpCurve:
    """Measured latencies of one operator over the numbers that it reads, ascending."""

    elements: Array
    latency_us: Array
    low_us: Array
    high_us: Array

    def at(self, elements: int) -> OpPrice | None:
        """Return the price of reading ``elements`` numbers, None beyond the largest measured."""
        if elements > self.elements[-1]:
            return None
        values = (self.latency_us, self.low_us, self.high_us)
        latency, low, high = (float(np.interp(elements, self.elements, column)) for column in values)
        return OpPrice(latency, low, high, "interpolated")


class OpPrices:
    """Prices of operator sites by the rows ``ops`` of a table."""

    def __init__(self, ops: Mapping[OpShape, Measurement]) -> None:
        self._ops = ops
        self._families: dict[_Family, list[OpShape]] = {}
        for shape in ops:
            self._families.setdefault(_family(shape), []).append(shape)

    def at(self, site: OpSite, shape: OpShape) -> OpPrice | None:
        """Return the price of ``site`` when it has the sizes ``shape``, None when the table has none."""
        if (row := self._ops.get(shape)) is not None:
            return OpPrice(row.latency_us, row.low_us, row.high_us, "measured")
        curve = self.curve(site)
        return None if curve is None else curve.at(_elements(shape))

    def curve(self, site: OpSite) -> OpCurve | None:
        """Return what the table has of ``site`` at any channel counts, None when it has nothing."""
        free = {(axis.place, axis.dim) for axis in site.axes if axis.channels.terms}
        if not free:
            rows = [site.shape] if site.shape in self._ops else []
        else:
            wanted = _fixed(site.shape, free)
            rows = [s for s in self._families.get(_family(site.shape), ()) if _fixed(s, free) == wanted]
        if not rows:
            return None
        by_size: dict[int, list[Measurement]] = {}
        for shape in rows:
            by_size.setdefault(_elements(shape), []).append(self._ops[shape])
        sizes = sorted(by_size)
        columns = [
            np.array([np.mean([getattr(row, name) for row in by_size[size]]) for size in sizes])
            for name in ("latency_us", "low_us", "high_us")
        ]
        return OpCurve(np.array(sizes, dtype=np.float64), *columns)

    def matrix(self, site: OpSite, groups: Mapping[str, int], *, raw: bool = False) -> Array | None:
        """Return the microseconds of ``site`` at all counts of its inputs and outputs, None without a price.

        A line over the inputs, or for a linear layer whose two sides follow channel groups a matrix, unless
        that had more than a million entries: then the outputs count in full. Count 0 costs 0. Without ``raw``
        a count never costs more than a larger one.
        """
        curve = self.curve(site)
        if curve is None or _elements(site.shape) > curve.elements[-1]:
            return None
        inputs = np.arange(site.inputs.count(groups) + 1)
        outputs = np.arange(site.outputs.count(groups) + 1)
        if not site.outputs.terms or len(inputs) * len(outputs) > _LARGEST_MATRIX:
            made = _line(site, curve, inputs, outputs[-1])
        else:
            sizes = site.elements(inputs[:, None], outputs[None, :])
            made = np.interp(sizes, curve.elements, curve.latency_us)
            made[0, :] = made[:, 0] = 0.0
        if not raw:
            for axis in range(made.ndim):
                made = np.flip(np.minimum.accumulate(np.flip(made, axis), axis=axis), axis)
        return np.ascontiguousarray(made)


def _line(site: OpSite, curve: OpCurve, inputs: NDArray[np.int64], outputs: int) -> Array:
    sizes = np.broadcast_to(site.elements(inputs, outputs), inputs.shape)
    line = np.interp(sizes, curve.elements, curve.latency_us)
    line[0] = 0.0
    return line


def _family(shape: OpShape) -> _Family:
    ranks = tuple(len(size) for size in (*shape.inputs, *shape.weights))
    return shape.op, shape.attributes, shape.precision, shape.layout, ranks, len(shape.inputs)


def _fixed(shape: OpShape, free: set[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the sizes with 0 for those that follow channel groups."""
    return [
        tuple(0 if (place, dim) in free else size for dim, size in enumerate(sizes))
        for place, sizes in enumerate((*shape.inputs, *shape.weights))
    ]


def _elements(shape: OpShape) -> int:
    return sum(map(math.prod, (*shape.inputs, *shape.weights)))
