"""Kernels of the new device, as far as the names of the few samples tell: a formula for each, and which one runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.trees import Forest
from latency_model.transfer.carrying import same_algorithm
from latency_model.transfer.scaling import ERROR, contributions, scale, scaled_expert

__all__ = ["Named", "label_rows", "name_formulas", "route"]

_LEAST_ROWS = 5
_TREES = 200
_FOLDS = 5
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, eq=False)
class Named:
    """``experts`` of the kernels of the new device; ``label`` of shape (n,) is the place of each sample's."""

    experts: tuple[Expert, ...]
    label: NDArray[np.int64]


def label_rows(kernels: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return families of at least 5 rows, the most frequent first, and the place of each row's, -1 for none.

    Rare names go without their numbers, which are mostly sizes of tiles.
    """
    counts = Counter(kernels)
    names = [name if counts[name] >= _LEAST_ROWS else _NUMBER.sub("#", name) for name in kernels]
    counts = Counter(name for name in names if name)
    families = tuple(name for name, count in counts.most_common() if count >= _LEAST_ROWS)
    places = {name: place for place, name in enumerate(families)}
    return families, np.array([places.get(name, -1) for name in names], dtype=np.int64)


def name_formulas(
    experts: Sequence[Expert],
    sizes: Geometry,
    chance: Array,
    latency_us: Array,
    kernels: Sequence[str],
    *,
    units: int,
    common: Array,
) -> Named | None:
    """Return a formula for each kernel of the samples, None where the names tell less than two apart.

    Each kernel takes the formula of the other device, and of its tilings the one, that explains its rows best after
    scaling towards the ``common`` factors; ``chance`` on the other device counts as evidence.
    """
    families, label = label_rows(kernels)
    if len(families) < 2:
        return None
    typical = np.maximum(common, 1e-3)
    chosen = []
    for family in range(len(families)):
        rows = np.flatnonzero(label == family)
        mine, times, belief = sizes.take(rows), latency_us[rows], chance[rows].mean(axis=0)
        trials = []
        for k, expert in enumerate(experts):
            for tiling in same_algorithm(expert.tiling) or [expert.tiling]:
                trial = replace(expert, tiling=tiling, units=units)
                found = scale(contributions(mine, trial)[:, None, :], times, typical, common=0.2, rounds=2)
                doubt = -(ERROR**2) * float(np.log(belief[k] + 0.02)) / len(rows)
                trials.append((found.misfit + doubt, trial))
        chosen.append(min(trials, key=lambda each: each[0])[1])
    known = np.flatnonzero(label >= 0)
    costs = np.stack([contributions(sizes.take(known), expert) for expert in chosen], axis=1)
    costs = costs * np.eye(len(families))[label[known]][:, :, None]
    fitted = scale(costs, latency_us[known], typical, common=0.3)
    there = tuple(scaled_expert(expert, each) for expert, each in zip(chosen, fitted.factors, strict=True))
    lost = np.flatnonzero(label < 0)
    if len(lost):
        logs = np.column_stack([np.log(expert.predict(sizes.take(lost))) for expert in there])
        label[lost] = np.abs(logs - np.log(latency_us[lost])[:, None]).argmin(axis=1)
    return Named(there, label)


def route(seen: Array, label: NDArray[np.int64], count: int, *, seed: int) -> tuple[Forest, Array]:
    """Return trees that tell kernels, and the chances of each sample by trees that did not see it."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import KFold

    def grown(rows: NDArray[np.int64]) -> Forest:
        trees = ExtraTreesClassifier(_TREES, max_features=0.3, min_samples_leaf=2, random_state=seed)
        trees.fit(seen[rows].astype(np.float32), label[rows])
        forest = Forest.of((tree.tree_ for tree in trees.estimators_), scale=1.0 / _TREES)
        value = np.zeros((len(forest.value), count), dtype=np.float32)
        value[:, trees.classes_] = forest.value / forest.value.sum(axis=1, keepdims=True)
        return replace(forest, value=value)

    everything = np.arange(len(label))
    chance = np.zeros((len(label), count))
    for train, test in KFold(min(_FOLDS, len(label)), shuffle=True, random_state=seed).split(everything):
        chance[test] = grown(train).predict(seen[test])
    return grown(everything), chance
