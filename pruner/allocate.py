"""Channel counts that are worth most under a budget: an exact integer programme on the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latency_model.errors import BudgetError
from pruner.candidates import joint_candidates
from pruner.cost import Cost
from pruner.programme import BlockGroups, Losses, Programme, Solution

__all__ = ["Allocation", "BlockGroups", "Losses", "allocate", "choices", "fill", "minimum"]

# How often bounds are raised by what rounding sums up to their candidates left unused.
_ROUNDS = 3


@dataclass(frozen=True)
class Allocation:
    """Channel counts per group (0 inside removed blocks) and what they cost.

    ``costs`` are in the order of the given limits. ``gap`` is the proven relative distance from the best
    possible value: 0 means optimal.
    """

    counts: Mapping[str, int]
    blocks: tuple[str, ...]
    costs: tuple[float, ...]
    value: float
    gap: float


def choices(
    costs: Sequence[Cost], blocks: BlockGroups, *, floors: Mapping[str, int], stairs: Cost | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the counts that are considered per group: efficient ones, 0 inside removable blocks.

    Efficient in ``stairs`` where that is given and knows the group, else in the first cost that does.
    """
    inside = {group for groups in blocks.values() for group in groups}
    candidates = joint_candidates(_seen(costs, stairs), floors=floors)
    return {group: (0, *counts) if group in inside else counts for group, counts in candidates.items()}


def _seen(costs: Sequence[Cost], stairs: Cost | None) -> tuple[Cost, ...]:
    """Return the costs in the order in which they say what counts are efficient."""
    return tuple(costs) if stairs is None else (stairs, *costs)


def _programme(
    costs: Sequence[Cost], blocks: BlockGroups, *, floors: Mapping[str, int], stairs: Cost | None
) -> Programme:
    candidates = choices(costs, blocks, floors=floors, stairs=stairs)
    return Programme(costs, candidates, blocks, stairs=_seen(costs, stairs))


def minimum(
    costs: Sequence[Cost],
    blocks: BlockGroups,
    *,
    floors: Mapping[str, int],
    stairs: Cost | None = None,
    seconds: float = 60.0,
) -> float:
    """Return the least value that the first cost can reach above the floors, blocks removable.

    With ``stairs`` among the counts that are efficient in it.
    """
    programme = _programme(costs, blocks, floors=floors, stairs=stairs)
    objective = np.zeros(programme.size)
    for column, value in programme.linear[0].items():
        objective[column] = -value / costs[0].full
    solved = programme.solve(objective, [(-np.inf, np.inf)] * len(costs), seconds=seconds)
    assert solved is not None  # every group has a candidate, and nothing else binds
    return costs[0].value(solved.counts)


def allocate(
    limits: Sequence[tuple[Cost, float]],
    channels: Mapping[str, np.ndarray],
    blocks: BlockGroups,
    *,
    floors: Mapping[str, int],
    losses: Losses | None = None,
    stairs: Cost | None = None,
    slack: float = 0.015,
    seconds: float = 60.0,
) -> Allocation:
    """Return the counts of greatest total value within every limit.

    ``limits`` pairs each cost with its upper bound; ``channels[group]`` values single channels (≥ 0). The
    ``losses`` replaces the sum of values by measured rises of the loss, to be least in sum. The
    first cost is also kept above ``(1 - slack)`` of its bound where that is possible: a budget is to be
    used. ``floors`` are the least counts of groups outside removed blocks. With ``stairs``, a cost without a bound,
    counts are efficient in it: a budget of multiply-accumulates is met with channels that the device runs well.
    Raises ``BudgetError`` with the reachable minimum when no counts fit.
    """
    costs = [cost for cost, _ in limits]
    programme = _programme(costs, blocks, floors=floors, stairs=stairs)
    worth = programme.worth(channels, losses or {})
    upper = [(-np.inf, limit) for _, limit in limits]
    tight = [((1 - slack) * limits[0][1], limits[0][1]), *upper[1:]]
    solved = programme.solve(worth, tight, seconds=seconds) or programme.solve(worth, upper, seconds=seconds)
    solved = _unrounded(programme, worth, limits, solved, slack=slack, seconds=seconds)
    if solved is None:
        least = minimum(costs, blocks, floors=floors, stairs=stairs, seconds=seconds)
        cost, limit = limits[0]
        raise BudgetError(
            f"the budget of {limit / cost.full:.3f}x {cost.metric} cannot be reached: the least is "
            f"{least / cost.full:.3f}x ({least:.6g}); raise the budget"
        )
    counts = solved.counts
    removed = tuple(
        name for name, groups in blocks.items() if groups and all(counts[group] == 0 for group in groups)
    )
    counts = fill(costs, counts)
    return Allocation(
        counts=counts,
        blocks=removed,
        costs=tuple(cost.value(counts) for cost in costs),
        value=float(sum(np.sort(channels[g])[::-1][:n].sum() for g, n in counts.items())),
        gap=solved.gap,
    )


def _unrounded(
    programme: Programme,
    worth: np.ndarray,
    limits: Sequence[tuple[Cost, float]],
    solved: Solution | None,
    *,
    slack: float,
    seconds: float,
) -> Solution | None:
    """Return a solution that uses what rounding the sums of groups up to their candidates left of the first bound.

    The bounds of the programme are raised by its cost over the real one until the real one is near its bound.
    """
    best = solved
    for _ in range(_ROUNDS):
        if solved is None:
            break
        real = [cost.value(solved.counts) for cost, _ in limits]
        if real[0] >= (1 - slack) * limits[0][1] or real[0] >= solved.costs[0] * (1 - 1e-6):
            break
        bounds = [
            (-np.inf, limit * max(1.0, rounded / value) if value > 0 else limit)
            for (_, limit), rounded, value in zip(limits, solved.costs, real, strict=True)
        ]
        solved = programme.solve(worth, bounds, seconds=seconds)
        if solved is None or any(cost.value(solved.counts) > limit * (1 + 1e-9) for cost, limit in limits):
            break
        best = solved
    return best


def fill(costs: Sequence[Cost], counts: Mapping[str, int]) -> dict[str, int]:
    """Give each group the most channels that cost nothing: the last count of the plateau it stands on."""
    filled = dict(counts)
    before = [cost.value(filled) for cost in costs]
    for group, size in costs[0].network.groups.items():
        if filled[group] == 0:
            continue
        for count in range(size, filled[group], -1):
            trial = {**filled, group: count}
            if all(c.value(trial) <= b * (1 + 1e-9) for c, b in zip(costs, before, strict=True)):
                filled = trial
                break
    return filled
