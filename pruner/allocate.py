"""Channel counts that are worth most under a budget: an exact integer programme on the table.

One binary variable per (group, candidate count); a site between two groups gets one continuous variable
per pair of candidates, tied to the binaries by its marginals, so that the bilinear cost of the pair is
linear and exact at integer points. Removing a residual block sets all groups inside it to 0 together.
Solved by HiGHS (Huangfu and Hall 2018) through scipy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from latency_model.errors import BudgetError, GharialError
from latency_model.network import Channels
from pruner.candidates import joint_candidates
from pruner.cost import Cost

__all__ = ["Allocation", "BlockGroups", "Losses", "allocate", "choices", "fill", "minimum"]

# name of a removable block -> groups that live only inside it
BlockGroups = Mapping[str, Sequence[str]]
# group -> count -> rise of the loss, see pruner.sensitivity
Losses = Mapping[str, Mapping[int, float]]


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


class _Programme:
    """The variables and constraints, built once; solved for a value or for the least cost."""

    def __init__(self, costs: Sequence[Cost], candidates: Mapping[str, Sequence[int]], blocks: BlockGroups):
        self.costs, self.blocks = costs, blocks
        self.choices = candidates
        self.start: dict[str, int] = {}
        self.size = 0
        for group, choice in self.choices.items():
            self.start[group] = self.size
            self.size += len(choice)
        self.binaries = self.size
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._pairs: dict[tuple[str, str], int] = {}
        self.constants: list[float] = []
        for group, choice in self.choices.items():
            self._row({self.start[group] + i: 1.0 for i in range(len(choice))}, 1.0, 1.0)
        for groups in blocks.values():
            free = [g for g in groups if 0 in self.choices[g]]
            for left, right in itertools.pairwise(free):
                self._row({self.start[left]: 1.0, self.start[right]: -1.0}, 0.0, 0.0)
        self.linear = [self._linearise(cost) for cost in costs]

    def _row(self, terms: Mapping[int, float], low: float, high: float) -> None:
        row = len(self._low)
        self._entries += [(row, column, value) for column, value in terms.items()]
        self._low.append(low)
        self._high.append(high)

    def _linearise(self, cost: Cost) -> dict[int, float]:
        """Return the cost as coefficients of variables; adds the pair variables it needs."""
        linear: dict[int, float] = {}
        pairs: dict[tuple[str, str], np.ndarray] = {}
        constant = cost.constant
        for site in cost.sites:
            matrix = cost.scale * cost.matrices[site.name]
            left, right = (_variable_group(axis, self.choices) for axis in (site.inputs, site.outputs))
            into, out = self._counts(site.inputs), self._counts(site.outputs)
            if matrix.ndim == 1:
                constant += self._add_line(linear, left, matrix[into])
            elif left and right and left != right:
                block = matrix[np.ix_(into, out)]
                if (right, left) in pairs:
                    pairs[right, left] = pairs[right, left] + block.T
                else:
                    pairs[left, right] = pairs.get((left, right), 0) + block
            elif left and right:
                constant += self._add_line(linear, left, matrix[into, out])
            elif left:
                constant += self._add_line(linear, left, matrix[into, out[0]])
            else:
                constant += self._add_line(linear, right, matrix[into[0], out])
        for (left, right), block in pairs.items():
            first = self._pair_variables(left, right)
            for index, value in enumerate(block.ravel()):
                linear[first + index] = linear.get(first + index, 0.0) + float(value)
        self.constants.append(constant)
        return linear

    def _counts(self, axis: Channels) -> np.ndarray:
        group = _variable_group(axis, self.choices)
        if group is None:
            full = {name: self.choices[name][-1] for name, _ in axis.terms}
            return np.array([axis.count(full)])
        others = {name: self.choices[name][-1] for name, _ in axis.terms}
        return np.array([axis.count({**others, group: count}) for count in self.choices[group]])

    def _add_line(self, linear: dict[int, float], group: str | None, values: np.ndarray) -> float:
        """Add a cost that depends on one group; without a group it is a constant, returned."""
        if group is None:
            return float(np.ravel(values)[0])
        for index, value in enumerate(values):
            key = self.start[group] + index
            linear[key] = linear.get(key, 0.0) + float(value)
        return 0.0

    def _pair_variables(self, left: str, right: str) -> int:
        if (left, right) in self._pairs:
            return self._pairs[left, right]
        rows, columns = len(self.choices[left]), len(self.choices[right])
        first, self.size = self.size, self.size + rows * columns
        self._pairs[left, right] = first
        for i in range(rows):
            terms = {first + i * columns + j: 1.0 for j in range(columns)}
            self._row({**terms, self.start[left] + i: -1.0}, 0.0, 0.0)
        for j in range(columns):
            terms = {first + i * columns + j: 1.0 for i in range(rows)}
            self._row({**terms, self.start[right] + j: -1.0}, 0.0, 0.0)
        return first

    def solve(
        self,
        objective: np.ndarray,
        bounds: Sequence[tuple[float, float]],
        *,
        seconds: float,
    ) -> tuple[dict[str, int], float] | None:
        """Return (counts, gap) that maximise ``objective`` with each cost within its bounds, or None."""
        entries, low, high = list(self._entries), list(self._low), list(self._high)
        parts = zip(self.costs, self.linear, self.constants, bounds, strict=True)
        for cost, linear, constant, (least, most) in parts:
            # Scaled to about 1, so that the solver's tolerances mean the same for us and MACs.
            unit = cost.full
            entries += [(len(low), column, value / unit) for column, value in linear.items()]
            low.append((least - constant) / unit)
            high.append((most - constant) / unit)
        rows, columns, data = zip(*entries, strict=True)
        matrix = sparse.csr_array((data, (rows, columns)), shape=(len(low), self.size))
        integrality = np.zeros(self.size)
        integrality[: self.binaries] = 1
        result = milp(
            -objective,
            integrality=integrality,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, low, high),
            options={"time_limit": seconds, "mip_rel_gap": 1e-4},
        )
        if result.x is None:
            if result.status == 2:
                return None
            raise GharialError(f"the allocator found no answer in {seconds:.0f} s ({result.message})")
        counts = {}
        for group, choice in self.choices.items():
            picked = result.x[self.start[group] : self.start[group] + len(choice)]
            counts[group] = int(choice[int(np.argmax(picked))])
        return counts, float(result.mip_gap or 0.0)

    def worth(self, channels: Mapping[str, np.ndarray], losses: Losses) -> np.ndarray:
        """Return the objective: per (group, candidate) the sum of that many best channel values.

        With ``losses`` it is minus the loss, and the values only decide between equals.
        """
        objective = np.zeros(self.size)
        for group, choice in self.choices.items():
            best = np.concatenate([[0.0], np.cumsum(np.sort(channels[group])[::-1])])
            for index, count in enumerate(choice):
                objective[self.start[group] + index] = best[count]
        objective /= max(float(objective.max()), 1e-12)
        if losses:
            objective *= 1e-4 * max(max(rises.values()) for rises in losses.values())
            for group, rises in losses.items():
                counts = sorted(rises)
                for index, count in enumerate(self.choices[group]):
                    rise = np.interp(count, counts, [rises[c] for c in counts])
                    objective[self.start[group] + index] -= float(rise)
        return objective


def _summed_groups(cost: Cost) -> set[str]:
    """Groups that share an axis with others (concatenation): kept whole until their sum has a variable."""
    axes = [axis for site in cost.sites for axis in (site.inputs, site.outputs)]
    return {name for axis in axes if len(axis.terms) > 1 for name, _ in axis.terms}


def _variable_group(axis: Channels, choices: Mapping[str, Sequence[int]]) -> str | None:
    """Return the one group of ``axis`` that has more than one candidate."""
    free = [name for name, _ in axis.terms if len(choices[name]) > 1]
    return free[0] if free else None


def choices(
    costs: Sequence[Cost], blocks: BlockGroups, *, floors: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return the counts that are considered per group: efficient ones, 0 inside removable blocks."""
    inside = {group for groups in blocks.values() for group in groups}
    summed = _summed_groups(costs[0])
    candidates = joint_candidates(costs, floors=floors)
    return {
        group: (costs[0].network.groups[group],)
        if group in summed
        else ((0, *counts) if group in inside else counts)
        for group, counts in candidates.items()
    }


def minimum(
    costs: Sequence[Cost], blocks: BlockGroups, *, floors: Mapping[str, int], seconds: float = 60.0
) -> float:
    """Return the least value that the first cost can reach above the floors, blocks removable."""
    programme = _Programme(costs, choices(costs, blocks, floors=floors), blocks)
    objective = np.zeros(programme.size)
    for column, value in programme.linear[0].items():
        objective[column] = -value / costs[0].full
    solved = programme.solve(objective, [(-np.inf, np.inf)] * len(costs), seconds=seconds)
    assert solved is not None  # every group has a candidate, and nothing else binds
    return costs[0].value(solved[0])


def allocate(
    limits: Sequence[tuple[Cost, float]],
    channels: Mapping[str, np.ndarray],
    blocks: BlockGroups,
    *,
    floors: Mapping[str, int],
    losses: Losses | None = None,
    slack: float = 0.015,
    seconds: float = 60.0,
) -> Allocation:
    """Return the counts of greatest total value within every limit.

    ``limits`` pairs each cost with its upper bound; ``channels[group]`` values single channels (≥ 0). The
    ``losses`` replaces the sum of values by measured rises of the loss, to be least in sum. The
    first cost is also kept above ``(1 - slack)`` of its bound where that is possible: a budget is to be
    used. ``floors`` are the least counts of groups outside removed blocks. Raises ``BudgetError`` with the
    reachable minimum when no counts fit.
    """
    costs = [cost for cost, _ in limits]
    programme = _Programme(costs, choices(costs, blocks, floors=floors), blocks)
    worth = programme.worth(channels, losses or {})
    upper = [(-np.inf, limit) for _, limit in limits]
    tight = [((1 - slack) * limits[0][1], limits[0][1]), *upper[1:]]
    solved = programme.solve(worth, tight, seconds=seconds) or programme.solve(worth, upper, seconds=seconds)
    if solved is None:
        least = minimum(costs, blocks, floors=floors, seconds=seconds)
        cost, limit = limits[0]
        raise BudgetError(
            f"the budget of {limit / cost.full:.3f}x {cost.metric} cannot be reached: the least is "
            f"{least / cost.full:.3f}x ({least:.6g}); raise the budget"
        )
    counts, gap = solved
    removed = tuple(
        name for name, groups in blocks.items() if groups and all(counts[group] == 0 for group in groups)
    )
    counts = fill(costs, counts)
    return Allocation(
        counts=counts,
        blocks=removed,
        costs=tuple(cost.value(counts) for cost in costs),
        value=float(sum(np.sort(channels[g])[::-1][:n].sum() for g, n in counts.items())),
        gap=gap,
    )


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
