"""The latency of one convolution site by its channel counts: what was measured, and what follows from it.

The *pad-up envelope* is ``L*(a, b) = min over measured a' >= a, b' >= b of L(a', b')``: a convolution with
fewer channels can always run as a larger one padded with zero channels, so ``L*`` can be reached everywhere,
and it is monotone by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError, TableError
from latency_model.hull import convex_minorant
from latency_model.measurement import Measurement
from latency_model.reconstruct import Reconstruction
from latency_model.shapes import ConvShape

__all__ = ["KINDS", "ChannelGrid", "GridPoint", "convex_minorant", "efficient_counts"]

Array = NDArray[np.float64]
Kind = Literal["envelope", "raw"]
KINDS = ("envelope", "raw")


@dataclass(frozen=True, slots=True)
class GridPoint:
    """A latency with its 95 % interval, and where it is from.

    ``source`` is ``measured``; ``reconstructed`` from measured points of the site; or, for counts that the grid
    lacks, ``padded`` or ``padded, reconstructed``: those of ``padded_to``.
    """

    latency_us: float
    low_us: float
    high_us: float
    source: str
    padded_to: tuple[int, int]


@dataclass(frozen=True)
class ChannelGrid:
    """Measured latencies of one convolution site by (input channels, output channels).

    A depthwise site has one free count: its grid is a line over the input channels. ``inputs`` and
    ``outputs`` are the known pairs in ascending order; the other arrays are parallel to them. ``measured`` marks
    the pairs that are rows of a table, the others are reconstructed; None when all of them are rows.
    """

    site: ConvShape
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    latency_us: Array
    low_us: Array
    high_us: Array
    measured: NDArray[np.bool_] | None = None

    @classmethod
    def from_table(cls, table: Mapping[ConvShape, Measurement], shape: ConvShape) -> ChannelGrid:
        """Return the grid of all rows of ``table`` that are of the same site as ``shape``.

        Raises ``TableError``, with the command that measures them, when there are none.
        """
        site = shape.site
        # The comparison of the batch first: building the site of every row of a large table is slow.
        rows = {
            key: row
            for key, row in table.items()
            if key.batch == shape.batch and key.kernel == shape.kernel and key.site == site
        }
        if not rows:
            raise TableError(
                f"the table has no row of the convolution {shape.text}; add it with: gharial profile MODEL "
                f"--batch {shape.batch} --precision {shape.precision} --out TABLE"
            )
        return cls.from_rows(rows)

    @classmethod
    def from_rows(cls, rows: Mapping[ConvShape, Measurement]) -> ChannelGrid:
        """Return the grid of ``rows``, which must all be of one site."""
        shapes = sorted(rows, key=lambda shape: (shape.in_channels, shape.out_channels))
        sites = {shape.site for shape in shapes}
        if len(sites) != 1:
            raise InputError(f"a channel grid is of one convolution site, not of {len(sites)}")
        columns = [rows[shape] for shape in shapes]
        return cls(
            site=sites.pop(),
            inputs=np.array([shape.in_channels for shape in shapes], dtype=np.int64),
            outputs=np.array([shape.out_channels for shape in shapes], dtype=np.int64),
            latency_us=np.array([row.latency_us for row in columns]),
            low_us=np.array([row.low_us for row in columns]),
            high_us=np.array([row.high_us for row in columns]),
        )

    @classmethod
    def from_reconstruction(cls, found: Reconstruction) -> ChannelGrid:
        """Return the grid of all points of ``found``, with those that were not measured marked."""
        shape = found.latency_us.shape
        inputs = np.broadcast_to(found.inputs[:, None], shape).ravel()
        outputs = np.broadcast_to(found.outputs[None], shape).ravel()
        if found.site.depthwise:
            outputs = inputs * (found.site.out_channels // found.site.in_channels)
        return cls(
            found.site,
            inputs,
            outputs,
            found.latency_us.ravel(),
            found.low_us.ravel(),
            found.high_us.ravel(),
            found.measured.ravel(),
        )

    def measured_only(self) -> ChannelGrid:
        """Return the grid without its reconstructed points."""
        if self.measured is None:
            return self
        names = ("inputs", "outputs", "latency_us", "low_us", "high_us")
        kept = {name: getattr(self, name)[self.measured] for name in names}
        return replace(self, **kept, measured=None)

    @property
    def filled(self) -> float:
        """The known part of the pairs that the counts of the two sides span."""
        span = len(np.unique(self.inputs)) * (1 if self.linked else len(np.unique(self.outputs)))
        return len(self.inputs) / span

    @property
    def linked(self) -> bool:
        """Whether one count decides both sides: the site is depthwise."""
        return self.site.depthwise

    @property
    def largest(self) -> tuple[int, int]:
        """The largest measured counts of the two sides, each for itself."""
        return int(self.inputs.max()), int(self.outputs.max())

    def at(self, in_channels: int, out_channels: int) -> GridPoint:
        """Return the latency at two counts: the measured row, else the cheapest one that it fits into.

        Raises ``TableError`` beyond the measured counts, ``InputError`` for counts below 1.
        """
        if min(in_channels, out_channels) < 1:
            raise InputError(f"a convolution has at least one channel, not {in_channels} to {out_channels}")
        exact = (self.inputs == in_channels) & (self.outputs == out_channels)
        fits = (self.inputs >= in_channels) & (self.outputs >= out_channels)
        if not fits.any():
            raise TableError(self._beyond(in_channels, out_channels))
        chosen = exact if exact.any() else fits
        best = int(np.flatnonzero(chosen)[np.argmin(self.latency_us[chosen])])
        source = "measured" if exact.any() else "padded"
        if self.measured is not None and not self.measured[best]:
            source = "reconstructed" if exact.any() else "padded, reconstructed"
        return GridPoint(
            float(self.latency_us[best]),
            float(self.low_us[best]),
            float(self.high_us[best]),
            source,
            (int(self.inputs[best]), int(self.outputs[best])),
        )

    def _beyond(self, in_channels: int, out_channels: int) -> str:
        shape = self.site
        return (
            f"{in_channels} to {out_channels} channels of the convolution k{shape.kernel[0]} "
            f"{shape.height}x{shape.width} {shape.pattern} are beyond the table, whose counts end at "
            f"{self.largest[0]} and {self.largest[1]}; profile a network that has them"
        )

    def dense(
        self, kind: Kind = "envelope", *, max_in: int | None = None, max_out: int | None = None
    ) -> Array:
        """Return microseconds at all counts: shape (max_in + 1, max_out + 1), or (max_in + 1,) if linked.

        Row and column 0 are zero: without channels there is no convolution. ``envelope`` is ``L*`` of the
        module; ``raw`` has the measured latencies where there are any and ``L*`` between them, so it need not
        be monotone. The default extent is all that was measured. Raises ``TableError`` for an extent beyond.
        """
        if kind not in KINDS:
            raise InputError(f"unknown kind of matrix {kind!r}; known are {', '.join(KINDS)}")
        rows = self.largest[0] if max_in is None else max_in
        columns = self.largest[1] if max_out is None else max_out
        if self.linked:
            return self._line(kind, rows)
        size = (max(rows, self.largest[0]) + 1, max(columns, self.largest[1]) + 1)
        points = np.full(size, np.inf)
        points[self.inputs, self.outputs] = self.latency_us
        reverse = points[::-1, ::-1]
        result = np.minimum.accumulate(np.minimum.accumulate(reverse, axis=0), axis=1)[::-1, ::-1].copy()
        if kind == "raw":
            result[self.inputs, self.outputs] = self.latency_us
        result[0, :] = result[:, 0] = 0.0
        result = result[: rows + 1, : columns + 1]
        if not np.isfinite(result[-1, -1]):
            raise TableError(self._beyond(rows, columns))
        return np.ascontiguousarray(result)

    def _line(self, kind: Kind, top: int) -> Array:
        points = np.full(max(top, self.largest[0]) + 1, np.inf)
        points[self.inputs] = self.latency_us
        result = np.minimum.accumulate(points[::-1])[::-1].copy()
        if kind == "raw":
            result[self.inputs] = self.latency_us
        result[0] = 0.0
        result = result[: top + 1]
        if not np.isfinite(result[-1]):
            raise TableError(self._beyond(top, top * (self.site.out_channels // self.site.in_channels)))
        return np.ascontiguousarray(result)

    def efficient_counts(
        self, side: Literal["in", "out"], *, other: int | None = None, rtol: float = 0.02
    ) -> tuple[int, ...]:
        """Return the counts of one side that are the last of their plateau, the other side at ``other``.

        By default the other side is at its largest measured count. See the function of the same name.
        """
        dense = self.dense("envelope")
        if dense.ndim == 1:
            return efficient_counts(dense, rtol=rtol)
        line = dense[:, dense.shape[1] - 1 if other is None else other]
        if side == "out":
            line = dense[dense.shape[0] - 1 if other is None else other]
        return efficient_counts(line, rtol=rtol)


def efficient_counts(costs: Sequence[float] | Array, *, rtol: float = 0.02) -> tuple[int, ...]:
    """Return the counts that no larger count matches in cost, ascending; the largest always belongs.

    ``costs[c]`` is a non-decreasing cost (an envelope) of ``c`` channels. A step of less than ``rtol`` of the
    larger cost is taken for noise. 0 does not belong.
    """
    values = np.asarray(costs, dtype=np.float64)
    chosen = [len(values) - 1]
    for count in range(len(values) - 2, 0, -1):
        if values[count] < values[chosen[-1]] * (1.0 - rtol):
            chosen.append(count)
    return tuple(reversed(chosen))
