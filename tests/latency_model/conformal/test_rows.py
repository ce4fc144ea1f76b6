import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.conformal import Conformal, cv_plus, size_class
from latency_model.errors import InputError


def rows(rng, n, *, scale=0.1, shape="normal"):
    predicted = np.exp(rng.uniform(0, 7, n))
    difficulty = rng.uniform(0.5, 2, n)
    error = rng.normal(size=n) if shape == "normal" else rng.exponential(1, n) - 0.3
    return predicted * np.exp(scale * difficulty * error), predicted, difficulty


def cover(measured, low, high):
    return float(np.mean((low <= measured) & (measured <= high)))


@pytest.mark.parametrize("shape", ["normal", "skewed"])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_unseen_rows_are_covered_as_said(shape, confidence):
    rng = np.random.default_rng(0)
    conformal = Conformal.fit(*rows(rng, 8000, shape=shape))
    measured, predicted, difficulty = rows(rng, 20_000, shape=shape)
    low, high = conformal.interval(predicted, difficulty, confidence=confidence)
    assert cover(measured, low, high) == pytest.approx(confidence, abs=0.01)
    # Each side misses as often as the other, skewed or not, and one side alone is one-sided.
    side = (1 - confidence) / 2
    assert np.mean(measured < low) == pytest.approx(side, abs=0.006)
    assert np.mean(measured > high) == pytest.approx(side, abs=0.006)
    upper = conformal.upper(predicted, difficulty, confidence=confidence)
    assert np.mean(measured <= upper) == pytest.approx(confidence, abs=0.01)


def test_small_sets_cover_at_least_as_said_on_average():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(600):
        conformal = Conformal.fit(*rows(rng, 45))
        measured, predicted, difficulty = rows(rng, 40)
        found.append(cover(measured, *conformal.interval(predicted, difficulty, confidence=0.9)))
    # 45 scores: rank ceil(46 * 0.95) = 44 on each side, so (2 * 44 - 46) / 46 = 0.913.
    assert np.mean(found) == pytest.approx(0.913, abs=0.01)


def test_a_group_with_scores_of_its_own_uses_them_and_a_small_one_does_not():
    rng = np.random.default_rng(2)
    easy, hard, few = rows(rng, 400, scale=0.02), rows(rng, 400, scale=0.3), rows(rng, 20, scale=5)
    parts = [np.concatenate(part) for part in zip(easy, hard, few, strict=True)]
    group = np.repeat(["easy", "hard", "few"], [400, 400, 20])
    conformal = Conformal.fit(*parts, group)
    assert set(conformal.groups) == {"easy", "hard"}
    for name, scale in (("easy", 0.02), ("hard", 0.3)):
        measured, predicted, difficulty = rows(rng, 4000, scale=scale)
        low, high = conformal.interval(predicted, difficulty, [name] * 4000, confidence=0.9)
        assert cover(measured, low, high) == pytest.approx(0.9, abs=0.04)
    one = np.array([100.0])
    pooled = conformal.interval(one)
    for name in ("few", "never seen"):
        assert conformal.interval(one, group=[name])[1] == pooled[1]
    # Mixed groups in one call are each one's own.
    low, high = conformal.interval(np.full(3, 100.0), group=["hard", "easy", "few"])
    assert [high[0], high[1]] == [conformal.interval(one, group=[name])[1][0] for name in ("hard", "easy")]
    assert high[2] == pooled[1][0]
    assert low[0] < low[1]


def test_a_group_too_small_for_this_confidence_uses_the_pooled_scores():
    rng = np.random.default_rng(3)
    conformal = Conformal.fit(*rows(rng, 500), np.repeat(["a", "b"], [480, 20]), least=10)
    assert "b" in conformal.groups
    one = np.array([100.0])
    assert conformal.interval(one, group=["b"], confidence=0.8) != conformal.interval(one, confidence=0.8)
    assert conformal.interval(one, group=["b"], confidence=0.95) == conformal.interval(one, confidence=0.95)
    assert conformal.guaranteed(0.95, "b")


def test_what_few_rows_cannot_guarantee_is_said_and_wider():
    rng = np.random.default_rng(4)
    conformal = Conformal.fit(*rows(rng, 30))
    assert conformal.guaranteed(0.9) and not conformal.guaranteed(0.95)
    one = np.array([100.0])
    assert conformal.interval(one, confidence=0.95)[1] >= conformal.interval(one, confidence=0.9)[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(1.0, 4.0), st.floats(0.5, 0.97), st.floats(0.001, 0.02))
def test_wider_with_stretch_difficulty_and_confidence(seed, stretch, confidence, more):
    rng = np.random.default_rng(seed)
    conformal = Conformal.fit(*rows(rng, 300))
    predicted, difficulty = np.exp(rng.uniform(0, 7, 5)), rng.uniform(0.5, 2, 5)
    low, high = conformal.interval(predicted, difficulty, confidence=confidence)
    wide = conformal.interval(predicted, difficulty, confidence=confidence, stretch=stretch)
    same = conformal.interval(predicted, difficulty * stretch, confidence=confidence)
    sure = conformal.interval(predicted, difficulty, confidence=min(0.99, confidence + more))
    assert (wide[0] <= low + 1e-9).all() and (wide[1] >= high - 1e-9).all()
    assert np.allclose(wide, same)
    assert (sure[0] <= low).all() and (sure[1] >= high).all()
    each = conformal.interval(predicted, difficulty, stretch=np.full(5, stretch), confidence=confidence)
    assert np.allclose(each, wide)


def test_intervals_scale_with_the_prediction_and_stay_positive():
    conformal = Conformal.fit(*rows(np.random.default_rng(5), 100, scale=2))
    low, high = conformal.interval(np.array([1.0, 1000.0]))
    assert (low > 0).all()
    assert low[1] / low[0] == pytest.approx(1000) and high[1] / high[0] == pytest.approx(1000)


def test_json_round_trip():
    rng = np.random.default_rng(6)
    conformal = Conformal.fit(*rows(rng, 3000), np.repeat(["a", "b"], [2000, 1000]))
    again = Conformal.from_json(json.loads(json.dumps(conformal.to_json())))
    predicted, group = np.array([3.0, 700.0]), ["a", "c"]
    for confidence in (0.9, 0.95, 0.999):
        found = conformal.interval(predicted, group=group, confidence=confidence)
        assert np.array_equal(again.interval(predicted, group=group, confidence=confidence), found)
    with pytest.raises(InputError, match="fit the model again"):
        Conformal.from_json({"pooled": {}})


@pytest.mark.parametrize(
    "change",
    [
        {"measured_us": np.zeros(10)},
        {"predicted_us": np.full(10, np.nan)},
        {"predicted_us": np.ones(9)},
        {"difficulty": np.ones(9)},
        {"difficulty": np.zeros(10)},
        {"group": ["a"] * 9},
    ],
)
def test_bad_columns(change):
    with pytest.raises(InputError):
        Conformal.fit(**{"measured_us": np.ones(10), "predicted_us": np.ones(10)} | change)


def test_bad_questions():
    conformal = Conformal.fit(np.ones(10), np.ones(10))
    for options in (
        {"confidence": 1.0},
        {"group": ["a"]},
        {"difficulty": np.ones(3)},
        {"stretch": 0.0},
    ):
        with pytest.raises(InputError):
            conformal.interval(np.ones(2), **options)


def test_size_classes_are_quarter_decades():
    assert size_class(np.array([1.0, 1.7, 1.8, 10.0, 990.0])).tolist() == [
        "10^0.00 us",
        "10^0.00 us",
        "10^0.25 us",
        "10^1.00 us",
        "10^2.75 us",
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 5), st.integers(20, 50))
def test_cv_plus_is_the_definition(seed, folds, n):
    rng = np.random.default_rng(seed)
    fold, scores = rng.integers(0, folds, n), rng.normal(size=n)
    predicted, difficulty = np.exp(rng.normal(size=(folds, 3))), rng.uniform(0.1, 1, (folds, 3))
    low, high = cv_plus(predicted, scores, fold, difficulty, confidence=0.8)
    rank = int(np.ceil((n + 1) * 0.9 - 1e-9))
    for row in range(3):
        cells = sorted(
            predicted[k, row] * np.exp(difficulty[k, row] * s) for k, s in zip(fold, scores, strict=True)
        )
        assert high[row] == pytest.approx(cells[rank - 1])
        assert low[row] == pytest.approx(cells[n - rank])


def test_cv_plus_of_one_model_is_the_plain_interval(monkeypatch):
    rng = np.random.default_rng(7)
    measured, predicted, difficulty = rows(rng, 200)
    scores, fold = np.log(measured / predicted) / difficulty, rng.integers(0, 4, 200)
    monkeypatch.setattr("latency_model.conformal.folds._CELLS", 1000)  # several parts
    ends = cv_plus(np.tile(predicted, (4, 1)), scores, fold, np.tile(difficulty, (4, 1)))
    assert np.allclose(ends, Conformal.fit(measured, predicted, difficulty).interval(predicted, difficulty))


def test_cv_plus_needs_rows_enough():
    ones = np.ones((2, 3))
    with pytest.raises(InputError, match="give 19 or more"):
        cv_plus(ones, np.zeros(18), np.zeros(18, dtype=int))
    cv_plus(ones, np.zeros(19), np.zeros(19, dtype=int))
    with pytest.raises(InputError):
        cv_plus(ones, np.zeros(30), np.full(30, 2))
    with pytest.raises(InputError):
        cv_plus(ones, np.zeros(30), np.zeros(29, dtype=int))
