"""The regression of rows of a CPU, made up of what its kernels count."""

import json

import numpy as np
import pytest

from latency_model.columns import ConvColumns
from latency_model.regression.counts import counts, path_features
from latency_model.regression.experts import Expert, fit_expert
from latency_model.regression.families import by_path, fits_paths, structure
from latency_model.regression.geometry import Geometry
from latency_model.regression.parts import BLOCKED, TILINGS
from latency_model.regression.paths import Paths
from latency_model.regression.regressor import RowRegressor, Settings
from latency_model.regression.state import restored, state
from latency_model.shapes import ConvShape
from latency_model.transfer.carrying import carry, same_algorithm
from latency_model.transfer.view import look

from .conftest import columns_of, latency_of

SMALL = Settings(classifying=10, boosted=30, rate=0.2, averaged=10)


def times_of(columns: ConvColumns) -> np.ndarray:
    """Half a microsecond, arithmetic that products do at half the speed, a call, a pass over the output."""
    sizes = Geometry.of(columns)
    found = counts(sizes)
    slow = np.where(Paths.of(sizes).blocked, 10.0, 20.0)
    return 0.5 + slow * found[:, 0] + 0.3 * found[:, 4] + 2.0 * found[:, 16]


@pytest.fixture(scope="module")
def fitted() -> RowRegressor:
    columns = columns_of(400, 20, precision="fp32", most=200)
    return RowRegressor.fit(columns, times_of(columns), settings=SMALL)


def test_unseen_rows_are_predicted_by_the_kernel_that_runs(fitted: RowRegressor) -> None:
    assert {"blocked 1x1", "blocked", "product"} <= set(fitted.families)
    assert all(expert.tiling == BLOCKED for expert in fitted.experts)
    others = columns_of(200, 21, precision="fp32", most=200)
    error = np.abs(fitted.predict(others) / times_of(others) - 1)
    assert np.median(error) < 0.01
    assert error.mean() < 0.04
    assert not fitted.beyond(columns_of(400, 20, precision="fp32", most=200)).any()


def test_it_predicts_the_same_bits_after_saving(fitted: RowRegressor) -> None:
    data, arrays = state(fitted)
    again = restored(json.loads(json.dumps(data)), arrays)
    others = columns_of(80, 22, precision="fp32")
    np.testing.assert_array_equal(again.predict(others), fitted.predict(others))


def test_rows_of_tiles_are_not_those_of_a_cpu() -> None:
    for seed in (23, 24):
        columns = columns_of(250, seed, precision="fp32")
        sizes = Geometry.of(columns)
        names = structure(columns, sizes)
        assert not fits_paths(sizes, latency_of(columns), names, units=108)
        assert fits_paths(sizes, times_of(columns), names, units=108)
        # Too few of any path to tell.
        few = np.arange(20)
        assert not fits_paths(sizes.take(few), times_of(columns)[few], names[:20], units=108)


def test_rows_that_no_formula_explains_are_not_those_of_a_cpu() -> None:
    columns = columns_of(250, 29, precision="fp32")
    sizes, noise = Geometry.of(columns), np.random.default_rng(0).lognormal(0, 0.5, 250)
    assert not fits_paths(sizes, times_of(columns) * noise, structure(columns, sizes), units=108)


def test_rare_paths_join_the_more_general_ones() -> None:
    texts = ["1x64x9x9 ->64 k3 s1 p1 g64"] * 30 + ["1x64x9x9 ->64 k3 s2 p1 g64"] * 5
    texts += ["1x3x9x9 ->8 k1 s1 p0 g1"] * 9 + ["1x3x9x9 ->8 k3 s1 p1 g1"] * 3
    sizes = Geometry.of(ConvColumns.of([ConvShape.parse(f"{text} conv fp32 nchw") for text in texts]))
    assert by_path(sizes) == ["blocked dw"] * 35 + ["image"] * 12


def test_names_of_kernels_count_for_more() -> None:
    columns = columns_of(200, 25, precision="fp32")
    found = RowRegressor.fit(columns, times_of(columns), kernels=["sgemm"] * 200, settings=SMALL)
    assert found.families == ("sgemm",)
    assert found.experts[0].tiling in set(TILINGS) or not found.experts[0].tiling.blocked


def test_the_formulas_go_through_json_and_old_ones_are_read(fitted: RowRegressor) -> None:
    for expert in fitted.experts:
        assert Expert.from_json(json.loads(json.dumps(expert.to_json()))) == expert
    old = fitted.experts[0].to_json()
    del old["blocked"]
    assert not Expert.from_json(old).tiling.blocked


def test_another_cpu_scales_the_same_counts() -> None:
    columns = columns_of(120, 26, precision="fp32", most=200)
    sizes, latency = Geometry.of(columns), times_of(columns)
    expert = fit_expert(sizes, latency, BLOCKED, 1)
    assert same_algorithm(BLOCKED) == [BLOCKED]
    found = carry([expert], sizes, np.ones((120, 1)), 3.0 * expert.predict(sizes), units=1).experts[0]
    assert np.abs(found.predict(sizes) / expert.predict(sizes) / 3.0 - 1).mean() < 0.01


def test_counts_and_features_have_the_numbers_that_their_version_says() -> None:
    sizes = Geometry.of(columns_of(3, 27))
    assert (counts(sizes).shape[1], path_features(sizes).shape[1]) == (33, 8)


def test_a_transfer_sees_what_the_trees_see(fitted: RowRegressor) -> None:
    columns = columns_of(30, 28, precision="fp32", most=200)
    view = look(fitted, columns)
    assert view.plain.shape == (30, len(fitted.lowest))
    assert view.chance.sum(axis=1) == pytest.approx(np.ones(30))
    np.testing.assert_allclose(view.mixed, np.log(times_of(columns)), atol=0.2)
