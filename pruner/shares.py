"""Channel counts of a method that fixes them itself: given shares, scaled together until the budget is used.

A group keeps the hardware-efficient count that is nearest to ``factor * share`` of its channels. As the factor
grows from 0 the groups step from one efficient count to the next, each where the nearest count changes; the cost
never falls on the way, so the last affordable step is found by bisection. Groups that step at the same factor do
so one after another, in the order of the graph: the budget is used up to a step of one group.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from latency_model.errors import BudgetError
from pruner.allocate import Allocation, fill
from pruner.cost import Cost

__all__ = ["allocate_shares"]


def allocate_shares(
    limits: Sequence[tuple[Cost, float]],
    channels: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    choices: Mapping[str, Sequence[int]],
) -> Allocation:
    """Return the counts nearest to the largest common multiple of ``shares`` within every limit.

    ``limits`` pairs each cost with its upper bound; ``choices`` are the counts that are considered per group, of
    which 0 is not taken: shares remove no block. Raises ``BudgetError`` with the least reachable cost when even
    the least counts do not fit.
    """
    costs = [cost for cost, _ in limits]
    options = {name: sorted(count for count in counts if count > 0) for name, counts in choices.items()}
    least = {name: counts[0] for name, counts in options.items()}
    sizes = costs[0].network.groups
    steps = sorted(
        ((low + high) / 2 / (shares[name] * sizes[name]), order, high, name)
        for order, (name, counts) in enumerate(options.items())
        for low, high in pairwise(counts)
    )

    def after(number: int) -> dict[str, int]:
        return least | {name: high for _, _, high, name in steps[:number]}

    def too_dear(number: int) -> bool:
        counts = after(number)
        return any(cost.value(counts) > limit * (1 + 1e-9) for cost, limit in limits)

    if too_dear(0):
        cost, limit = next((c, most) for c, most in limits if c.value(least) > most * (1 + 1e-9))
        reached = cost.value(least)
        raise BudgetError(
            f"the budget of {limit / cost.full:.3f}x {cost.metric} cannot be reached with these shares, which remove "
            f"no block: the least is {reached / cost.full:.3f}x ({reached:.6g}); raise the budget or choose another "
            "method"
        )
    counts = fill(costs, after(bisect.bisect_left(range(1, len(steps) + 1), True, key=too_dear)))
    return Allocation(
        counts=counts,
        blocks=(),
        costs=tuple(cost.value(counts) for cost in costs),
        value=float(sum(np.sort(channels[name])[::-1][:n].sum() for name, n in counts.items())),
        gap=0.0,
    )
