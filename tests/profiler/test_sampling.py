import itertools

import numpy as np
import pytest
from scipy import stats

from latency_model.errors import MeasurementError
from profiler.sampling import Policy, collect, interval_ranks, measurement, summarise, warm_up


@pytest.mark.parametrize("n", [*range(1, 60), 200, 4001])
def test_ranks_are_the_narrowest_that_cover_the_median(n):
    ranks = interval_ranks(n)
    coverage = lambda low: 1 - 2 * stats.binom.cdf(low, n, 0.5)  # noqa: E731 - the order-statistic formula
    if ranks is None:
        assert coverage(0) < 0.95
        return
    low, high = ranks
    assert low + high == n - 1
    assert coverage(low) >= 0.95
    assert low + 1 > (n - 1) / 2 or coverage(low + 1) < 0.95


def test_the_interval_covers_the_true_median_of_skewed_samples():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        sampled = summarise(np.exp(rng.standard_normal(40)), policy=Policy())
        held += sampled.low_us <= 1.0 <= sampled.high_us
    assert 0.93 <= held / 400 <= 0.99


def test_sampling_stops_when_the_interval_is_narrow():
    rng = np.random.default_rng(0)
    sampled = collect(lambda: 100 + rng.standard_normal(), policy=Policy(max_seconds=10))
    assert sampled.stable
    assert sampled.high_us - sampled.low_us <= 0.5
    assert 21 < len(sampled.values_us) < 400


def test_sampling_stops_at_its_caps_and_says_so():
    rng = np.random.default_rng(0)
    wild = lambda: 100 * np.exp(rng.standard_normal())  # noqa: E731
    sampled = collect(wild, policy=Policy(max_samples=50))
    assert (len(sampled.values_us), sampled.stable) == (50, False)
    assert "unstable" in measurement(sampled, method="host", run_id="r").flags
    timed = collect(wild, policy=Policy(max_seconds=0.0))
    assert len(timed.values_us) == Policy().least_samples


def test_no_sample_is_dropped():
    values = [1.0] * 30 + [1000.0]
    row = measurement(summarise(values, policy=Policy()), method="host", run_id="r")
    assert row.samples == 31
    assert row.latency_us == 1.0
    assert summarise(values, policy=Policy()).values_us[-1] == 1000.0


def test_warm_up_waits_until_the_median_settles():
    slow_start = itertools.chain(np.linspace(100, 10, 40), itertools.repeat(10.0))
    draws = warm_up(lambda: float(next(slow_start)), policy=Policy())
    assert 45 <= draws <= 55


def test_warm_up_gives_up_in_time():
    growing = (2.0**k for k in itertools.count())
    assert warm_up(lambda: next(growing), policy=Policy(warm_up_seconds=0.0)) == 1


def test_an_overhead_is_subtracted_and_widens_the_interval():
    policy = Policy()
    row, over = summarise([9.0, 10.0, 11.0] * 5, policy=policy), summarise([1.0, 2.0, 3.0] * 5, policy=policy)
    result = measurement(row, method="host-increment", run_id="r", minus=over)
    assert result.latency_us == 8.0
    assert result.low_us == row.low_us - over.high_us
    assert result.high_us == row.high_us - over.low_us
    assert result.min_us == 7.0


def test_nothing_left_after_the_overhead_is_an_error():
    same = summarise([2.0] * 9, policy=Policy())
    with pytest.raises(MeasurementError, match="overhead"):
        measurement(same, method="host-increment", run_id="r", minus=same)
