"""What one more channel of a group costs in the present state of the gates: the price that learning is told.

``TablePrice`` is the gradient of the expected cost. ``HalfWidthPrice`` is what Gator's authors charged: the marginal
multiply-accumulates of a group times a constant, of how much of the latency and how much of the multiply-accumulates
goes when that one group has half of its channels (E. Passov et al., arXiv 2205.15404, and their public code).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from latency_model.errors import InputError
from latency_model.expectation import ExpectedLatency
from latency_model.grid import convex_minorant
from pruner.cost import Cost, macs_cost

__all__ = ["PRICES", "HalfWidthPrice", "Price", "TablePrice", "half_width_multipliers", "open_price"]

PRICES = ("table", "half-width")


class Price(Protocol):
    """The expected relative cost of a network under gates, and what a channel adds to it."""

    def __call__(self, keep: dict[str, Tensor], sharpness: float) -> tuple[float, dict[str, float]]:
        """Return (expected relative cost, mean marginal cost of an open channel per group)."""
        ...

    def value(self, keep: Mapping[str, Tensor]) -> float:
        """Return the expected relative cost."""
        ...


class TablePrice:
    """The gradient of the expected cost: along the minorant of each staircase, then along the staircase itself.

    The exact expectation is flat on a plateau, just where pruning must begin; ``sharpness`` 0 takes the biconvex
    minorant only, 1 the staircase only.
    """

    def __init__(self, cost: Cost) -> None:
        hull = {name: convex_minorant(matrix) for name, matrix in cost.matrices.items()}
        self._hull = ExpectedLatency(cost.network, hull)
        self._exact = ExpectedLatency(cost.network, cost.matrices)
        self._scale, self._constant, self._full = cost.scale, cost.constant, cost.full

    def __call__(self, keep: dict[str, Tensor], sharpness: float) -> tuple[float, dict[str, float]]:
        """Return (expected relative cost, mean marginal cost of an open channel per group)."""
        leaves = {name: p.detach().double().requires_grad_() for name, p in keep.items()}
        value = (1 - sharpness) * self._hull(leaves)
        if sharpness > 0:
            value = value + sharpness * self._exact(leaves)
        relative = (self._scale * value + self._constant) / self._full
        grads = torch.autograd.grad(relative, list(leaves.values()), allow_unused=True)
        prices = {}
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
            prices[name] = torch.zeros_like(leaf) if grad is None else grad
        return float(relative.detach()), {name: float(price.mean()) for name, price in prices.items()}

    @torch.no_grad()
    def value(self, keep: Mapping[str, Tensor]) -> float:
        """Return the expected relative cost along the minorant."""
        value = self._hull({name: p.double() for name, p in keep.items()})
        return float(self._scale * value + self._constant) / self._full


class HalfWidthPrice:
    """The marginal multiply-accumulates of a group times its ``half_width_multipliers``, as the original had it.

    The cost that the budget bounds is still that of the table: only what a channel is charged differs.
    """

    def __init__(self, cost: Cost) -> None:
        self._table, self._macs = TablePrice(cost), TablePrice(macs_cost(cost.network))
        self.multipliers = half_width_multipliers(cost)

    def __call__(self, keep: dict[str, Tensor], sharpness: float) -> tuple[float, dict[str, float]]:
        """Return (expected relative cost, mean charge for an open channel per group)."""
        _, macs = self._macs(keep, 0.0)
        ratio, _ = self._table(keep, sharpness)
        return ratio, {name: price * self.multipliers[name] for name, price in macs.items()}

    def value(self, keep: Mapping[str, Tensor]) -> float:
        """Return the expected relative cost along the minorant."""
        return self._table.value(keep)


def half_width_multipliers(cost: Cost) -> dict[str, float]:
    """Return per group how much of ``cost`` goes at half its channels, over how much of the multiply-accumulates.

    The original timed a network for each; here the table says it. A group whose multiply-accumulates do not fall
    has 0: it costs nothing.
    """
    macs = macs_cost(cost.network)
    found = {}
    for name, size in cost.network.groups.items():
        half = {name: size // 2}
        saved, work = 1 - cost.value(half) / cost.full, 1 - macs.value(half) / macs.full
        found[name] = saved / work if work > 0 else 0.0
    return found


def open_price(name: str, cost: Cost) -> Price:
    """Return the price called ``name``; ``InputError`` for an unknown one."""
    if name == "table":
        return TablePrice(cost)
    if name == "half-width":
        return HalfWidthPrice(cost)
    raise InputError(f"no price {name!r}; it is one of {', '.join(PRICES)}")
