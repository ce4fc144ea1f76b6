import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.measurement import Measurement
from profiler.readings import calibrate, combine, settled


def reading(us, *, width=0.002, flags=()):
    low, high = us * (1 - width), us * (1 + width)
    return Measurement(us, low, high, low, low, high, high, low, 20, "host", flags=flags)


def test_one_reading_is_never_settled_and_stays_as_it_is():
    one = reading(10.0, flags=("unstable",))
    assert not settled([one])
    assert combine([one]) is one


def test_a_slow_phase_is_outvoted():
    row = combine([reading(14.0), reading(10.1), reading(10.0)])
    assert row.latency_us == 10.0
    assert row.high_us == pytest.approx(10.1)
    assert "unstable" not in row.flags
    assert "2 of 3 readings agree" in row.note
    assert row.samples == 60


def test_an_unconfirmed_fastest_reading_is_unstable_and_wide():
    row = combine([reading(10.0), reading(13.0), reading(13.1)])
    assert row.latency_us == 10.0
    assert row.high_us == 13.0
    assert "unstable" in row.flags


def test_agreement_takes_the_flag_away_and_keeps_the_others():
    assert combine([reading(10.0, flags=("unstable", "drift")), reading(10.1)]).flags == ("drift",)


def test_tiny_latencies_agree_within_the_resolution():
    assert settled([reading(0.5), reading(0.59)])
    assert not settled([reading(0.5), reading(0.65)])


@given(st.lists(st.floats(0.5, 1e4), min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_readings_does_not_matter(values, random):
    some = [reading(us) for us in values]
    mixed = random.sample(some, len(some))
    assert dataclasses.replace(combine(some), run_id="") == combine(mixed)
    row = combine(some)
    assert row.low_us <= min(values) == row.latency_us <= row.high_us


@pytest.mark.parametrize(
    "scatter",
    [
        lambda rng, n: np.abs(0.004 * rng.standard_exponential(n)),
        lambda rng, n: 0.004 * rng.standard_normal(n),
    ],
)
def test_calibrated_intervals_cover_another_run(scatter):
    rng = np.random.default_rng(0)
    true_us = np.exp(rng.uniform(np.log(20.0), np.log(5000.0), 3000))

    def run():
        return {
            i: [reading(us * np.exp(e), width=0.0005) for e in scatter(rng, 2)]
            for i, us in enumerate(true_us)
        }

    first, second = calibrate(run()), run()
    covered = [
        first[i].low_us <= combine(second[i]).latency_us <= first[i].high_us for i in range(len(true_us))
    ]
    assert 0.95 <= np.mean(covered) <= 0.999


def test_few_rows_are_not_widened():
    assert calibrate({0: [reading(10.0), reading(10.2)]})[0].high_us == pytest.approx(10.2)
    assert calibrate({}) == {}


def test_no_reading_is_a_mistake():
    with pytest.raises(ValueError, match="at least one"):
        combine([])
