"""Smoothed matrices: what they keep, against averages written out on the turned matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.expectation import smoothed
from latency_model.grid import convex_minorant


def staircase(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    matrix = np.cumsum(np.cumsum(rng.uniform(0, 1, (rows + 1, columns + 1)) ** 8, 0), 1) + 1
    matrix[0] = matrix[:, 0] = 0
    return matrix


def average(line, width):
    """Average the counts from 1 of a line, place by place, on its turned continuation."""
    stairs = line[1:]
    last = len(stairs) - 1
    if last < 2:
        return line
    base = min(width + 1, last)

    def read(place):
        if place < 0:
            return 2 * stairs[0] - stairs[-place]
        if place > last:
            return 2 * stairs[-1] - stairs[2 * last - place]
        return stairs[place]

    offsets = [d for d in range(-last, last + 1) if abs(d) < base]
    weights = [base - abs(d) for d in offsets]
    found = [
        sum(w * read(i + d) for w, d in zip(weights, offsets, strict=True)) / sum(weights)
        for i in range(last + 1)
    ]
    return np.array([line[0], *found])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 57, 400])
@pytest.mark.parametrize("width", [0.3, 1, 4.5, 30, 1000])
def test_lines_against_averages_written_out(size, width):
    line = np.random.default_rng(size).uniform(1, 9, size + 1)
    found = smoothed({"a": line}, width)["a"]
    np.testing.assert_allclose(found, average(line, width), rtol=1e-12)


def test_matrices_are_averaged_along_both_axes():
    matrix = np.random.default_rng(0).uniform(1, 9, (14, 9))
    expected = matrix.copy()
    for column in range(1, 9):
        expected[:, column] = average(expected[:, column], 2.5)
    for row in range(1, 14):
        expected[row] = average(expected[row], 2.5)
    np.testing.assert_allclose(smoothed({"a": matrix}, 2.5)["a"], expected, rtol=1e-12)


def test_width_0_is_the_matrix_and_near_0_nearly():
    matrix = staircase(20, 30)
    assert smoothed({"a": matrix}, 0)["a"] is matrix
    np.testing.assert_allclose(smoothed({"a": matrix}, 1e-9)["a"], matrix, rtol=1e-7)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 60), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_monotone_stays_monotone_within_its_range_and_keeps_its_corners(rows, columns, width, seed, minorant):
    matrix = staircase(rows, columns, seed)
    matrix = convex_minorant(matrix) if minorant else matrix
    found = smoothed({"a": matrix}, width)["a"]
    tiny = 1e-12 * matrix.max()
    assert (np.diff(found, axis=0) >= -tiny).all()
    assert (np.diff(found, axis=1) >= -tiny).all()
    assert found[1:, 1:].max() <= matrix.max() + tiny
    assert (found[0] == 0).all() and (found[:, 0] == 0).all()
    for corner in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        assert found[corner] == pytest.approx(matrix[corner], rel=1e-12)


@given(st.integers(1, 60), st.floats(0, 90), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_raw_stays_within_its_range(size, width, seed):
    line = np.random.default_rng(seed).uniform(1, 9, size + 1)
    found = smoothed({"a": line}, width)["a"][1:]
    assert found.min() >= line[1:].min() - 1e-12
    assert found.max() <= line[1:].max() + 1e-12


@pytest.mark.parametrize("width", [0.5, 3, 17.25])
def test_straight_lines_stay(width):
    line = np.r_[0.0, 5 + 3 * np.arange(1, 60)]
    np.testing.assert_allclose(smoothed({"a": line}, width)["a"], line, rtol=1e-12)


def test_a_plateau_at_full_width_gets_a_slope():
    line = np.r_[0.0, np.full(32, 5.0), np.full(32, 9.0)]
    assert np.diff(smoothed({"a": line}, 40)["a"])[-1] > 0.01


def test_equal_arrays_are_averaged_once():
    matrix = staircase(5, 5)
    found = smoothed({"a": matrix, "b": matrix, "c": matrix.copy()}, 2)
    assert found["a"] is found["b"]
    assert found["a"] is not found["c"]


@pytest.mark.parametrize("width", [-1, np.nan, np.inf])
def test_widths_that_are_none(width):
    with pytest.raises(InputError, match="width of the smoothing"):
        smoothed({}, width)
