"""The latency of a network at real channel counts, for methods that learn widths and not gates.

Between the whole counts around it, each site's matrix is interpolated linearly along both axes (bilinear), along
the line of a count that decides both sides, and between the multiples that the counts of a grouped convolution
can have. For an axis of one group that is the expectation under ``floor(x)`` open gates and one that is open
with the rest of ``x``. At whole counts it is the table's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from latency_model.errors import InputError
from latency_model.expectation.parts import Segments, reduce_network
from latency_model.network import NetworkCost

__all__ = ["InterpolatedLatency"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class InterpolatedLatency:
    """Microseconds of the operators of ``network`` at real channel counts per group, differentiable.

    ``matrices`` as for ``ExpectedLatency``; groups are shared in the same way: a site's sides have the sums of
    their groups' counts. The gradient at a whole count is that of the cell above it, at a full count that of
    the cell below; first-order only. Raises ``InputError`` when a matrix is missing or too small.
    """

    def __init__(self, network: NetworkCost, matrices: Mapping[str, NDArray[np.float64]]) -> None:
        self.network = network
        reduced = reduce_network(network, matrices)
        self._constant, self._groups = reduced.constant, reduced.groups
        tables: list[tuple[Array, list[tuple[dict[str, int], int, int, Segments | None]]]] = []
        for part in reduced.parts:
            axes = [(dict(part.inputs.terms), 0, part.inputs.total, part.rows)]
            if part.outputs is not None:
                axes.append((dict(part.outputs.terms), 0, part.outputs.total, part.columns))
            tables.append((part.matrix, axes))
        for both in reduced.shared:
            axes = [
                (dict(axis.terms), axis.fixed, size - 1, None)
                for axis, size in zip((both.inputs, both.outputs), both.matrix.shape, strict=True)
            ]
            tables.append((both.matrix, axes))
        # Everything in a few flat arrays: one gather for all corners of all sites.
        self._values = np.concatenate([matrix.ravel() for matrix, _ in tables] or [np.zeros(0)])
        sizes = [matrix.size for matrix, _ in tables]
        self._base = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        self._stride = np.array([m.shape[1] if m.ndim == 2 else 1 for m, _ in tables], dtype=np.int64)
        # A line is a matrix of one column.
        none: tuple[dict[str, int], int, int, Segments | None] = ({}, 0, 0, None)
        sides = [[axes[0] for _, axes in tables], [axes[1] if len(axes) > 1 else none for _, axes in tables]]
        self._sides = [_Side(side, self._groups) for side in sides]

    def __call__(self, counts: Mapping[str, Tensor]) -> Tensor:
        """Return the latency as a float64 scalar on the device of ``counts``.

        ``counts[group]`` is a scalar tensor, from 0 to the size of the group; a group that is not named is kept
        whole. Raises ``InputError`` for an unknown group, another shape, or a count outside.
        """
        for group, count in counts.items():
            if group not in self.network.groups:
                raise InputError(f"{self.network.name} has no channel group {group!r}")
            if count.numel() != 1:
                raise InputError(
                    f"the count of channel group {group} is one number, not {tuple(count.shape)}"
                )
        device = next(iter(counts.values())).device if counts else torch.device("cpu")
        if not self._groups:
            return torch.full((), self._constant, dtype=torch.float64, device=device)
        given = [
            counts[group].reshape(1).double()
            if group in counts
            else torch.full((1,), self.network.groups[group], dtype=torch.float64, device=device)
            for group in self._groups
        ]
        value: Tensor = _Interpolation.apply(self, torch.cat(given))
        return value

    def evaluate(self, counts: Array) -> tuple[float, Array]:
        """Return the latency at the counts of all used groups in a row, and its gradient."""
        full = np.array([self.network.groups[group] for group in self._groups], dtype=np.float64)
        for place in np.flatnonzero(~((counts >= 0) & (counts <= full))):
            raise InputError(
                f"channel group {self._groups[place]} has 0 to {full[place]:.0f} channels, not {counts[place]}"
            )
        (row, next_row, down), (column, next_column, right) = (side.cells(counts) for side in self._sides)
        upper, lower = self._base + row * self._stride, self._base + next_row * self._stride
        corners = self._values[
            np.stack((upper + column, upper + next_column, lower + column, lower + next_column))
        ]
        top = corners[0] + right * (corners[1] - corners[0])
        bottom = corners[2] + right * (corners[3] - corners[2])
        left_slope = corners[1] - corners[0]
        across = left_slope + down * (corners[3] - corners[2] - left_slope)
        value = self._constant + float((top + down * (bottom - top)).sum())
        return value, (bottom - top) @ self._sides[0].times + across @ self._sides[1].times


class _Side:
    """The counts of all tables on one side, and where they lie in the stored matrices."""

    def __init__(
        self, axes: list[tuple[dict[str, int], int, int, Segments | None]], groups: tuple[str, ...]
    ) -> None:
        self.times = np.array(
            [[terms.get(g, 0) for g in groups] for terms, _, _, _ in axes], dtype=np.float64
        )
        self.times = self.times.reshape(len(axes), len(groups))
        self._fixed = np.array([fixed for _, fixed, _, _ in axes], dtype=np.float64)
        self._last = np.array([max(0, total - 1) for _, _, total, _ in axes], dtype=np.int64)
        self._total = np.array([total for _, _, total, _ in axes], dtype=np.int64)
        maps = [np.arange(total + 1) if same is None else same.of for _, _, total, same in axes]
        self._map = np.concatenate(maps or [np.zeros(0, dtype=np.int64)])
        self._start = np.cumsum([0, *(len(places) for places in maps)])[:-1].astype(np.int64)

    def cells(self, counts: Array) -> tuple[Indices, Indices, Array]:
        """Return the stored slices below and above each count, and how far it is between them."""
        exact = self.times @ counts + self._fixed
        below = np.clip(np.floor(exact).astype(np.int64), 0, self._last)
        above = np.minimum(below + 1, self._total)
        return self._map[self._start + below], self._map[self._start + above], exact - below


class _Interpolation(torch.autograd.Function):
    """Value and gradient at once; the backward pass only scales."""

    @staticmethod
    def forward(ctx: Any, latency: InterpolatedLatency, counts: Tensor) -> Tensor:
        value, gradient = latency.evaluate(counts.cpu().numpy())
        ctx.gradient = torch.from_numpy(gradient).to(counts.device)
        return torch.full((), value, dtype=torch.float64, device=counts.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.gradient * outer
