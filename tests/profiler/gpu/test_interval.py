import math

import numpy as np
import pytest
from scipy import stats

from profiler.gpu.interval import SpreadPool, combine
from profiler.sampling import Policy, summarise

POLICY = Policy()


def sampled(values):
    return summarise(values, policy=POLICY)


def one(rng, *, noise, spread, builds=4, samples=40):
    """The builds of a configuration that truly takes 20 us."""
    return [
        sampled(20 * math.exp(spread * rng.standard_normal()) * np.exp(noise * rng.standard_normal(samples)))
        for _ in range(builds)
    ]


@pytest.mark.parametrize("builds", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("noise", "spread"), [(0.02, 0.0), (0.02, 0.002), (0.005, 0.01)])
def test_the_interval_holds_what_another_run_measures(builds, noise, spread):
    rng, held, n = np.random.default_rng(1), 0, 500
    pool = SpreadPool()
    for _ in range(20):
        pool.add([build.median_us for build in one(rng, noise=noise, spread=spread, builds=4)])
    for _ in range(n):
        first, again = (
            combine(one(rng, noise=noise, spread=spread, builds=builds), pool=pool) for _ in range(2)
        )
        held += first.low_us <= again.median_us <= first.high_us
    assert 0.925 <= held / n <= 0.995


def test_without_other_configurations_the_builds_alone_decide():
    """The textbook interval: Student's t with the standard deviation of the builds."""
    medians = [10.0, 10.2, 10.1]
    result = combine([sampled([m] * 40) for m in medians])
    s = np.std(np.log(medians), ddof=1)
    half = 10.1 * stats.t.ppf(0.975, 2) * s * math.sqrt(math.pi / 3.5)
    assert result.median_us == 10.1
    assert (result.low_us, result.high_us) == pytest.approx((10.1 - half, 10.1 + half))


def test_other_configurations_moderate_a_lucky_spread():
    lucky, pool = [10.0, 10.0, 10.0], SpreadPool()
    for _ in range(10):
        pool.add([9.8, 10.0, 10.2])
    alone, moderated = (combine([sampled([m] * 40) for m in lucky], pool=p) for p in (None, pool))
    assert alone.high_us == alone.low_us
    s0, d0, d = np.std(np.log([9.8, 10.0, 10.2]), ddof=1), 8, 2
    s = math.sqrt(d0 * s0**2 / (d0 + d))
    half = 10 * stats.t.ppf(0.975, d0 + d) * s * math.sqrt(math.pi / 3.5)
    assert moderated.high_us - 10 == pytest.approx(half)


def test_a_pool_knows_classes_of_latency_and_gives_back_what_was_added():
    pool = SpreadPool()
    pool.add([100.0, 101.0])
    assert pool.prior([5.0]) == (0.0, 0.0)
    variance, freedom = pool.prior([110.0])
    assert freedom == 1
    assert variance == pytest.approx(np.var(np.log([100.0, 101.0]), ddof=1))
    pool.add([100.0, 101.0], times=-1)
    assert pool.prior([110.0]) == (0.0, 0.0)


def test_the_samples_count_when_they_are_the_wider_ones():
    rng = np.random.default_rng(0)
    build = sampled(10 + rng.standard_normal(40))
    result = combine([build, build])
    assert result.high_us - result.low_us == pytest.approx(build.high_us - build.low_us)
    assert not result.stable
    assert len(result.values_us) == 80


def test_what_differs_between_processes_is_added():
    build = sampled([10.0] * 40)
    result = combine([build] * 4, process_spread=0.01)
    assert result.high_us - 10 == pytest.approx(10 * 1.96 * math.sqrt(2) * 0.01)
