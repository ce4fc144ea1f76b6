"""Which points of many channel grids to measure, so that the rest can be reconstructed from them.

In rounds: first an even cover that meets every row and column of the large grids, so that a step in one
axis is seen whatever the other; then points where the reconstruction (``latency_model.reconstruct``) is least
certain: far from what is known, where left-out points are badly predicted, and where the kernel changes
between neighbours. Sites share the budget by how hard they turn out to be: error falls about as one over the
root of the points, so the least total error gives a site (size x difficulty) ^ (2/3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.kriging import fit_weights
from latency_model.measurement import Measurement
from latency_model.reconstruct import LEAST, GridModel
from latency_model.shapes import ConvShape

__all__ = ["AdaptivePlan", "Round", "SiteGrid", "profile_adaptively", "site_grids"]

BUDGET = 0.05
ROUNDS = 5
_FIRST = 0.5  # part of the budget in the first round
_SMALLEST = 12  # points of a site, or all that it has
_LARGEST_PART = 0.6  # of a grid
_SIZE_POWER = 0.8  # below 1: a small grid's points count for more than a large one's
_POWER = 2.0 / 3.0
_CANDIDATES = 800
_SWITCH = 0.7  # what a change of kernel between neighbours adds to the uncertainty
_PLASTIC = 1.32471795724474602596


@dataclass(frozen=True)
class SiteGrid:
    """The wanted points of one site on the grid that its counts span; ``wanted`` is indexed [input, output]."""

    full: ConvShape
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    wanted: NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Number of wanted points."""
        return int(self.wanted.sum())

    def shape(self, cell: Sequence[int]) -> ConvShape:
        """Return the configuration of a cell (position of the input count, of the output count)."""
        count = int(self.inputs[cell[0]])
        if self.full.depthwise:
            return self.full.with_channels(count, count * (self.full.out_channels // self.full.in_channels))
        return self.full.with_channels(count, int(self.outputs[cell[1]]))

    def cover(self, count: int) -> list[tuple[int, int]]:
        """Return ``count`` wanted cells, evenly: the corners, then an additive recurrence in both axes.

        The recurrence is Roberts's R2 sequence, whose projections on each axis are even as well.
        """
        rows, columns = self.wanted.shape
        count = min(count, self.size)
        ends = {(rows - 1, columns - 1): 0, (0, 0): 0, (rows - 1, 0): 0, (0, columns - 1): 0}
        chosen = {cell: None for cell in ends if self.wanted[cell]}
        turn = 0
        while len(chosen) < count and turn < 40 * self.wanted.size:
            turn += 1
            cell = (
                int((0.5 + turn / _PLASTIC) % 1.0 * rows),
                int((0.5 + turn / _PLASTIC**2) % 1.0 * columns),
            )
            if self.wanted[cell]:
                chosen.setdefault(cell)
        for i, j in np.argwhere(self.wanted):
            if len(chosen) >= count:
                break
            chosen.setdefault((int(i), int(j)))
        return list(chosen)[:count]


def site_grids(shapes: Iterable[ConvShape]) -> list[SiteGrid]:
    """Return the grids that ``shapes`` (the output of ``plan``) are made of, one per site, in order."""
    groups: dict[ConvShape, list[ConvShape]] = {}
    for shape in dict.fromkeys(shapes):
        groups.setdefault(shape.site, []).append(shape)
    found = []
    for site, group in sorted(groups.items()):
        inputs = np.unique([shape.in_channels for shape in group])
        line = site.depthwise
        outputs = np.unique([1 if line else shape.out_channels for shape in group])
        wanted = np.zeros((len(inputs), len(outputs)), dtype=bool)
        rows = np.searchsorted(inputs, [shape.in_channels for shape in group])
        columns = np.searchsorted(outputs, [1 if line else shape.out_channels for shape in group])
        wanted[rows, columns] = True
        full = max(group, key=lambda shape: (shape.in_channels, shape.out_channels))
        found.append(SiteGrid(full, inputs, outputs, wanted))
    return found


@dataclass
class AdaptivePlan:
    """Chooses what to measure of ``grids``, at most ``budget`` of their points, in ``ROUNDS`` rounds.

    A function of the rows alone: each round is worked out again from the rows of the rounds before it, so a
    plan that was killed goes on where it was, and ends at the same points. Small grids get a dozen points
    whatever the budget, taken from the others' share; ``limit`` is the number of points at most.
    Raises ``InputError`` for a budget that is no part.
    """

    grids: Sequence[SiteGrid]
    budget: float = BUDGET
    _batches: list[list[ConvShape]] = field(default_factory=list, init=False, repr=False)
    _cells: list[list[tuple[int, int]]] = field(default_factory=list, init=False, repr=False)
    _weights: NDArray[np.float64] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.budget <= 1.0:
            raise InputError(f"a budget is a part of the points, above 0 and up to 1, not {self.budget}")
        self._cells = [[] for _ in self.grids]

    @property
    def points(self) -> int:
        """Points of all grids."""
        return sum(grid.size for grid in self.grids)

    @property
    def limit(self) -> int:
        """Points that are measured at most."""
        return max(math.floor(self.budget * self.points), sum(self._least()))

    @property
    def round(self) -> int:
        """The round that the last batch belongs to, from 1."""
        return len(self._batches)

    def _least(self) -> list[int]:
        if self.budget == 1.0:
            return [grid.size for grid in self.grids]
        # A tight budget leaves the smallest grids fewer points, but enough to fit four numbers.
        fair = int(self.budget * self.points / max(2 * len(self.grids), 1))
        return [min(grid.size, max(LEAST, min(_SMALLEST, fair))) for grid in self.grids]

    def next_batch(
        self, rows: Mapping[ConvShape, Measurement], failed: Collection[ConvShape] = ()
    ) -> list[ConvShape]:
        """Return what to measure next given ``rows``; empty when the plan is done.

        ``failed`` are configurations that cannot be measured: they are not asked for again.
        """
        while True:
            if self._batches:
                asked = [s for s in self._batches[-1] if s not in rows and s not in failed]
                if asked:
                    return asked
            if len(self._batches) >= ROUNDS:
                return []
            cells = self._first() if not self._batches else self._further(rows)
            if not any(cells):
                return []
            for known, new in zip(self._cells, cells, strict=True):
                known.extend(new)
            self._batches.append(
                [grid.shape(cell) for grid, new in zip(self.grids, cells, strict=True) for cell in new]
            )

    def _first(self) -> list[list[tuple[int, int]]]:
        part = self.limit if self.budget == 1.0 else int(self.limit * _FIRST)
        counts = self._share(np.ones(len(self.grids)), part)
        return [grid.cover(count) for grid, count in zip(self.grids, counts, strict=True)]

    def _further(self, rows: Mapping[ConvShape, Measurement]) -> list[list[tuple[int, int]]]:
        known = [len(cells) for cells in self._cells]
        target = int(self.limit * (_FIRST + (1.0 - _FIRST) * len(self._batches) / (ROUNDS - 1)))
        room = min(target, self.limit) - sum(known)
        models = [self._model(grid, cells, rows) for grid, cells in zip(self.grids, self._cells, strict=True)]
        samples = [model.sample for model in models if model is not None]
        if room <= 0 or not samples:
            return []
        self._weights = fit_weights(samples, self._weights)
        hard = np.zeros(len(models))
        for index, model in enumerate(models):
            if model is not None:
                model.condition(self._weights)
                hard[index] = max(model.error, 1e-4) * math.sqrt(known[index])
        wanted = self._share(hard, target)
        more = np.array([max(want - have, 0) for want, have in zip(wanted, known, strict=True)], dtype=float)
        if more.sum() > room:
            more = np.floor(more * room / more.sum())
        return [
            [] if model is None else _uncertain(grid, model, cells, int(count))
            for grid, model, cells, count in zip(self.grids, models, self._cells, more, strict=True)
        ]

    def _model(
        self, grid: SiteGrid, cells: Sequence[tuple[int, int]], rows: Mapping[ConvShape, Measurement]
    ) -> GridModel | None:
        seen = {shape: rows[shape] for shape in map(grid.shape, cells) if shape in rows}
        if len(seen) < min(LEAST, grid.size):
            return None
        return GridModel(seen, [int(c) for c in grid.inputs], [int(c) for c in grid.outputs])

    def _share(self, hard: NDArray[np.float64], total: int) -> list[int]:
        """Return points per grid, ``total`` in all: (size x difficulty) ^ (2/3) between the bounds."""
        sizes = np.array([grid.size for grid in self.grids], dtype=np.float64)
        least = np.array(self._least(), dtype=np.float64)
        most = sizes if self.budget == 1.0 else np.maximum(np.floor(_LARGEST_PART * sizes), least)
        weight = (sizes**_SIZE_POWER * hard) ** _POWER
        low, high = 0.0, float(most.max()) / max(float(weight[weight > 0].min(initial=1.0)), 1e-12)
        for _ in range(80):
            middle = (low + high) / 2
            if np.floor(np.clip(middle * weight, least, most)).sum() > total:
                high = middle
            else:
                low = middle
        return [int(n) for n in np.floor(np.clip(low * weight, least, most))]


def _uncertain(
    grid: SiteGrid, model: GridModel, known: Sequence[tuple[int, int]], count: int
) -> list[tuple[int, int]]:
    """Return the ``count`` cells, of an even part of the free ones, that are the least certain."""
    assert model.posterior is not None
    free = grid.wanted.copy()
    free[tuple(np.array(known).T)] = False
    cells = np.argwhere(free)
    count = min(count, len(cells))
    if not count:
        return []
    limit = max(_CANDIDATES, 2 * count)
    if len(cells) > limit:  # drawn, not strided: a stride would keep to one alignment of the channels
        chosen = np.random.default_rng(len(known)).permutation(len(cells))[:limit]
        cells = cells[np.sort(chosen)]
    scale = model.local_scale()[cells[:, 0], cells[:, 1]] + _SWITCH * _switches(model, cells)
    return [(int(i), int(j)) for i, j in cells[model.posterior.most_uncertain(cells, scale, count)]]


def _switches(model: GridModel, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 for each cell whose two nearest measured points ran different kernels, else 0."""
    names = [row.kernels[0][0] if row.kernels else "" for row in model.rows]
    if len(set(names)) < 2:
        return np.zeros(len(cells))
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    kernel = np.array([number[name] for name in names])
    size = np.maximum(np.array(model.surface.shape) - 1, 1)
    apart = np.abs(cells[:, None] / size - model.cells[None] / size).sum(axis=-1)
    nearest = np.argpartition(apart, 1, axis=1)[:, :2]
    return (kernel[nearest[:, 0]] != kernel[nearest[:, 1]]).astype(np.float64)


@dataclass(frozen=True)
class Round:
    """What a caller is told before a batch: the round, points measured so far, and points at most."""

    number: int
    measured: int
    limit: int


def profile_adaptively(
    measure: Callable[[Sequence[ConvShape]], tuple[Mapping[ConvShape, Measurement], Collection[ConvShape]]],
    plan: AdaptivePlan,
    *,
    rows: Mapping[ConvShape, Measurement] | None = None,
    tell: Callable[[Round], None] | None = None,
) -> list[ConvShape]:
    """Measure the batches of ``plan`` until it is done; return all configurations that it asked for.

    ``measure`` is given a batch and returns all rows so far and the configurations that failed; ``rows`` are
    those that exist before. It may raise: a later call with the same plan's grids goes on.
    """
    seen: Mapping[ConvShape, Measurement] = rows or {}
    failed: Collection[ConvShape] = ()
    asked: dict[ConvShape, None] = {}
    while batch := plan.next_batch(seen, failed):
        if tell is not None:
            tell(Round(plan.round, len(asked), plan.limit))
        asked.update(dict.fromkeys(batch))
        seen, failed = measure(batch)
    return list(asked)
