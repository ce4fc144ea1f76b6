import numpy as np
import pytest
from scipy.optimize import check_grad

from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Geometry
from latency_model.regression.parts import Tiling, parts
from latency_model.transfer import processors_of
from latency_model.transfer.carrying import carry, find_units, same_algorithm
from latency_model.transfer.drift import few_rows_drift_us
from latency_model.transfer.naming import label_rows
from latency_model.transfer.process import Process, _covariance, _minus_log_likelihood
from latency_model.transfer.scaling import GROUPS, contributions, scale, scaled_expert
from latency_model.transfer.table import _places


def expert(units=80, tiling=None):
    weights = np.zeros(35)
    weights[[1, 2, 9, 10, 11, 14, 25]] = 80.0, 20.0, 1.0, 1.0, 20.0, 3.0, 0.5
    return Expert(tiling or Tiling(span=128, channels=128), units, tuple(weights), 0.0)


def test_every_part_is_in_one_group(columns):
    count = parts(Geometry.of(columns(1)), Tiling(), 80).shape[1]
    assert sorted(part for group in GROUPS for part in group) == list(range(count))


def test_contributions_add_up_to_the_formula(columns):
    sizes = Geometry.of(columns(50))
    np.testing.assert_allclose(contributions(sizes, expert()).sum(axis=1), expert().predict(sizes))


def test_factors_of_a_scaled_formula_are_found_again(columns):
    sizes = Geometry.of(columns(400))
    factors = np.array([2.0, 1.5, 1.2, 1.0, 1.3])
    costs = contributions(sizes, expert())[:, None, :]
    truth = scaled_expert(expert(), factors).predict(sizes)
    found = scale(costs, truth, np.full(5, 1.5))
    np.testing.assert_allclose(costs[:, 0] @ found.factors[0], truth, rtol=0.02)
    assert found.error < 0.01


def test_without_rows_that_tell_a_factor_the_typical_one_stays(columns):
    sizes = Geometry.of(columns(40))
    costs = contributions(sizes, expert())[:, None, :] * np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    found = scale(costs, costs.sum(axis=(1, 2)) * 2.0, np.full(5, 2.0))
    np.testing.assert_allclose(found.factors, 2.0, rtol=1e-6)


def test_factors_of_formulas_are_drawn_to_the_common_ones(columns):
    """The second formula has no rows: it gets what the first one learned."""
    sizes = Geometry.of(columns(300))
    costs = np.stack([contributions(sizes, expert()), np.zeros((300, 5))], axis=1)
    found = scale(costs, costs.sum(axis=(1, 2)) * 3.0, np.full(5, 2.5))
    np.testing.assert_allclose(found.factors[1], found.common, rtol=1e-6)
    assert found.common[0] > 2.6


def test_tiles_of_the_new_device_are_found(columns):
    sizes = Geometry.of(columns(200))
    there = expert(units=40, tiling=Tiling(span=64, channels=64))
    truth = there.predict(sizes) * 2.0
    chance = np.ones((200, 1))
    found = carry([expert()], sizes, chance, truth, units=40)
    assert (found.experts[0].tiling.span, found.experts[0].tiling.channels) == (64, 64)
    assert np.abs(found.experts[0].predict(sizes) / truth - 1.0).mean() < 0.01
    kept = carry([expert()], sizes, chance, truth, units=40, tiles=False)
    assert np.abs(kept.experts[0].predict(sizes) / truth - 1.0).mean() > 0.02


def test_other_tilings_are_of_the_same_algorithm():
    for tiling in same_algorithm(Tiling(16, 4, 4, 36, 128, 64, 8)):
        assert (tiling.images, tiling.rows, tiling.columns, tiling.products, tiling.depth) == (
            16,
            4,
            4,
            36,
            8,
        )


def test_processors_are_found(columns):
    sizes = Geometry.of(columns(300))
    truth = expert(units=40).predict(sizes) * 1.7
    assert find_units([expert()], sizes, np.ones((300, 1)), truth) == 40
    assert find_units([expert(units=1)], sizes, np.ones((300, 1)), truth) == 1


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("Tesla T4", 40),
        ("NVIDIA L4", 58),
        ("Tesla V100-PCIE-32GB", 80),
        ("NVIDIA A100 80GB PCIe", 108),
        ("NVIDIA H100 PCIe", 114),
        ("NVIDIA H100 80GB HBM3", 132),
        ("EPYC", None),
        (None, None),
    ],
)
def test_names_of_devices(name, units):
    assert processors_of(name) == units


def test_rare_kernels_go_without_numbers_or_without_family():
    families, label = label_rows(["a_64x64"] * 6 + ["b_32x32"] * 3 + ["b_64x32"] * 3 + ["c"] + [""] * 9)
    assert families == ("a_64x64", "b_#x#")
    assert label.tolist() == [0] * 6 + [1] * 6 + [-1] * 10


@pytest.mark.parametrize("drift", [0.0, 150.0])
def test_a_drift_is_taken_out_only_where_it_is_clear(drift):
    rng = np.random.default_rng(0)
    predicted = rng.uniform(200, 3000, 100)
    place = rng.uniform(0, 1, 100)
    measured = 1.1 * predicted * np.exp(rng.normal(0, 0.05, 100)) + drift * (place - 0.5)
    found, sure = few_rows_drift_us(measured, predicted, place)
    assert found == (pytest.approx(drift, abs=40) if drift else 0.0)
    assert (abs(sure) >= 3.5) == bool(drift)
    assert few_rows_drift_us(measured, predicted, np.full(100, np.nan)) == (0.0, 0.0)


def test_slope_of_the_likelihood():
    rng = np.random.default_rng(1)
    inputs, linear, values = rng.normal(size=(20, 3)), rng.normal(size=(20, 2)), rng.normal(size=20)
    theta = np.array([0.2, -0.3, 0.4, -0.5, -1.0, -1.2])
    loss = [
        lambda t, place=place: _minus_log_likelihood(t, inputs, linear, values)[place] for place in (0, 1)
    ]
    assert check_grad(*loss, theta) < 1e-4


def test_points_left_out_are_as_if_they_had_not_been_seen():
    rng = np.random.default_rng(2)
    inputs, linear = rng.normal(size=(15, 2)), rng.normal(size=(15, 1))
    theta = np.array([0.1, 0.3, -0.7, -1.0, -1.5])
    whole = Process(inputs, linear, rng.normal(size=15), 0.0, theta)
    errors, deviations = whole.left_out()
    for out in range(15):
        keep = np.arange(15) != out
        rest = Process(inputs[keep], linear[keep], whole.values[keep], 0.0, theta)
        mean, deviation = rest.predict(inputs[[out]], linear[[out]])
        assert errors[out] == pytest.approx(whole.values[out] - mean[0], abs=1e-9)
        assert deviations[out] == pytest.approx(deviation[0], abs=1e-9)


def test_the_process_is_that_of_the_textbook():
    rng = np.random.default_rng(3)
    inputs, linear, values = rng.normal(size=(12, 2)), rng.normal(size=(12, 1)), rng.normal(size=12)
    theta = np.array([0.1, 0.3, -0.7, -1.0, -1.5])
    made = Process(inputs, linear, values, 0.5, theta)
    new, line = rng.normal(size=(4, 2)), rng.normal(size=(4, 1))
    kernel = _covariance(theta, inputs, inputs, linear, linear) + np.exp(-3.0) * np.eye(12)
    across = _covariance(theta, new, inputs, line, linear)
    mean, deviation = made.predict(new, line)
    np.testing.assert_allclose(mean, 0.5 + across @ np.linalg.solve(kernel, values))
    own = np.diag(_covariance(theta, new, new, line, line)) + np.exp(-3.0)
    np.testing.assert_allclose(
        deviation**2, own - np.einsum("ij,ji->i", across, np.linalg.solve(kernel, across.T))
    )


def test_places_of_equal_convolutions(columns):
    among = columns(30)
    assert _places(among.take(np.array([7, 3])), among).tolist() == [7, 3]
    assert _places(columns(5, seed=9), among).tolist() == [-1] * 5
