"""Drifts that were put in are found, and none where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.regression.drift import added_us, drift_us, with_delay


def rows(drift: float, seed: int = 0, count: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true, place = rng.lognormal(6, 0.7, count), np.linspace(0, 1, count)
    return true * rng.lognormal(0, 0.05, count) + drift * (place - 0.5), true, place


@pytest.mark.parametrize("drift", [150.0, -100.0])
def test_a_drift_is_found(drift: float) -> None:
    measured, true, place = rows(drift)
    assert drift_us(measured, true, place) == pytest.approx(drift, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_clean_and_shuffled_rows_have_none(seed: int) -> None:
    measured, true, place = rows(0.0, seed)
    assert drift_us(measured, true, place) == 0.0
    measured, true, place = rows(150.0, seed)
    order = np.random.default_rng(seed).permutation(len(true))
    assert drift_us(measured[order], true[order], place) == 0.0


def test_few_rows_show_none() -> None:
    measured, true, place = rows(150.0, count=100)
    assert drift_us(measured, true, place) == 0.0


def test_what_was_added_leaves_a_fifth() -> None:
    added = added_us(np.array([100.0, 100.0, 100.0]), 400.0, np.array([0.0, 0.5, 1.0]))
    assert added.tolist() == [-200.0, 0.0, 80.0]


@given(latency=st.floats(10, 1e4), share=st.floats(-1.5, 1.5))
def test_a_delay_somewhere_in_the_run_is_met_with_the_least_relative_error(
    latency: float, share: float
) -> None:
    drift = share * latency
    (found,) = with_delay(np.array([latency]), drift)
    # The oracle tries numbers around it.
    low, high = max(latency - abs(drift) / 2, 0.2 * latency), latency + abs(drift) / 2
    middles = low + (np.arange(4000) + 0.5) / 4000 * (high - low)
    errors = [np.abs(found * factor / middles - 1).mean() for factor in (0.97, 1.0, 1.03)]
    assert errors[1] <= min(errors) + 1e-6
