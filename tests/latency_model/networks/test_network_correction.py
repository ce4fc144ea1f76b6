import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.correction import Correction
from latency_model.errors import InputError
from latency_model.networks import NetworkCorrection, fit_network_correction
from latency_model.networks.correction import _solve


def networks(seed=0, count=40, noise=0.03):
    rng = np.random.default_rng(seed)
    sums, kernels = np.exp(rng.uniform(5, 8.5, count)), rng.integers(30, 300, count)
    families = [f"family{n % 5}" for n in range(count)]
    return sums, kernels, families, np.exp(rng.normal(0, noise, count))


def test_without_networks_nothing_is_corrected():
    assert fit_network_correction([], [], []) == NetworkCorrection()
    assert NetworkCorrection().apply(7.0, 100) == 7


@pytest.mark.parametrize("seed", range(5))
def test_sums_that_are_right_already_stay_as_they_are(seed):
    sums, kernels, families, noise = networks(seed)
    found = fit_network_correction(sums, kernels, sums * noise, families)
    assert (found.slope, found.per_kernel_us, found.offset_us) == (1, 0, 0)
    assert found.spread == pytest.approx(0.03, abs=0.01)
    assert found.networks == 40
    assert set(found.families) == set(families)


@pytest.mark.parametrize("seed", range(5))
def test_a_cost_per_launch_is_found(seed):
    sums, kernels, families, noise = networks(seed, 80, 0.02)
    found = fit_network_correction(sums, kernels, (1.05 * sums + 0.5 * kernels + 20) * noise, families)
    assert found.slope == pytest.approx(1.05, abs=0.03)
    # A launch and a start are hard to tell apart; together they are known.
    assert found.apply(100, 100) == pytest.approx(175, rel=0.05)
    assert found.apply(5000, 150) == pytest.approx(5345, rel=0.03)
    assert abs(found.bias) < 0.02
    assert found.spread == pytest.approx(0.02, abs=0.01)


def test_nothing_is_paid_back():
    sums, kernels, families, noise = networks()
    found = fit_network_correction(sums, kernels, (1.3 * sums) * noise, families)
    assert found.per_kernel_us >= 0
    assert found.offset_us >= 0
    assert found.slope == pytest.approx(1.3, abs=0.05)


def test_few_networks_move_it_part_of_the_way_with_a_wide_spread():
    one = fit_network_correction([100.0], [50], [160.0])
    assert 100 < one.apply(100, 50) <= 160
    assert one.spread > fit_network_correction([100.0, 200.0], [50, 60], [160.0, 270.0]).spread >= 0.04


def objective(terms, design):
    pull = (np.array(terms) - [1, 0, 0]) * 0.04 / np.array([0.2, 0.5, 20.0])
    return ((1 - design @ np.array(terms)) ** 2).sum() + (pull**2).sum()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(10, 1e4), st.integers(1, 500), st.floats(0.5, 2)), min_size=1, max_size=12)
)
def test_the_terms_minimise_the_objective(entries):
    sums, kernels, factors = (np.array(column, dtype=float) for column in zip(*entries, strict=True))
    design = np.column_stack([sums, kernels, np.ones(len(sums))]) / (sums * factors)[:, None]
    found = _solve(design, (0, 1, 2))
    best = objective(found, design)
    assert found[0] >= 0.1
    assert min(found[1:]) >= -1e-9
    for step in itertools.product((-1e-2, 0, 1e-2), repeat=3):
        moved = found + np.array(step) * [1, 1, 20]
        if moved[0] >= 0.1 and min(moved[1:]) >= 0:
            assert objective(moved, design) >= best - 1e-6 * (1 + best)


def test_json_both_ways_and_that_of_a_plain_correction():
    sums, kernels, families, noise = networks()
    found = fit_network_correction(sums, kernels, (sums + 0.4 * kernels) * noise, families)
    assert NetworkCorrection.from_json(json.loads(json.dumps(found.to_json()))) == found
    plain = Correction(1.1, 5.0, 3, 0.04)
    again = NetworkCorrection.from_json(plain.to_json())
    assert again.apply(100, 77) == plain.apply(100)
    assert (again.networks, again.spread) == (3, 0.04)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 3}, "later version"),
        ({"slope": None}, "damaged"),
        ({"families": 3}, "damaged"),
        ({"slope": 0.0}, "not a correction"),
        ({"per_kernel_us": -1.0}, "not a correction"),
        ({"spread": float("nan")}, "not a correction"),
    ],
)
def test_other_json_is_named(change, says):
    with pytest.raises(InputError, match=says):
        NetworkCorrection.from_json(NetworkCorrection().to_json() | change)


@pytest.mark.parametrize("bad", [([1.0], [1], [1.0, 2.0]), ([0.0], [1], [1.0]), ([1.0], [1], [float("nan")])])
def test_bad_networks_are_named(bad):
    with pytest.raises(InputError, match="correction of networks needs"):
        fit_network_correction(*bad)
