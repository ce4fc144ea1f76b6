import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.conformal import Scores
from latency_model.conformal.scores import KEPT, LEAST
from latency_model.errors import InputError

confidences = st.floats(0.01, 0.995)


def oracle(values, confidence):
    """The ceil((n + 1) c)-th smallest, from the definition; None where it does not exist."""
    rank = math.ceil((len(values) + 1) * confidence - 1e-9)
    return sorted(values)[rank - 1] if rank <= len(values) else None


@given(st.lists(st.floats(-5, 5), min_size=LEAST, max_size=60), confidences)
def test_quantiles_are_the_definition(values, confidence):
    scores = Scores.of(np.array(values))
    expected = oracle(values, confidence)
    assert scores.supports(confidence) == (expected is not None)
    if expected is None:
        assert scores.upper(confidence) >= max(values)
        assert scores.lower(confidence) <= min(values)
    else:
        assert scores.upper(confidence) == expected
        assert scores.lower(confidence) == -oracle([-value for value in values], confidence)


@given(st.integers(KEPT + 1, 200_000), st.floats(0.5, 0.9999), st.integers(0, 99))
def test_thinned_quantiles_lie_outwards_and_near(n, confidence, seed):
    values = np.random.default_rng(seed).permutation(n).astype(float)
    scores = Scores.of(values)
    assert len(scores.values) <= KEPT
    exact = math.ceil((n + 1) * confidence - 1e-9)
    if exact > n:
        return
    rank = scores.upper(confidence) + 1
    assert exact <= rank
    # The miss, counted in places from the end, is at most 3 % smaller.
    assert n + 1 - rank >= 0.97 * (n + 1 - exact) - 1
    assert n - 1 - scores.lower(confidence) == scores.upper(confidence)


def test_the_last_hundred_of_each_end_are_all_kept():
    scores = Scores.of(np.arange(100_000.0))
    assert set(range(100)) <= set(scores.values.tolist())
    assert set(range(99_900, 100_000)) <= set(scores.values.tolist())


def test_too_few_scores_widen_by_the_normal_rule():
    """9 scores bound a side at 90 %, not at 95 %."""
    values = np.linspace(-1, 1, 9)
    scores = Scores.of(values)
    assert scores.supports(0.9) and not scores.supports(0.95)
    expected = values.mean() + 1.859548 * values.std(ddof=1) * math.sqrt(10 / 9)  # t of 8 degrees, 95 %
    assert scores.upper(0.95) == pytest.approx(expected, rel=1e-6)
    assert scores.lower(0.95) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("n", [LEAST, 999, 5000])
def test_json_round_trip(n):
    scores = Scores.of(np.random.default_rng(n).normal(size=n))
    again = Scores.from_json(json.loads(json.dumps(scores.to_json())))
    for confidence in (0.5, 0.9, 0.95, 0.99, 0.9999):
        assert again.upper(confidence) == scores.upper(confidence)
        assert again.lower(confidence) == scores.lower(confidence)


@pytest.mark.parametrize("change", [{"n": 12}, {"values": [2.0, 1.0]}, {"mean": "x"}, {"ranks": [1]}])
def test_damaged_json_is_said(change):
    data = Scores.of(np.arange(10.0)).to_json() | change
    with pytest.raises(InputError, match="fit the model again"):
        Scores.from_json(data)


@pytest.mark.parametrize("values", [np.arange(7.0), np.array([*range(10), math.nan])])
def test_bad_scores(values):
    with pytest.raises(InputError):
        Scores.of(values)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, math.nan, 90])
def test_bad_confidence(confidence):
    scores = Scores.of(np.arange(10.0))
    with pytest.raises(InputError, match="between 0 and 1"):
        scores.upper(confidence)
    with pytest.raises(InputError, match="between 0 and 1"):
        scores.lower(confidence)
