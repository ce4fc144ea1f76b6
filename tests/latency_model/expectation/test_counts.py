"""Windows of likely counts against arithmetic of 256 bits, up to 2,048 gates."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.expectation import count_pmf
from latency_model.expectation.counts import CountDistributions
from latency_model.expectation.moments import MomentDistributions

BITS = 256
ONE = 1 << BITS


def oracle(keep):
    """Return the distribution by recursion in fixed-point numbers of 256 bits."""
    pmf = np.zeros(len(keep) + 1, dtype=object)
    pmf[0] = ONE
    for done, p in enumerate(keep):
        opened = int(Fraction(float(p)) * ONE)
        moved = pmf[: done + 1] * opened
        pmf[: done + 1] = pmf[: done + 1] * (ONE - opened)
        pmf[1 : done + 2] += moved
        pmf[: done + 2] >>= BITS
    return np.array([float(Fraction(int(value), ONE)) for value in pmf])


def spread_out(windows, axis, size):
    whole = np.zeros(size)
    pmf = windows.pmf[axis]
    whole[windows.low[axis] : windows.low[axis] + len(pmf)] = pmf
    return whole


def nasty(size, rng):
    return {
        "closed": np.zeros(size),
        "open": np.ones(size),
        "nearly closed": np.full(size, 1e-300),
        "nearly open": np.full(size, 1 - 1e-16),
        "denormal": np.full(size, 5e-324),
        "even": np.full(size, 0.5),
        "equal": np.full(size, 0.995),
        "alternating": np.arange(size) % 2 * 1.0,
        "alternating, not quite": np.where(np.arange(size) % 2, 1 - 1e-9, 1e-9),
        "random": rng.uniform(0, 1, size),
        "polarised": np.where(rng.random(size) < 0.6, 1.0, 0.0) * (1 - 1e-3) + 5e-4,
        "all kinds": rng.choice([0.0, 1.0, 0.5, 1e-300, 1 - 1e-16, 1e-12, 0.3], size),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 64, 511])
@pytest.mark.parametrize("name", nasty(1, np.random.default_rng(0)))
def test_nasty_probabilities(size, name):
    keep = nasty(size, np.random.default_rng(size))[name]
    check(keep)


@pytest.mark.parametrize("name", ["random", "even", "all kinds", "nearly open"])
def test_2048_gates(name):
    check(nasty(2048, np.random.default_rng(1))[name])


def check(keep):
    truth = oracle(keep)
    windows = CountDistributions([len(keep)], [{0: 1}], tail=1e-15).windows(keep)
    found = spread_out(windows, 0, len(keep) + 1)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-13)
    assert found.min() >= -1e-12
    assert found.sum() == pytest.approx(1, abs=1e-12)
    # The expected number of open gates has the slope 1 by every gate, whatever the others are.
    windows.slope[0][:] = windows.low[0] + np.arange(len(windows.pmf[0]))
    np.testing.assert_allclose(windows.gradient(), 1.0, rtol=0, atol=1e-9)
    tree = count_pmf(torch.tensor(keep)).numpy()
    np.testing.assert_allclose(tree, truth, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", nasty(1, np.random.default_rng(0)))
def test_gradients_are_differences_of_the_other_gates(name):
    size = 256
    rng = np.random.default_rng(2)
    keep = nasty(size, rng)[name]
    line = rng.uniform(1, 9, size + 1)
    distributions = CountDistributions([size], [{0: 1}], tail=1e-15)
    windows = distributions.windows(keep)
    windows.slope[0][:] = line[windows.low[0] :][: len(windows.pmf[0])]
    gradient = windows.gradient()
    assert np.isfinite(gradient).all()
    for gate in (0, 1, size - 1):
        others = oracle(np.delete(keep, gate))
        assert gradient[gate] == pytest.approx(float(others @ np.diff(line)), abs=1e-11)


def test_sums_of_groups_and_multiples():
    rng = np.random.default_rng(3)
    sizes = [5, 70, 33]
    keeps = [rng.uniform(0, 1, size) for size in sizes]
    axes = [{0: 1, 1: 1}, {0: 2, 2: 3}, {1: 1}, {2: 1, 1: 1, 0: 4}, {0: 1}]
    windows = CountDistributions(sizes, axes, tail=1e-15).windows(np.concatenate(keeps))
    for place, axis in enumerate(axes):
        truth = np.ones(1)
        for group, times in axis.items():
            stretched = np.zeros(sizes[group] * times + 1)
            stretched[::times] = oracle(keeps[group])
            truth = np.convolve(truth, stretched)
        np.testing.assert_allclose(spread_out(windows, place, len(truth)), truth, atol=1e-13)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_probabilities(keep, seed):
    keep = np.array(keep)
    windows = CountDistributions([len(keep)], [{0: 1}], tail=1e-15).windows(keep)
    np.testing.assert_allclose(spread_out(windows, 0, len(keep) + 1), oracle(keep), atol=1e-13)


@pytest.mark.parametrize("name", nasty(1, np.random.default_rng(0)))
@pytest.mark.parametrize("size", [1, 3, 64, 1024])
def test_moments_are_near(size, name):
    keep = nasty(size, np.random.default_rng(size))[name]
    truth = CountDistributions([size], [{0: 1}], tail=1e-15).windows(keep)
    found = MomentDistributions([size], [{0: 1}], tail=2e-3).windows(keep.astype(np.float32))
    pmf = spread_out(truth, 0, size + 1), spread_out(found, 0, size + 1)
    np.testing.assert_allclose(pmf[1], pmf[0], rtol=0, atol=2e-2 * pmf[0].max())
    found.slope[0][:] = found.low[0] + np.arange(len(found.pmf[0]))
    np.testing.assert_allclose(found.gradient(), 1.0, rtol=0, atol=2e-2)


def test_moments_of_certain_gates_are_exact():
    keep = np.array([0.0, 1.0, 1.0, 0.0, 1.0] * 40, dtype=np.float32)
    windows = MomentDistributions([200], [{0: 1}], tail=2e-3).windows(keep)
    np.testing.assert_allclose(spread_out(windows, 0, 201), np.eye(201)[120], atol=1e-6)
