"""Forests against the predictions of the library that grew them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, GradientBoostingRegressor

from latency_model.errors import InputError
from latency_model.regression.trees import Forest


def data(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Few decimals make many equal values, where a threshold may equal a feature.
    features = np.round(rng.normal(size=(80, 4)), decimals)
    return features, features[:, 0] * 3 + np.sin(features[:, 1]), np.round(rng.normal(size=(50, 4)), decimals)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.integers(0, 12), leaf=st.integers(1, 5))
def test_averaged_trees_say_what_scikit_learn_says(seed: int, decimals: int, leaf: int) -> None:
    features, target, others = data(seed, decimals)
    trees = ExtraTreesRegressor(7, min_samples_leaf=leaf, random_state=seed).fit(features, target)
    forest = Forest.of((tree.tree_ for tree in trees.estimators_), scale=1 / 7)
    np.testing.assert_allclose(forest.predict(others)[:, 0], trees.predict(others), rtol=1e-6, atol=1e-6)
    alone = np.column_stack([tree.predict(others) for tree in trees.estimators_])
    np.testing.assert_allclose(forest.each(others), alone, rtol=1e-6, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), decimals=st.integers(0, 12))
def test_boosted_trees_say_what_scikit_learn_says(seed: int, decimals: int) -> None:
    features, target, others = data(seed, decimals)
    trees = GradientBoostingRegressor(n_estimators=12, init="zero", random_state=seed).fit(features, target)
    forest = Forest.of((tree.tree_ for tree in trees.estimators_[:, 0]), scale=0.1)
    np.testing.assert_allclose(forest.predict(others)[:, 0], trees.predict(others), rtol=1e-6, atol=1e-6)


def test_a_forest_of_classes_has_an_output_for_each() -> None:
    features, target, others = data(3, 12)
    trees = ExtraTreesClassifier(5, random_state=0).fit(features, np.digitize(target, (-1, 1)))
    forest = Forest.of((tree.tree_ for tree in trees.estimators_), scale=1 / 5)
    np.testing.assert_allclose(forest.predict(others), trees.predict_proba(others), atol=1e-6)


def test_many_rows_are_walked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, target, others = data(4, 12)
    trees = ExtraTreesRegressor(6, random_state=0).fit(features, target)
    forest = Forest.of(tree.tree_ for tree in trees.estimators_)
    at_once = forest.predict(others)
    monkeypatch.setattr("latency_model.regression.trees._BLOCK", 18)
    np.testing.assert_array_equal(forest.predict(others), at_once)
    assert forest.predict(others[:0]).shape == (0, 1)


def test_arrays_make_the_same_forest() -> None:
    features, target, others = data(5, 12)
    trees = ExtraTreesRegressor(6, random_state=0).fit(features, target)
    forest = Forest.of((tree.tree_ for tree in trees.estimators_), start=2.0, scale=0.5)
    np.testing.assert_array_equal(Forest.from_arrays(forest.arrays()).predict(others), forest.predict(others))


def test_no_tree_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one tree"):
        Forest.of([])
