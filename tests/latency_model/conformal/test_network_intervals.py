import math

import numpy as np
import pytest

from latency_model.conformal import FamilyConformal, NetworkIntervals
from latency_model.errors import InputError

FAMILIES = ["a"] * 6 + ["b"] * 6 + ["c"] * 6 + ["d"] * 6


@pytest.fixture
def intervals():
    """Families that are far from each other, and networks that are close to the others of their family."""
    rng = np.random.default_rng(0)
    within = rng.normal(0, 0.01, len(FAMILIES))
    between = np.repeat([-0.2, -0.05, 0.1, 0.2], 6)
    return NetworkIntervals.fit(FAMILIES, between + within, 0.3 * between + within)


def test_without_a_family_it_is_the_interval_of_unseen_ones(intervals):
    assert intervals.interval(100.0) == intervals.unseen.interval(100.0)
    assert intervals.interval(100.0, confidence=0.5) == intervals.unseen.interval(100.0, confidence=0.5)


def test_a_known_family_is_narrower_and_where_its_networks_are(intervals):
    widths = []
    for family, shift in zip("abcd", (-0.06, -0.015, 0.03, 0.06), strict=True):
        low, high = intervals.interval(100.0, family=family)
        assert math.log(math.sqrt(low * high) / 100) == pytest.approx(shift, abs=0.015)
        widths.append(math.log(high / low))
    low, high = intervals.interval(100.0)
    assert max(widths) < math.log(high / low) / 3


def test_a_family_that_was_never_measured_is_an_error(intervals):
    with pytest.raises(InputError, match="family 'e' was measured, only of a, b, c, d"):
        intervals.interval(100.0, family="e")


def test_saved_ones_are_read_back_also_those_without_known_families(intervals):
    assert NetworkIntervals.from_json(intervals.to_json()) == intervals
    old = NetworkIntervals.from_json(intervals.unseen.to_json())
    assert old == NetworkIntervals(intervals.unseen)
    assert old.interval(100.0) == intervals.interval(100.0)
    with pytest.raises(InputError, match="saved without"):
        old.interval(100.0, family="a")
    assert NetworkIntervals.from_json(old.to_json()) == old
    with pytest.raises(InputError, match="damaged"):
        NetworkIntervals.from_json({"unseen": {}})


def test_families_are_needed():
    with pytest.raises(InputError, match="two or more"):
        NetworkIntervals.fit(["a", "a"], np.zeros(2), np.zeros(2))
    assert isinstance(NetworkIntervals.fit(["a", "b"], np.zeros(2), np.zeros(2)).known, FamilyConformal)
