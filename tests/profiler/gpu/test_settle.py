import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import InputError
from profiler.gpu.settle import SettleRule, settle, wants_more

CHOICES = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)
TIMES = {"a": 1.0, "b": 2.0, "c": 3.0}


@pytest.mark.parametrize("length", range(9))
def test_builds_go_on_to_the_least_while_all_agree_and_to_the_most_otherwise(length):
    rule = SettleRule(least=3, most=8)
    for seen in itertools.product("ab", repeat=length):
        agree = len(set(seen)) < 2
        assert wants_more(seen, rule=rule) == (length < 3 or (not agree and length < 8))


@given(CHOICES, st.sampled_from(["repeated", "mode", "fastest", "first"]))
def test_the_quoted_candidate_is_that_of_the_rule(seen, quote):
    settled = settle(seen, [TIMES[name] for name in seen], rule=SettleRule(quote=quote))
    by_speed = sorted(set(seen), key=TIMES.__getitem__)
    most = max(map(seen.count, by_speed))
    expected = {
        "first": seen[0],
        "fastest": by_speed[0],
        "mode": next(name for name in by_speed if seen.count(name) == most),
        "repeated": next((name for name in by_speed if seen.count(name) > 1), by_speed[0]),
    }
    assert settled.kernels == expected[quote]
    assert sum(candidate.builds for candidate in settled.candidates) == len(seen)
    assert {c.kernels: c.latency_us for c in settled.candidates} == {name: TIMES[name] for name in by_speed}
    rest = [candidate.builds for candidate in settled.candidates[1:]]
    assert rest == sorted(rest, reverse=True)


def test_the_note_says_why():
    rule = SettleRule()
    assert settle(["a"], [1.0], rule=rule).note == "one build"
    assert settle(["a"] * 4, [1.0] * 4, rule=rule).note == "all 4 builds chose these kernels"
    note = settle(["b", "a", "b", "a", "b"], [2.0, 1.0, 2.1, 1.1, 2.0], rule=rule).note
    assert note == "2 of 5 builds chose the quoted kernels: the fastest that at least two builds chose"


def test_a_candidate_has_the_median_of_its_builds():
    (only,) = settle(["a"] * 3, [1.0, 9.0, 2.0], rule=SettleRule()).candidates
    assert (only.latency_us, only.builds) == (2.0, 3)


@pytest.mark.parametrize("options", [{"least": 0}, {"least": 9}, {"quote": "luck"}])
def test_a_rule_that_makes_no_sense_is_refused(options):
    with pytest.raises(InputError):
        SettleRule(**options)


def test_settling_nothing_is_refused():
    with pytest.raises(InputError):
        settle([], [], rule=SettleRule())


def test_two_runs_quote_the_same_where_hiccups_flip_single_builds():
    """Rows whose builds are bad with 5 to 25 %, so many of them that single builds flip in 6.9 %."""
    rng, rule = np.random.default_rng(0), SettleRule()
    bad = np.where(rng.random(4000) < 0.28, rng.uniform(0.05, 0.25, 4000), 0.0)

    def run(rule):
        quoted = []
        for share in bad:
            seen = []
            while wants_more(seen, rule=rule):
                seen.append("b" if rng.random() < share else "a")
            quoted.append(settle(seen, [TIMES[name] for name in seen], rule=rule).kernels)
        return np.array(quoted)

    single = SettleRule(least=1, most=1)
    assert 0.05 < np.mean(run(single) != run(single)) < 0.09
    assert np.mean(run(rule) != run(rule)) < 0.005
