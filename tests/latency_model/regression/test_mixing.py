"""One number for several possible ones against trying all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.regression.mixing import least_relative_error, points


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 1)), min_size=1, max_size=6))
def test_no_other_number_has_a_lower_expected_relative_error(pairs: list[tuple[float, float]]) -> None:
    logs, chances = np.array(pairs).T
    (found,) = least_relative_error(logs[None], chances[None])

    def expected(log: float) -> float:
        return float((chances * np.abs(np.exp(log - logs) - 1)).sum())

    # The error is linear between the possible numbers: its least is at one of them.
    assert expected(found) <= min(map(expected, logs)) + 1e-9


def test_one_of_two_kernels_not_their_mean() -> None:
    found = least_relative_error(np.log([[10.0, 30.0], [10.0, 30.0]]), np.array([[0.3, 0.7], [0.2, 0.8]]))
    np.testing.assert_allclose(np.exp(found), [10.0, 30.0])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 12))
def test_points_are_means_of_the_sorted_values_in_groups_of_one_size(values: list[float], count: int) -> None:
    (found,) = points(np.array([values]), count)
    assert len(found) == min(count, len(values))
    assert (np.diff(found) >= -1e-12).all()
    assert min(values) - 1e-9 <= found[0]
    assert found[-1] <= max(values) + 1e-9
    if len(values) % len(found) == 0:
        groups = np.sort(values).reshape(len(found), -1)
        np.testing.assert_allclose(found, groups.mean(axis=1), atol=1e-12)
        assert found.mean() == pytest.approx(np.mean(values), abs=1e-9)
