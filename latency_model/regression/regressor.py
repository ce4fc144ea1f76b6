"""The regression of one table: formulas of kernels, which kernel will run, and trees for what is left.

1. Rows are sorted into families: by the name of their kernel, by which kernel a CPU runs for their shape, where that
   explains them (``families.fits_paths``), or by which formula fits (``families``).
2. Each family has a formula of tiles, waves, bytes and padding (``experts``), or of what a CPU's kernel counts.
3. Trees say how likely each family is for a convolution (extremely randomised trees; Geurts et al. 2006).
4. Once for every family that may run: its formula, corrected by trees on the logarithm of what is left (stochastic
   gradient boosting, Friedman 2002, and extremely randomised trees), which see the formulas of the other families
   too (``inputs``). Of what the single trees say of all families the number with the least expected relative error
   (``mixing``): which kernel a runtime picks is partly chance, and a mean of two kernels is neither.
5. Beside it trees that correct the mean of the formulas without knowing the family. The two are averaged, with
   weights.

Fitting needs scikit-learn; a fitted regressor does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.errors import ModelError
from latency_model.regression.counts import counts, path_features
from latency_model.regression.drift import added_us, drift_us, with_delay
from latency_model.regression.experts import Expert, search, unseen
from latency_model.regression.families import LEAST_ROWS, by_fit, by_kernel, by_path, fits_paths, structure
from latency_model.regression.features import SIZES, baseline_us, features
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.growing import Settings, averaged, boosted, router
from latency_model.regression.inputs import likely, mean_inputs, own_inputs, router_inputs
from latency_model.regression.mixing import least_relative_error, points
from latency_model.regression.parts import BLOCKED, TILINGS
from latency_model.regression.trees import Forest
from latency_model.regression.units import units_of

__all__ = ["FEWEST", "RowRegressor", "Settings"]

FEWEST = 30
_POINTS = 8  # that stand for what single trees say of a family
_SPREAD = 0.6  # of them: single trees are further apart than their mean is off
# Weight of the prediction by families beside the direct one. Families that were found by how formulas fit the very
# latencies are harder to foretell than those of kernels.
_OWN_NAMED, _OWN_FOUND = 0.7, 0.3
_BLOCK = 5_000


@dataclass(frozen=True)
class RowRegressor:
    """Predicts the latency of convolutions that were not measured.

    ``boosted`` and ``averaged`` correct the mean of the formulas, ``own_boosted`` and ``own_averaged`` that of one
    family, which counts ``own_weight`` of the whole. ``drift_us`` is what was taken out of the rows (see ``drift``).
    ``spread_weights`` scale the parts of the ``spread``. ``lowest`` and ``highest`` are the smallest and largest
    features of the rows.
    """

    families: tuple[str, ...]
    experts: tuple[Expert, ...]
    router: Forest | None
    boosted: Forest
    averaged: Forest
    own_boosted: Forest
    own_averaged: Forest
    lowest: Array
    highest: Array
    drift_us: float = 0.0
    own_weight: float = _OWN_NAMED
    spread_weights: tuple[float, float, float] = (0.03, 0.3, 0.5)

    @classmethod
    def fit(
        cls,
        columns: ConvColumns,
        latency_us: Array,
        *,
        kernels: Sequence[str] | None = None,
        settings: Settings | None = None,
        place: Array | None = None,
    ) -> RowRegressor:
        """Return the regressor of rows in the order in which they were measured.

        ``kernels`` are the names of their kernels, as far as known ("" where not): the main kernel, or all of a row
        separated by semicolons, which tells more. ``place`` is where each row stood in the whole run, from 0 to 1,
        when ``columns`` are a part of it. Raises ``ModelError`` for fewer than 30 rows.
        """
        count = len(columns)
        if count < FEWEST:
            raise ModelError(f"a regression needs at least {FEWEST} rows, not {count}; measure more")
        settings = settings or Settings()
        sizes = Geometry.of(columns)
        plain = features(columns, sizes)
        place = np.linspace(0.0, 1.0, count) if place is None else place
        structures = structure(columns, sizes)
        named = by_kernel(kernels, structures) if kernels is not None and any(kernels) else None
        units = units_of(sizes, latency_us, named or structures)
        clean, drift = latency_us, 0.0
        on_paths = named is None and fits_paths(sizes, latency_us, structures, units=units)
        if on_paths:
            plain, units = np.column_stack([plain, path_features(sizes)]), 1
        for _ in range(3):
            labels = named or (by_path(sizes) if on_paths else by_fit(sizes, clean, structures, units=units))
            families, label, experts = _experts(sizes, clean, labels, units, blocked=on_paths)
            costs = _costs(experts, sizes)
            found = drift_us(latency_us, np.exp(costs[np.arange(count), label]), place)
            if abs(found - drift) <= 0.01 * abs(found):
                break
            drift = found
            clean = latency_us - added_us(latency_us, drift, place)
        for number, expert in enumerate(experts):
            # As of rows that it has not seen, which is how it will be asked.
            mine = np.flatnonzero(label == number)
            if len(mine) >= LEAST_ROWS:
                costs[mine, number] = np.log(unseen(expert, sizes.take(mine), clean[mine]))
        base = np.log(baseline_us(sizes))
        seen = router_inputs(plain, base, costs)
        routes, chance = router(seen, label, len(families), settings)
        mixed = (chance * costs).sum(axis=1)
        mean = mean_inputs(seen, costs, chance, sizes, units)
        rows = np.arange(count)
        cost = costs[rows, label]
        own = own_inputs(plain, base, costs, chance, rows, label)
        logs = np.log(clean)
        return cls(
            families,
            experts,
            routes,
            boosted(mean, logs - mixed, settings),
            averaged(mean, logs - mixed, settings),
            boosted(own, logs - cost, settings),
            averaged(own, logs - cost, settings),
            plain.min(axis=0),
            plain.max(axis=0),
            drift_us=drift,
            own_weight=_OWN_NAMED if named else _OWN_FOUND,
        )

    def predict(self, columns: ConvColumns, *, without_drift: bool = False) -> Array:
        """Return microseconds, shape (n,), with the least expected relative error.

        Where a drift was found the rows to be predicted have it too, but nobody knows how much of it: each is
        taken to be as likely anywhere in the run, see ``drift.with_delay``. ``without_drift`` returns what they
        would take in its middle.
        """
        return self._predict(columns, without_drift=without_drift)[0]

    def expected(self, columns: ConvColumns) -> Array:
        """Return the mean microseconds, shape (n,): what many such convolutions take together, as in a sum.

        ``predict`` is lower where it is open which kernel runs, since an error counts less against a larger truth.
        """
        # A delay that is as likely earlier as later leaves the mean as it is.
        return self._blocks(columns)[1]

    def predict_parts(self, columns: ConvColumns) -> tuple[Array, Array]:
        """Return microseconds and the parts of the spread, shapes (n,) and (n, 3)."""
        return self._predict(columns, without_drift=False)

    def spread(self, columns: ConvColumns) -> Array:
        """Return how far off a prediction may typically be, relative to it: its difficulty, not yet calibrated."""
        _, apart = self.predict_parts(columns)
        found: Array = apart @ np.array(self.spread_weights)
        return found

    def features(self, columns: ConvColumns, sizes: Geometry) -> Array:
        """Return what the trees see of each convolution itself, shape (n, count)."""
        plain = features(columns, sizes)
        return np.column_stack([plain, path_features(sizes)]) if self.experts[0].tiling.blocked else plain

    def beyond(self, columns: ConvColumns) -> NDArray[np.bool_]:
        """Return which convolutions are outside what the rows span in any size: extrapolated."""
        found = features(columns, Geometry.of(columns))[:, :SIZES]
        margin = 1e-9
        below, above = self.lowest[:SIZES] - margin, self.highest[:SIZES] + margin
        outside = (found < below) | (found > above)
        return np.asarray(outside.any(axis=1), dtype=np.bool_)

    def calibrated(self, latency_us: Array, predicted_us: Array, apart: Array) -> RowRegressor:
        """Return the regressor with the spread that explains the errors of out-of-fold predictions.

        ``apart`` are the parts of the spread of the models that made them, from ``predict_parts``.
        """
        from scipy.optimize import nnls

        if not len(latency_us) == len(predicted_us) == len(apart):
            raise ModelError(
                f"{len(predicted_us)} predictions have {len(latency_us)} latencies; give one for each"
            )
        errors = np.abs(np.log(latency_us / predicted_us))
        limit = np.quantile(errors, 0.98)
        weights, _ = nnls(apart, np.minimum(errors, limit))
        floor = max(float(weights[0]), 0.2 * float(np.median(errors)), 1e-4)
        return replace(self, spread_weights=(floor, float(weights[1]), float(weights[2])))

    def _predict(self, columns: ConvColumns, *, without_drift: bool) -> tuple[Array, Array]:
        found, _, apart = self._blocks(columns)
        if self.drift_us and not without_drift:
            found = with_delay(found, self.drift_us)
        return found, apart

    def _blocks(self, columns: ConvColumns) -> tuple[Array, Array, Array]:
        found, mean, apart = np.empty(len(columns)), np.empty(len(columns)), np.empty((len(columns), 3))
        for begin in range(0, len(columns), _BLOCK):
            rows = np.arange(begin, min(begin + _BLOCK, len(columns)))
            found[rows], mean[rows], apart[rows] = self._block(columns.take(rows))
        return found, mean, apart

    def _block(self, columns: ConvColumns) -> tuple[Array, Array, Array]:
        """Return the least relative error, the mean, and the parts of the spread."""
        count, sizes = len(columns), Geometry.of(columns)
        plain, costs, base = (
            self.features(columns, sizes),
            _costs(self.experts, sizes),
            np.log(baseline_us(sizes)),
        )
        seen = router_inputs(plain, base, costs)
        chance = np.ones((count, 1)) if self.router is None else self.router.predict(seen)
        mixed = (chance * costs).sum(axis=1)
        mean = mean_inputs(seen, costs, chance, sizes, self.experts[0].units)
        trees = mixed[:, None] + self.averaged.each(mean)
        direct = (
            mixed + self.boosted.predict(mean)[:, 0] + least_relative_error(trees, np.ones_like(trees))
        ) / 2.0

        looked = likely(chance)
        row, family = np.nonzero(looked)
        own = own_inputs(plain, base, costs, chance, row, family)
        alone = self.own_averaged.each(own)
        middle = alone.mean(axis=1)
        each = np.zeros((count, len(self.families)))
        each[row, family] = costs[row, family] + (self.own_boosted.predict(own)[:, 0] + middle) / 2.0
        weights = np.where(looked, chance, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        # Families that are not looked at weigh nothing, wherever they stand.
        each = np.where(looked, each, each.max(axis=1, keepdims=True, where=looked, initial=-np.inf))
        spread = _SPREAD * (points(alone, _POINTS) - middle[:, None])
        around = np.zeros((*each.shape, spread.shape[1]))
        around[row, family] = spread
        kernel = least_relative_error(
            (each[:, :, None] + around).reshape(count, -1), np.repeat(weights, around.shape[2], axis=1)
        )
        between = np.sqrt((weights * (each - kernel[:, None]) ** 2).sum(axis=1))
        apart = np.column_stack([np.ones(count), between, np.abs(kernel - direct)])
        expected = ((weights * np.exp(each)).sum(axis=1) + np.exp(trees).mean(axis=1)) / 2.0
        return np.exp(self.own_weight * kernel + (1.0 - self.own_weight) * direct), expected, apart


def _experts(
    sizes: Geometry, latency_us: Array, labels: Sequence[str], units: int, *, blocked: bool = False
) -> tuple[tuple[str, ...], NDArray[np.int64], tuple[Expert, ...]]:
    """Return the families, the family of each row, and a formula for each; rows of small ones go where they fit."""
    counts = Counter(labels)
    families = tuple(name for name, count in counts.most_common() if count >= LEAST_ROWS)
    if not families:
        families, labels = ("all",), ["all"] * len(labels)
    places = {name: place for place, name in enumerate(families)}
    label = np.array([places.get(name, -1) for name in labels])
    experts = []
    for place in range(len(families)):
        rows = np.flatnonzero(label == place)
        tilings = (BLOCKED,) if blocked else TILINGS
        experts.append(search(sizes.take(rows), latency_us[rows], units=units, tilings=tilings))
    lost = np.flatnonzero(label < 0)
    if len(lost):
        costs = _costs(experts, sizes.take(lost))
        label[lost] = np.abs(costs - np.log(latency_us[lost])[:, None]).argmin(axis=1)
    return families, label, tuple(experts)


def _costs(experts: Sequence[Expert], sizes: Geometry) -> Array:
    known = counts(sizes) if experts[0].tiling.blocked else None
    return np.column_stack([np.log(expert.predict(sizes, known)) for expert in experts])
