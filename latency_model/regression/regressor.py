"""The regression of one table: formulas of kernels, which kernel will run, and trees for what is left.

1. Rows are sorted into families: by the name of their kernel, or by which formula fits (``families``).
2. Each family has a formula of tiles, waves and bytes (``experts``).
3. Trees say how likely each family is for a convolution (extremely randomised trees; Geurts et al. 2006), which
   makes a weighted geometric mean of the formulas.
4. Trees correct it: stochastic gradient boosting (Friedman 2002) and extremely randomised trees, averaged, on the
   logarithm of what is left.

Fitting needs scikit-learn; a fitted regressor does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.errors import ModelError
from latency_model.regression.drift import added_us, drift_us
from latency_model.regression.experts import UNITS, Expert, search
from latency_model.regression.families import LEAST_ROWS, by_fit, by_kernel, structure
from latency_model.regression.features import baseline_us, features
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.trees import Forest

__all__ = ["FEWEST", "RowRegressor", "Settings"]

FEWEST = 30
_FOLDS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """How large the trees are; the defaults are those of the published figures."""

    classifying: int = 120
    boosted: int = 700
    rate: float = 0.05
    leaves: int = 24
    averaged: int = 150
    seed: int = 0


@dataclass(frozen=True)
class RowRegressor:
    """Predicts the latency of convolutions that were not measured.

    ``drift_us`` is what was taken out of the rows (see ``drift``). ``spread_weights`` scale the parts of the
    ``spread``. ``lowest`` and ``highest`` are the smallest and largest features of the rows.
    """

    families: tuple[str, ...]
    experts: tuple[Expert, ...]
    router: Forest | None
    boosted: Forest
    averaged: Forest
    lowest: Array
    highest: Array
    drift_us: float = 0.0
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

        ``kernels`` are the names of their main kernels, as far as known. ``place`` is where each row stood in the
        whole run, from 0 to 1, when ``columns`` are a part of it. Raises ``ModelError`` for fewer than 30 rows.
        """
        count = len(columns)
        if count < FEWEST:
            raise ModelError(f"a regression needs at least {FEWEST} rows, not {count}; measure more")
        settings = settings or Settings()
        sizes = Geometry.of(columns)
        plain = features(columns, sizes)
        place = np.linspace(0.0, 1.0, count) if place is None else place
        structures = structure(columns, sizes)
        named = None
        if kernels is not None and any(kernels):
            named = by_kernel(kernels, structures)
        units = _units(sizes, latency_us, named or structures)
        clean, drift = latency_us, 0.0
        for _ in range(3):
            labels = named or by_fit(sizes, clean, structures, units=units)
            families, label, experts = _experts(sizes, clean, labels, units)
            costs = _costs(experts, sizes)
            routed = np.sum(_one_hot(label, len(families)) * costs, axis=1)
            found = drift_us(latency_us, np.exp(routed), place)
            if abs(found - drift) <= 0.01 * abs(found):
                break
            drift = found
            clean = latency_us - added_us(latency_us, drift, place)
        seen = _seen(plain, costs, sizes)
        router, chance = _route(seen, label, len(families), settings)
        made = cls(families, experts, router, _EMPTY, _EMPTY, plain.min(axis=0), plain.max(axis=0), drift)
        inputs, mixed = made._inputs(seen, costs, chance)
        target = np.log(clean) - mixed
        return replace(
            made,
            boosted=_boosted(inputs, target, settings),
            averaged=_averaged(inputs, target, settings),
        )

    def predict(self, columns: ConvColumns) -> Array:
        """Return microseconds, shape (n,)."""
        return self._predict(columns)[0]

    def spread(self, columns: ConvColumns) -> Array:
        """Return how far off a prediction may typically be, relative to it: its difficulty, not yet calibrated."""
        _, apart = self._predict(columns)
        found: Array = apart @ np.array(self.spread_weights)
        return found

    def beyond(self, columns: ConvColumns) -> NDArray[np.bool_]:
        """Return which convolutions are outside what the rows span in any size: extrapolated."""
        found = features(columns, Geometry.of(columns))
        margin = 1e-9
        outside: NDArray[np.bool_] = ((found < self.lowest - margin) | (found > self.highest + margin))[
            :, :_SIZES
        ].any(axis=1)
        return outside

    def calibrated(
        self, columns: ConvColumns, latency_us: Array, predicted_us: Array, apart: Array
    ) -> RowRegressor:
        """Return the regressor with the spread that explains the errors of out-of-fold predictions.

        ``apart`` are the parts of the spread of the models that made them, from ``predict_parts``.
        """
        from scipy.optimize import nnls

        errors = np.abs(np.log(latency_us / predicted_us))
        limit = np.quantile(errors, 0.98)
        weights, _ = nnls(apart, np.minimum(errors, limit))
        floor = max(float(weights[0]), 0.2 * float(np.median(errors)), 1e-4)
        return replace(self, spread_weights=(floor, float(weights[1]), float(weights[2])))

    def predict_parts(self, columns: ConvColumns) -> tuple[Array, Array]:
        """Return microseconds and the parts of the spread, shapes (n,) and (n, 3)."""
        return self._predict(columns)

    def _predict(self, columns: ConvColumns) -> tuple[Array, Array]:
        if not len(columns):
            return np.zeros(0), np.zeros((0, 3))
        sizes = Geometry.of(columns)
        plain, costs = features(columns, sizes), _costs(self.experts, sizes)
        seen = _seen(plain, costs, sizes)
        chance = np.ones((len(columns), 1)) if self.router is None else self.router.predict(seen)
        inputs, mixed = self._inputs(seen, costs, chance)
        one, two = self.boosted.predict(inputs)[:, 0], self.averaged.predict(inputs)[:, 0]
        middle = mixed + (one + two) / 2.0
        between = np.sqrt(np.maximum((chance * (costs - mixed[:, None]) ** 2).sum(axis=1), 0.0))
        return np.exp(middle), np.column_stack([np.ones(len(columns)), between, np.abs(one - two)])

    def _inputs(self, seen: Array, costs: Array, chance: Array) -> tuple[Array, Array]:
        mixed = (chance * costs).sum(axis=1)
        return np.column_stack([seen, chance, costs - mixed[:, None]]), mixed


_SIZES = 23  # of the features those that are amounts
_EMPTY = Forest(
    *(np.zeros(1, dtype) for dtype in (np.int32, np.float32, np.int32, np.int32)),
    np.zeros((1, 1), np.float32),
    np.zeros(1, np.int32),
    0,
)


def _units(sizes: Geometry, latency_us: Array, labels: Sequence[str]) -> int:
    """Return the number of processors whose waves show best in the rows of the most frequent families."""
    names = np.array(labels)
    errors = np.zeros(len(UNITS))
    for name, count in Counter(labels).most_common(2):
        rows = np.flatnonzero(names == name)
        if count < LEAST_ROWS:
            continue
        for place, units in enumerate(UNITS):
            errors[place] += search(sizes.take(rows), latency_us[rows], units=units).error * count
    return UNITS[int(errors.argmin())]


def _experts(
    sizes: Geometry, latency_us: Array, labels: Sequence[str], units: int
) -> tuple[tuple[str, ...], NDArray[np.int64], tuple[Expert, ...]]:
    """Return the families, the family of each row, and a formula for each; small families join the largest."""
    counts = Counter(labels)
    families = tuple(name for name, count in counts.most_common() if count >= LEAST_ROWS)
    if not families:
        families, labels = ("all",), ["all"] * len(labels)
    places = {name: place for place, name in enumerate(families)}
    label = np.array([places.get(name, -1) for name in labels])
    experts = []
    for place in range(len(families)):
        rows = np.flatnonzero(label == place)
        experts.append(search(sizes.take(rows), latency_us[rows], units=units))
    lost = np.flatnonzero(label < 0)
    if len(lost):
        costs = _costs(experts, sizes.take(lost))
        label[lost] = np.abs(costs - np.log(latency_us[lost])[:, None]).argmin(axis=1)
    return families, label, tuple(experts)


def _costs(experts: Sequence[Expert], sizes: Geometry) -> Array:
    return np.column_stack([np.log(expert.predict(sizes)) for expert in experts])


def _seen(plain: Array, costs: Array, sizes: Geometry) -> Array:
    base = np.log(baseline_us(sizes))
    return np.column_stack([plain, costs - base[:, None]])


def _one_hot(label: NDArray[np.int64], count: int) -> Array:
    found: Array = np.eye(count)[label]
    return found


def _route(
    seen: Array, label: NDArray[np.int64], count: int, settings: Settings
) -> tuple[Forest | None, Array]:
    """Return the trees that tell families, and for each row the chances by trees that did not see it."""
    if count == 1:
        return None, np.ones((len(label), 1))
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import KFold

    def grown(rows: NDArray[np.int64]) -> Forest:
        trees = ExtraTreesClassifier(
            settings.classifying, max_features=0.3, min_samples_leaf=2, random_state=settings.seed
        )
        trees.fit(seen[rows].astype(np.float32), label[rows])
        forest = Forest.of((tree.tree_ for tree in trees.estimators_), scale=1.0 / settings.classifying)
        # All families have a column, also those that are not among these rows.
        value = np.zeros((len(forest.value), count), dtype=np.float32)
        value[:, trees.classes_] = forest.value / forest.value.sum(axis=1, keepdims=True)
        return replace(forest, value=value)

    everything = np.arange(len(label))
    chance = np.zeros((len(label), count))
    for train, test in KFold(_FOLDS, shuffle=True, random_state=settings.seed).split(everything):
        chance[test] = grown(train).predict(seen[test])
    return grown(everything), chance


def _boosted(inputs: Array, target: Array, settings: Settings) -> Forest:
    from sklearn.ensemble import GradientBoostingRegressor

    trees = GradientBoostingRegressor(
        n_estimators=settings.boosted,
        learning_rate=settings.rate,
        loss="huber",
        alpha=0.9,
        subsample=0.6,
        max_features=0.1,
        max_depth=None,
        max_leaf_nodes=settings.leaves,
        min_samples_leaf=5,
        init="zero",
        random_state=settings.seed,
    )
    trees.fit(inputs.astype(np.float32), target)
    return Forest.of((tree.tree_ for tree in trees.estimators_[:, 0]), scale=settings.rate)


def _averaged(inputs: Array, target: Array, settings: Settings) -> Forest:
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(settings.averaged, max_features=0.5, random_state=settings.seed)
    trees.fit(inputs.astype(np.float32), target)
    return Forest.of((tree.tree_ for tree in trees.estimators_), scale=1.0 / settings.averaged)


def state(regressor: RowRegressor) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a regressor as JSON-ready data and named arrays; ``restored`` makes it again."""
    arrays: dict[str, NDArray[Any]] = {"lowest": regressor.lowest, "highest": regressor.highest}
    for name in ("router", "boosted", "averaged"):
        forest = getattr(regressor, name)
        if forest is not None:
            arrays.update({f"{name}.{key}": value for key, value in forest.arrays().items()})
    data = {
        "families": list(regressor.families),
        "experts": [expert.to_json() for expert in regressor.experts],
        "drift_us": regressor.drift_us,
        "spread_weights": list(regressor.spread_weights),
    }
    return data, arrays


def restored(data: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RowRegressor:
    """Return the regressor that ``state`` took apart."""

    def forest(name: str) -> Forest | None:
        mine = {key.partition(".")[2]: value for key, value in arrays.items() if key.startswith(f"{name}.")}
        return Forest.from_arrays(mine) if mine else None

    boosted, averaged = forest("boosted"), forest("averaged")
    if boosted is None or averaged is None:
        raise ModelError("the saved regression lacks its trees; fit the model again")
    one, two, three = map(float, data["spread_weights"])
    return RowRegressor(
        tuple(data["families"]),
        tuple(Expert.from_json(expert) for expert in data["experts"]),
        forest("router"),
        boosted,
        averaged,
        arrays["lowest"],
        arrays["highest"],
        float(data["drift_us"]),
        (one, two, three),
    )
