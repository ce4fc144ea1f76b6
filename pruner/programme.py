"""The integer programme of channel counts: what costs as a function of binaries, and HiGHS to solve it.

One binary variable per (group, candidate count). An axis that several groups feed (a concatenation) has binaries of its
own, one for each candidate of the sum, of which the one is set that the sum of the groups' counts falls to. A site
between two axes gets one continuous variable per pair of candidates, tied to the binaries by its marginals, so that
the bilinear cost of the pair is linear and exact at integer points. Solved by HiGHS (Huangfu and Hall 2018) through
scipy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from latency_model.errors import GharialError
from latency_model.network import Channels
from pruner.candidates import sum_candidates
from pruner.cost import Cost

__all__ = ["BlockGroups", "Losses", "Programme", "Solution"]

# name of a removable block -> groups that live only inside it
BlockGroups = Mapping[str, Sequence[str]]
# group -> count -> rise of the loss, see pruner.sensitivity
Losses = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Solution:
    """Counts per group, the proven relative gap, and the costs by the programme: where sums were rounded up, more."""

    counts: dict[str, int]
    gap: float
    costs: tuple[float, ...]


class Programme:
    """The variables and constraints, built once; solved for a value or for the least cost.

    ``stairs`` are the costs, in order, whose plateaus give sums of groups their candidates; by default ``costs``.
    """

    def __init__(
        self,
        costs: Sequence[Cost],
        candidates: Mapping[str, Sequence[int]],
        blocks: BlockGroups,
        *,
        stairs: Sequence[Cost] = (),
    ):
        self.costs, self.blocks = costs, blocks
        self._stairs = stairs or costs
        self.choices = candidates
        self.start: dict[str, int] = {}
        self.size = 0
        self._levels: dict[str, Sequence[int]] = {}
        self._integer: list[int] = []
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._pairs: dict[tuple[str, str], int] = {}
        self.constants: list[float] = []
        for group, choice in self.choices.items():
            self._add_choice(group, choice)
        for groups in blocks.values():
            free = [g for g in groups if 0 in self.choices[g]]
            for left, right in itertools.pairwise(free):
                self._row({self.start[left]: 1.0, self.start[right]: -1.0}, 0.0, 0.0)
        self.linear = [self._linearise(cost) for cost in costs]

    def _add_choice(self, key: str, levels: Sequence[int]) -> None:
        """Add a binary for each of ``levels``, exactly one of them set."""
        self.start[key], self._levels[key] = self.size, levels
        self._integer += range(self.size, self.size + len(levels))
        self.size += len(levels)
        self._row({self.start[key] + i: 1.0 for i in range(len(levels))}, 1.0, 1.0)

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
            left, right = (self._variable(axis) for axis in (site.inputs, site.outputs))
            into, out = self._counts(site.inputs, left), self._counts(site.outputs, right)
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

    def _variable(self, axis: Channels) -> str | None:
        """Return whose binaries decide ``axis``: its one free group, the sum of several, or None for none."""
        free = [name for name, _ in axis.terms if len(self.choices[name]) > 1]
        if len(free) < 2:
            return free[0] if free else None
        key = f"{axis.fixed}+" + "+".join(f"{times}*{name}" for name, times in axis.terms)
        if key not in self.start:
            self._add_sum(key, axis, free)
        return key

    def _add_sum(self, key: str, axis: Channels, free: Sequence[str]) -> None:
        """Add the binaries of a sum of groups: set is the first candidate that the sum does not pass."""
        least, most = (
            axis.count({name: self.choices[name][end] for name, _ in axis.terms}) for end in (0, -1)
        )
        levels = sum_candidates(self._stairs, axis, least=least, most=most)
        self._add_choice(key, levels)
        times = dict(axis.terms)
        held = axis.count({name: 0 if name in free else self.choices[name][-1] for name, _ in axis.terms})
        total = {
            self.start[name] + i: float(-times[name] * count)
            for name in free
            for i, count in enumerate(self.choices[name])
        }
        first = self.start[key]
        at_most = {first + i: float(level) for i, level in enumerate(levels)}
        above = {first + i: float(level + 1) for i, level in enumerate((least - 1, *levels[:-1]))}
        # held + sum <= the level, and held + sum > the level before.
        self._row({**total, **at_most}, float(held), np.inf)
        self._row({**total, **above}, -np.inf, float(held))

    def _counts(self, axis: Channels, key: str | None) -> np.ndarray:
        """Return the counts of ``axis`` at the candidates of what decides it."""
        full = {name: self.choices[name][-1] for name, _ in axis.terms}
        if key is None:
            return np.array([axis.count(full)])
        if key not in self.choices:
            return np.array(self._levels[key])
        return np.array([axis.count({**full, key: count}) for count in self.choices[key]])

    def _add_line(self, linear: dict[int, float], key: str | None, values: np.ndarray) -> float:
        """Add a cost that depends on one choice; without one it is a constant, returned."""
        if key is None:
            return float(np.ravel(values)[0])
        for index, value in enumerate(values):
            column = self.start[key] + index
            linear[column] = linear.get(column, 0.0) + float(value)
        return 0.0

    def _pair_variables(self, left: str, right: str) -> int:
        if (left, right) in self._pairs:
            return self._pairs[left, right]
        rows, columns = len(self._levels[left]), len(self._levels[right])
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
    ) -> Solution | None:
        """Return the counts that maximise ``objective`` with each cost within its bounds, or None."""
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
        integrality[self._integer] = 1
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
        costs = tuple(
            constant + sum(value * float(result.x[column]) for column, value in linear.items())
            for linear, constant in zip(self.linear, self.constants, strict=True)
        )
        return Solution(counts, float(result.mip_gap or 0.0), costs)

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
