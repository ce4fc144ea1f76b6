import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from latency_model.rows.duplicates import group, merge

# A loaded machine draws slowly; that is no failure.
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
numbers = st.sampled_from([0, 1, 2, -5, 2**31, 2**62, -(2**61)])


@slow
# The first two would be alike once 5 * (2**62 - 1) has wrapped around.
@example([(2**62 - 1, 0), ((2**62 - 9) // 5, 4), (0, 1), (0, 2), (0, 3)])
@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.tuples(*[numbers] * n), min_size=1, max_size=12)))
def test_groups_are_those_of_a_dictionary(lines):
    columns = [np.array(column, dtype=np.int64) for column in zip(*lines, strict=True)]
    first, place = group(columns)
    known: dict = {}
    expected = [known.setdefault(line, len(known)) for line in lines]
    assert place.tolist() == expected
    assert first.tolist() == [lines.index(line) for line in known]


def test_no_rows_are_no_groups():
    first, place = group([np.array([], dtype=np.int64)])
    assert len(first) == len(place) == 0


@slow
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(1e-3, 1e3) | st.just(float("nan"))), min_size=1, max_size=20
    )
)
def test_merging_is_the_median_without_nan(lines):
    _, place = group([np.array([key for key, _ in lines], dtype=np.int64)])
    values = np.array([value for _, value in lines])
    merged = merge(place, values)
    for number in range(place.max() + 1):
        held = values[place == number]
        known = held[~np.isnan(held)]
        assert merged.rows[number] == len(held)
        assert place[merged.typical[number]] == number
        if not len(known):
            assert np.isnan([merged.median[number], merged.least[number], merged.greatest[number]]).all()
            continue
        np.testing.assert_allclose(merged.median[number], np.median(known), rtol=1e-12)
        assert (merged.least[number], merged.greatest[number]) == (known.min(), known.max())
        assert values[merged.typical[number]] <= merged.median[number]
