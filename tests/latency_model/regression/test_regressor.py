"""The whole regression on a few rows whose formula is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from latency_model.columns import ConvColumns
from latency_model.errors import ModelError
from latency_model.regression.features import features
from latency_model.regression.geometry import Geometry
from latency_model.regression.inputs import mean_inputs, own_inputs, router_inputs
from latency_model.regression.parts import Tiling, parts
from latency_model.regression.regressor import RowRegressor, Settings
from latency_model.regression.state import VERSION, restored, state
from latency_model.shapes import ConvShape

from .conftest import columns_of, latency_of

SMALL = Settings(classifying=10, boosted=30, rate=0.2, averaged=10)
Rows = tuple[ConvColumns, np.ndarray]


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> RowRegressor:
    columns, latency = rows
    kernels = ["slow_64x64;transposeKernel" if i % 3 == 0 else "fast_128x64" for i in range(len(columns))]
    return RowRegressor.fit(
        columns, latency * np.where(np.arange(300) % 3, 1, 2), kernels=kernels, settings=SMALL
    )


@pytest.fixture(scope="module")
def nameless(rows: Rows) -> RowRegressor:
    return RowRegressor.fit(*rows, settings=SMALL)


def test_unseen_rows_are_predicted(nameless: RowRegressor) -> None:
    others = columns_of(150, 9)
    error = np.abs(nameless.predict(others) / latency_of(others) - 1)
    assert error.mean() < 0.06
    assert nameless.drift_us == 0.0


def test_families_are_those_of_the_names(fitted: RowRegressor) -> None:
    assert fitted.families == ("fast_128x64", "slow_64x64 + transposeKernel")
    assert fitted.router is not None
    others = columns_of(100, 10)
    ratio = fitted.predict(others) / latency_of(others)
    # One or the other kernel, and chance alone decides which.
    assert (ratio > 0.7).all()
    assert (ratio < 2.5).all()
    # A third of the rows take twice as long: 4/3 in the mean.
    assert (fitted.expected(others) / latency_of(others)).mean() == pytest.approx(4 / 3, rel=0.1)
    assert (fitted.expected(others) > fitted.predict(others)).mean() > 0.8


def test_one_family_needs_no_router(rows: Rows) -> None:
    columns, latency = rows
    found = RowRegressor.fit(columns, latency, kernels=["only"] * 300, settings=SMALL)
    assert found.router is None
    assert np.abs(found.predict(columns) / latency - 1).mean() < 0.02
    data, arrays = state(found)
    np.testing.assert_array_equal(restored(data, arrays).predict(columns), found.predict(columns))


def test_a_saved_regressor_predicts_the_same_bits(fitted: RowRegressor, tmp_path: Path) -> None:
    data, arrays = state(fitted)
    np.savez(tmp_path / "trees.npz", **arrays)
    with np.load(tmp_path / "trees.npz", allow_pickle=False) as loaded:
        again = restored(json.loads(json.dumps(data)), dict(loaded))
    others = columns_of(80, 11)
    np.testing.assert_array_equal(again.predict(others), fitted.predict(others))
    np.testing.assert_array_equal(again.spread(others), fitted.spread(others))
    np.testing.assert_array_equal(again.beyond(others), fitted.beyond(others))


@pytest.mark.parametrize("missing", ["lowest", "own_boosted.value", "router.roots"])
def test_a_saved_regressor_without_a_part_is_an_error(fitted: RowRegressor, missing: str) -> None:
    data, arrays = state(fitted)
    del arrays[missing]
    with pytest.raises(ModelError, match="fit the model again"):
        restored(data, arrays)


def test_fitting_twice_gives_the_same(rows: Rows, nameless: RowRegressor) -> None:
    again = RowRegressor.fit(*rows, settings=SMALL)
    others = columns_of(50, 12)
    np.testing.assert_array_equal(again.predict(others), nameless.predict(others))


def test_rows_are_predicted_alone_as_together(
    nameless: RowRegressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = columns_of(50, 13)
    together = nameless.predict(others)
    monkeypatch.setattr("latency_model.regression.regressor._BLOCK", 7)
    np.testing.assert_allclose(nameless.predict(others), together, rtol=1e-12)
    assert nameless.predict(others.take(slice(0, 0))).shape == (0,)


def test_fewer_than_thirty_rows_are_an_error(rows: Rows) -> None:
    columns, latency = rows
    with pytest.raises(ModelError, match="at least 30 rows, not 29"):
        RowRegressor.fit(columns.take(slice(29)), latency[:29], settings=SMALL)
    few = RowRegressor.fit(columns.take(slice(30)), latency[:30], settings=SMALL)
    assert np.isfinite(few.predict(columns)).all()


def test_convolutions_beyond_the_rows_are_flagged(nameless: RowRegressor, rows: Rows) -> None:
    assert not nameless.beyond(rows[0]).any()
    assert nameless.beyond(columns_of(40, 14, most=20_000)).mean() > 0.8


def test_a_drift_is_taken_out_and_given_back(rows: Rows) -> None:
    columns, latency = rows
    rng = np.random.default_rng(0)
    shuffled = columns.take(rng.permutation(300))
    latency = 1.0e2 + latency_of(shuffled) * 10
    delay = 150.0 * (np.linspace(0, 1, 300) - 0.5)
    found = RowRegressor.fit(shuffled, latency + delay, kernels=["only"] * 300, settings=SMALL)
    assert found.drift_us == pytest.approx(150.0, rel=0.15)
    middle, anywhere = found.predict(shuffled, without_drift=True), found.predict(shuffled)
    assert np.abs(middle / latency - 1).mean() < 0.03
    assert (anywhere < middle).all()


def test_calibration_makes_the_spread_as_large_as_the_errors(nameless: RowRegressor) -> None:
    others = columns_of(150, 15)
    predicted, apart = nameless.predict_parts(others)
    assert apart.shape == (150, 3)
    measured = predicted * np.random.default_rng(0).lognormal(0, 0.2, 150)
    found = nameless.calibrated(measured, predicted, apart)
    assert found.spread(others).mean() == pytest.approx(np.abs(np.log(measured / predicted)).mean(), rel=0.3)
    np.testing.assert_array_equal(found.predict(others), predicted)
    with pytest.raises(ModelError, match="one for each"):
        nameless.calibrated(measured[:3], predicted, apart)


def test_a_regression_of_other_features_is_refused(fitted) -> None:
    data, arrays = state(fitted)
    with pytest.raises(ModelError, match="another version"):
        restored({**data, "version": 0}, arrays)


def test_features_and_parts_have_the_numbers_that_their_version_says() -> None:
    """One more or less must come with another version, or saved trees and weights would be read wrongly."""
    columns = ConvColumns.of([ConvShape(1, 16, 8, 8, 32)])
    sizes = Geometry.of(columns)
    counts = features(columns, sizes).shape[1], parts(sizes, Tiling(), 1).shape[1]
    plain, one = np.zeros((1, 3)), np.ones(1)
    seen = router_inputs(plain, one, np.ones((1, 2)))
    mean = mean_inputs(seen, np.ones((1, 2)), np.ones((1, 2)), sizes, 1)
    own = own_inputs(plain, one, np.ones((1, 2)), np.ones((1, 2)), np.zeros(1, int), np.zeros(1, int))
    assert (VERSION, *counts) == (2, 76, 35)
    # Of two families and three features.
    assert (seen.shape[1], mean.shape[1], own.shape[1]) == (5, 27, 12)
