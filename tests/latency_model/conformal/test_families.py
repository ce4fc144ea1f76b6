import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from latency_model.conformal import FamilyConformal
from latency_model.errors import InputError


def networks(rng, families, between, within, most=12):
    """Names, log ratios, and the log ratio of one more network of an unseen and of the first family."""
    sizes = rng.integers(3, most, families)
    centres = 0.03 + between * rng.normal(size=families + 1)
    names = np.repeat(np.arange(families), sizes)
    ratios = centres[names] + within * rng.normal(size=len(names))
    unseen, known = centres[[-1, 0]] + within * rng.normal(size=2)
    return [str(name) for name in names], ratios, unseen, known


@pytest.mark.parametrize(("between", "within"), [(0.0, 0.05), (0.03, 0.03), (0.08, 0.02)])
def test_unseen_and_known_families_are_covered_as_said(between, within):
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(1500):
        names, ratios, unseen, known = networks(rng, 8, between, within)
        fitted = FamilyConformal.fit(names, ratios)
        for family, truth in ((None, unseen), ("0", known)):
            low, high = fitted.interval(100.0, family, 0.9)
            hits.append(low <= 100 * math.exp(truth) <= high)
    new, old = np.mean(hits[::2]), np.mean(hits[1::2])
    assert 0.88 <= new <= 0.93
    assert 0.88 <= old <= 0.95


def test_one_network_of_each_family_is_the_plain_t_interval():
    ratios = np.array([0.01, 0.05, -0.02, 0.03])
    low, high = FamilyConformal.fit(list("abcd"), ratios).interval(10.0, "new", 0.95)
    t = stats.t.ppf(0.975, 3) * ratios.std(ddof=1) * math.sqrt(5 / 4)
    assert low == pytest.approx(10 * math.exp(ratios.mean() - t))
    assert high == pytest.approx(10 * math.exp(ratios.mean() + t))


def test_balanced_families_have_the_textbook_variance():
    rng = np.random.default_rng(1)
    ratios = rng.normal(size=(5, 4)) * 0.02 + rng.normal(size=(5, 1)) * 0.05
    fitted = FamilyConformal.fit(np.repeat(list("abcde"), 4).tolist(), ratios.ravel())
    between, within = ratios.mean(1).var(ddof=1), ratios.var(axis=1, ddof=1).mean()
    # sigma_b^2 + sigma_w^2 + Var(mean): with unbiased variances this is the same sum in another order.
    sigma_b = between - within / 4
    low, high = fitted.interval(1.0)
    first, second = between * 6 / 5, within * 3 / 4
    df = (first + second) ** 2 / (first**2 / 4 + second**2 / 15)
    width = 2 * stats.t.ppf(0.95, df) * math.sqrt(sigma_b + within + between / 5)
    assert math.log(high / low) == pytest.approx(width)
    assert math.sqrt(low * high) == pytest.approx(math.exp(ratios.mean()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.floats(0.5, 0.98), st.floats(0.001, 0.015), st.integers(2, 10))
def test_order_width_and_scale(seed, confidence, more, families):
    rng = np.random.default_rng(seed)
    names, ratios, *_ = networks(rng, families, 0.05, 0.03)
    fitted = FamilyConformal.fit(names, ratios)
    for family in (None, "0", "new"):
        low, high = fitted.interval(50.0, family, confidence)
        sure = fitted.interval(50.0, family, confidence + more)
        assert 0 < sure[0] < low < high < sure[1]
        assert fitted.interval(100.0, family, confidence) == pytest.approx((2 * low, 2 * high))
        assert fitted.upper(50.0, family, (1 + confidence) / 2) == pytest.approx(high)
    unseen, known = (fitted.interval(1.0, family, confidence) for family in (None, "0"))
    # In standard deviations; the quantile of a known family may have fewer degrees of freedom behind it.
    assert fitted._spread("0")[1] <= fitted._spread(None)[1] * (1 + 1e-12)
    assert fitted.interval(1.0, "new", confidence) == unseen
    assert known[0] < math.exp(max(fitted.centre, fitted.means["0"])) and known[1] > math.exp(
        min(fitted.centre, fitted.means["0"])
    )
    order = rng.permutation(len(names))
    again = FamilyConformal.fit([names[i] for i in order], ratios[order])
    assert again.interval(1.0, "0", confidence) == pytest.approx(known)


def test_a_known_family_far_from_the_others_is_near_its_own_mean():
    rng = np.random.default_rng(2)
    ratios = np.concatenate([0.3 + 0.01 * rng.normal(size=8), 0.01 * rng.normal(size=24)])
    names = ["far"] * 8 + ["a"] * 8 + ["b"] * 8 + ["c"] * 8
    low, high = FamilyConformal.fit(names, ratios).interval(1.0, "far", 0.9)
    assert low < math.exp(0.3) < high
    assert math.log(high / low) < 0.06


def test_families_that_do_not_differ_are_shrunk_together():
    ratios = np.array([-0.02, 0.02, 0.021, -0.019, 0.02, -0.02])
    fitted = FamilyConformal.fit(list("aabbcc"), ratios)
    low, high = fitted.interval(1.0, "b", 0.9)
    assert math.log(low * high) / 2 == pytest.approx(fitted.centre)


def test_json_round_trip():
    names, ratios, *_ = networks(np.random.default_rng(3), 6, 0.1, 0.02)
    fitted = FamilyConformal.fit(names, ratios)
    again = FamilyConformal.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    assert again.interval(7.0, "2", 0.95) == fitted.interval(7.0, "2", 0.95)
    for change in ({"means": {"a": 1.0}}, {"between": -1.0}, {"within": math.nan}, {"sizes": None}):
        with pytest.raises(InputError, match="fit the model again"):
            FamilyConformal.from_json(fitted.to_json() | change)


@pytest.mark.parametrize(
    ("names", "ratios"),
    [(["a", "a"], [0.1, 0.2]), ([], []), (["a", "b"], [0.1]), (["a", "b"], [0.1, math.nan])],
)
def test_bad_networks(names, ratios):
    with pytest.raises(InputError):
        FamilyConformal.fit(names, np.array(ratios))


def test_bad_questions():
    fitted = FamilyConformal.fit(["a", "b"], np.array([0.1, 0.2]))
    with pytest.raises(InputError, match="positive latency"):
        fitted.interval(0.0)
    with pytest.raises(InputError, match="confidence"):
        fitted.interval(1.0, None, 1.0)
    with pytest.raises(InputError, match="confidence"):
        fitted.upper(1.0, None, 90)
