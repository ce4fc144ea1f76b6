"""The expectation of a network's latency under independent channel gates, with its gradient.

With independent keep probabilities the number of open channels of a group is Poisson-binomial. A site that
reads ``a`` and writes ``b`` channels costs ``E[L] = P_in^T L P_out``; at 0/1 probabilities that is the table's
value, and its gradient is the expected cost of one more channel. ``L P_out`` and ``P_in^T L`` are both the parts
of the value and its derivatives with respect to the two distributions, so value and gradient come from one pass,
on the windows of counts that are likely at all (``counts``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from latency_model.errors import InputError
from latency_model.expectation.counts import CountDistributions
from latency_model.expectation.joint import joint_expectation
from latency_model.expectation.moments import MomentDistributions
from latency_model.expectation.parts import CountAxis, Part, Segments, reduce_network
from latency_model.network import NetworkCost

__all__ = ["ExpectedLatency"]

Array = NDArray[Any]
Mode = Literal["exact", "fast"]

# What the windows of counts may miss of each distribution.
_TAILS = {"exact": 1e-15, "fast": 2e-3}


class ExpectedLatency:
    """Expected microseconds of the operators of ``network``, given keep probabilities per channel group.

    ``matrices`` has one array per convolution, by name: ``[in count, out count]``, or ``[in count]`` for a
    depthwise one, and such arrays for those other operators that have a price (``LatencyModel.matrices`` makes
    them). They may be any function of the counts: envelope, raw staircase, convex minorant, or ``smoothed``
    ones. Gates of different groups are independent; sites that share a group share its count, also where one
    site reads and writes the same group. An axis of several terms (concat) has the sum of their counts. The
    correction of a latency model is not included.

    ``mode`` is ``exact``, in float64, leaving out counts whose probabilities sum to less than 1e-15 (``counts``),
    or ``fast``, in float32, from moments of the gates and without the 2e-3 least likely counts (``moments``).
    Measured on five networks the fast value is within 6e-4 of the exact one, its gradient within some percent
    in norm, but not where the exact gradient nearly vanishes (a plateau), and only the exact mode is monotone
    where the matrices are. At 0/1 gates both are the table's value. All is computed on the CPU wherever the
    gates are: some ten thousand probabilities travel, not the matrices. The gradient is first-order only.
    Raises ``InputError`` when a matrix is missing or too small.
    """

    def __init__(
        self, network: NetworkCost, matrices: Mapping[str, NDArray[np.float64]], *, mode: Mode = "exact"
    ) -> None:
        if mode not in _TAILS:
            raise InputError(f"unknown mode {mode!r} of the expectation; known are {', '.join(_TAILS)}")
        self.network, self.mode = network, mode
        reduced = reduce_network(network, matrices)
        self._constant, self._shared, self._groups = reduced.constant, reduced.shared, reduced.groups
        inside = {g for part in self._shared for axis in (part.inputs, part.outputs) for g, _ in axis.terms}
        self._coupled = tuple(group for group in self._groups if group in inside)
        places = {group: place for place, group in enumerate(self._groups)}
        axes = dict.fromkeys(a for p in reduced.parts for a in (p.inputs, p.outputs) if a is not None)
        counter = CountDistributions if mode == "exact" else MomentDistributions
        self._counts = counter(
            [network.groups[group] for group in self._groups],
            [{places[group]: times for group, times in axis.terms} for axis in axes],
            tail=_TAILS[mode],
        )
        self.kind = torch.float64 if mode == "exact" else torch.float32
        self._type = np.float64 if mode == "exact" else np.float32
        places_of = {axis: place for place, axis in enumerate(axes)}
        self._views: list[_View] = []
        known: dict[tuple[int, bytes], int] = {}
        self._sites = [self._site(part, places_of, known) for part in reduced.parts]

    def _site(
        self, part: Part, places: Mapping[CountAxis, int], known: dict[tuple[int, bytes], int]
    ) -> tuple[int, int, Array]:
        """Return a part as the numbers of its views (the second is -1 for a line) and its matrix."""
        numbers = []
        for axis, segments in ((part.inputs, part.rows), (part.outputs, part.columns)):
            if axis is None:
                numbers.append(-1)
                continue
            key = places[axis], b"" if segments is None else segments.first.tobytes()
            if key not in known:
                known[key] = len(self._views)
                self._views.append(_View(key[0], segments))
            numbers.append(known[key])
        return numbers[0], numbers[1], part.matrix.astype(self._type, copy=False)

    def __call__(self, keep: Mapping[str, Tensor]) -> Tensor:
        """Return the expected latency as a float64 scalar on the device of ``keep``.

        ``keep[group]`` has one probability per channel; a group that is not named is kept whole. Raises
        ``InputError`` for an unknown group, another number of channels, or what is no probability.
        """
        for group, gates in keep.items():
            size = self.network.groups.get(group)
            if size is None:
                raise InputError(f"{self.network.name} has no channel group {group!r}")
            if gates.ndim != 1 or gates.shape[0] != size:
                raise InputError(f"channel group {group} has {size} channels, not {tuple(gates.shape)}")
        device = next(iter(keep.values())).device if keep else torch.device("cpu")
        if not self._groups:
            return torch.full((), self._constant, dtype=torch.float64, device=device)
        given = [keep[group] if group in keep else self._whole(group, device) for group in self._groups]
        wanted = torch.is_grad_enabled() and any(gates.requires_grad for gates in given)
        total: Tensor = _Evaluation.apply(self, wanted, *given)
        if self._shared:
            whole = {
                group: gates
                for group, gates in zip(self._groups, given, strict=True)
                if group in self._coupled
            }
            total = total + joint_expectation(self._shared, whole, device)
        return total

    def _whole(self, group: str, device: torch.device) -> Tensor:
        return torch.ones(self.network.groups[group], dtype=torch.float64, device=device)

    def evaluate(self, keep: Array, *, gradient: bool) -> tuple[float, Array | None]:
        """Return the expectation at the keep probabilities of all used groups in a row, and its gradient.

        Sites whose two sides share a group are not included.
        """
        if not (keep.min() >= 0 and keep.max() <= 1):
            raise InputError("keep probabilities must be numbers from 0 to 1")
        windows = self._counts.windows(keep)
        pmfs: list[Array] = [pmf.astype(self._type, copy=False) for pmf in windows.pmf]
        seen, pooled, slopes = [], [], []
        for view in self._views:
            place, pmf, slope = view.cut(windows.low[view.axis], pmfs[view.axis], windows.slope[view.axis])
            seen.append(place)
            pooled.append(pmf)
            slopes.append(slope)
        value = self._constant
        for inputs, outputs, matrix in self._sites:
            into = pooled[inputs]
            if outputs < 0:
                by_row = matrix[seen[inputs]]
            else:
                window = matrix[seen[inputs], seen[outputs]]
                by_row = window @ pooled[outputs]
                if gradient:
                    slopes[outputs] += into @ window
            if gradient:
                slopes[inputs] += by_row
            value += float(into @ by_row)
        if not gradient:
            return value, None
        for view, slope in zip(self._views, slopes, strict=True):
            view.spread(slope, windows.low[view.axis], windows.slope[view.axis])
        return value, windows.gradient()


@dataclass(frozen=True)
class _View:
    """An axis as some matrices have it: with all its counts, or with runs of equal ones stored once."""

    axis: int
    segments: Segments | None

    def cut(self, low: int, pmf: Array, slope: Array) -> tuple[slice, Array, Array]:
        """Return the slices of a window in the matrices, their probabilities, and room for their derivatives."""
        end = low + len(pmf)
        if self.segments is None:
            return slice(low, end), pmf, slope
        of = self.segments.of
        first, last = int(of[low]), int(of[end - 1]) + 1
        starts = self.segments.first[first:last] - low
        starts[0] = 0
        return slice(first, last), np.add.reduceat(pmf, starts), np.zeros(last - first)

    def spread(self, slope: Array, low: int, total: Array) -> None:
        """Add the derivatives by slice to those by count."""
        if self.segments is not None:
            of = self.segments.of[low : low + len(total)]
            total += slope[of - of[0]]


class _Evaluation(torch.autograd.Function):
    """Value and gradient at once; the backward pass only scales."""

    @staticmethod
    def forward(ctx: Any, latency: ExpectedLatency, wanted: bool, *keeps: Tensor) -> Tensor:
        together = torch.cat(keeps)
        value, gradient = latency.evaluate(together.to("cpu", latency.kind).numpy(), gradient=wanted)
        if gradient is not None:
            ctx.gradient = torch.from_numpy(gradient).to(together.device, together.dtype)
            ctx.pieces = [(gates.shape[0], gates.device, gates.dtype) for gates in keeps]
        return torch.full((), value, dtype=torch.float64, device=together.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        scaled = ctx.gradient * outer.to(ctx.gradient.dtype)
        pieces = scaled.split([size for size, _, _ in ctx.pieces])
        if any(kind[1:] != (scaled.device, scaled.dtype) for kind in ctx.pieces):
            pieces = [
                piece.to(device, dtype) for piece, (_, device, dtype) in zip(pieces, ctx.pieces, strict=True)
            ]
        return None, None, *pieces
