"""Grows the trees of a regression. Needs scikit-learn; what it returns does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency_model.regression.geometry import Array
from latency_model.regression.trees import Forest

__all__ = ["Settings", "averaged", "boosted", "router"]

_FOLDS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """How large the trees are; the defaults are those of the published figures."""

    classifying: int = 120
    boosted: int = 350
    rate: float = 0.08
    leaves: int = 24
    averaged: int = 80
    seed: int = 0


def router(
    seen: Array, label: NDArray[np.int64], count: int, settings: Settings
) -> tuple[Forest | None, Array]:
    """Return the trees that tell which of ``count`` families, and per row the chances by trees that did not see it."""
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


def boosted(inputs: Array, target: Array, settings: Settings) -> Forest:
    """Return trees that each correct the sum of those before (Friedman 2002), with a Huber loss."""
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


def averaged(inputs: Array, target: Array, settings: Settings) -> Forest:
    """Return trees that each predict alone (Geurts et al. 2006)."""
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(settings.averaged, max_features=0.4, random_state=settings.seed)
    trees.fit(inputs.astype(np.float32), target)
    return Forest.of((tree.tree_ for tree in trees.estimators_), scale=1.0 / settings.averaged)
