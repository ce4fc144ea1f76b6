import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.correction import Correction, fit_correction
from latency_model.errors import InputError

times = st.floats(1, 1e5)


def test_without_networks_nothing_is_corrected():
    assert fit_correction([], []) == Correction()
    assert Correction().apply(7.0) == 7.0


@given(times, times)
def test_one_network_is_met_exactly(total, measured):
    correction = fit_correction([total], [measured])
    assert correction.apply(total) == pytest.approx(measured)
    assert correction.slope <= 1
    assert correction.offset_us == 0 or correction.slope == 1


def objective(slope, offset, sums, measured):
    residuals = 1 - (slope * sums + offset) / measured
    return (residuals**2).sum() + len(sums) * 0.0225 * (slope - 1) ** 2


@given(st.lists(st.tuples(times, st.floats(0.4, 2.5)), min_size=2, max_size=8))
def test_several_networks_minimise_the_objective(networks):
    sums = np.array([total for total, _ in networks])
    measured = sums * np.array([factor for _, factor in networks])
    found = fit_correction(sums, measured)
    assert found.offset_us >= 0
    best = objective(found.slope, found.offset_us, sums, measured)
    scale = measured.min()
    for slope in (-1e-3, 0, 1e-3):
        for offset in (-1e-3, 0, 1e-3):
            moved = found.slope + slope, found.offset_us + offset * scale
            if moved[0] >= 0.1 and moved[1] >= 0:
                assert objective(*moved, sums, measured) >= best - 1e-12


def test_an_affine_law_is_recovered_and_one_size_only_gives_an_offset():
    sums = np.array([100.0, 300, 1000, 3000, 10000])
    found = fit_correction(sums, 1.05 * sums + 40)
    assert found.slope == pytest.approx(1.05, abs=0.01)
    assert found.offset_us == pytest.approx(40, abs=2)
    same = fit_correction([500.0] * 4, [560.0] * 4)
    assert (same.slope, same.offset_us) == (pytest.approx(1), pytest.approx(60))
    assert fit_correction([500.0, 510], [400.0, 410]).offset_us == 0


def test_corrections_that_are_none():
    for wrong in ((0.0, 0.0), (1.0, -1.0), (float("nan"), 0.0)):
        with pytest.raises(InputError):
            Correction(*wrong)
    with pytest.raises(InputError):
        fit_correction([0.0], [1.0])
    correction = Correction(1.1, 3.0, 4, 0.03)
    assert Correction.from_json(correction.to_json()) == correction


def test_larger_networks_that_were_faster_do_not_turn_the_slope_round():
    found = fit_correction([100.0, 1000.0, 5000.0], [900.0, 400.0, 100.0])
    assert found.slope == pytest.approx(0.1)
    assert found.spread > 0.1
