import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.conformal import row_correlation, sum_interval
from latency_model.errors import InputError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.floats(0, 1), st.integers(1, 12))
def test_equals_the_double_sum(seed, rho, n):
    rng = np.random.default_rng(seed)
    value, below, above = rng.uniform(5, 9, n), rng.uniform(0, 1, n), rng.uniform(0, 2, n)
    family = rng.choice(list("abc"), n)
    low, high = sum_interval(value, value - below, value + above, rho=rho, family=family)

    def spread(u):
        pairs = ((i, j) for i in range(n) for j in range(n) if family[i] == family[j])
        return math.sqrt(sum(u[i] * u[j] * (1 if i == j else rho) for i, j in pairs))

    assert high == pytest.approx(value.sum() + spread(above))
    assert low == pytest.approx(max(0.0, value.sum() - spread(below)))


def test_the_two_ends_of_correlation():
    value, width = np.full(4, 10.0), np.full(4, 1.0)
    assert sum_interval(value, value - width, value + width, rho=0.0) == pytest.approx((38, 42))
    assert sum_interval(value, value - width, value + width, rho=1.0) == pytest.approx((36, 44))
    apart = sum_interval(value, value - width, value + width, rho=1.0, family=list("aabb"))
    assert apart[1] == pytest.approx(40 + math.sqrt(8))


def test_normal_sums_are_covered_as_said():
    rng = np.random.default_rng(0)
    n, rho, draws = 20, 0.3, 20_000
    scale = rng.uniform(0.5, 3, n)
    error = math.sqrt(rho) * rng.normal(size=(draws, 1)) + math.sqrt(1 - rho) * rng.normal(size=(draws, n))
    truth = (100 + error * scale).sum(1)
    half = 1.6448536 * scale
    low, high = sum_interval(np.full(n, 100.0), 100 - half, 100 + half, rho=rho)
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.7])
def test_the_correlation_is_found_again(rho):
    rng = np.random.default_rng(1)
    sizes = rng.integers(2, 30, 400)
    family = np.repeat(np.arange(400), sizes)
    shared = rng.normal(size=400)[family]
    scores = 0.5 + math.sqrt(rho) * shared + math.sqrt(1 - rho) * rng.normal(size=len(family))
    assert row_correlation(scores, family.astype(str)) == pytest.approx(rho, abs=0.06)


def test_bad_rows():
    one = np.ones(2)
    for values, options in (
        ((one, one, np.ones(3)), {}),
        ((one, 2 * one, 3 * one), {}),
        ((one, one, np.full(2, np.inf)), {}),
        ((one, one, one), {"rho": 1.2}),
        ((one, one, one), {"family": ["a"]}),
    ):
        with pytest.raises(InputError):
            sum_interval(*values, **options)
    for scores, family in ((one, ["a", "b"]), (one, ["a", "a"]), (one, ["a"])):
        with pytest.raises(InputError):
            row_correlation(scores, family)
    assert row_correlation(np.zeros(4), list("aabb")) == 0.0
