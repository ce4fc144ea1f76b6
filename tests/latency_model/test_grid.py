import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import InputError, TableError
from latency_model.grid import ChannelGrid, convex_minorant, efficient_counts
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

points = st.dictionaries(
    st.tuples(st.integers(1, 12), st.integers(1, 12)), st.floats(0.5, 100), min_size=1, max_size=25
)


def grid_of(synthetic, latencies):
    shape = synthetic.shape
    rows = {
        shape.with_channels(a, b): synthetic.measurement(latency) for (a, b), latency in latencies.items()
    }
    return ChannelGrid.from_rows(rows)


def brute_envelope(latencies, a, b):
    return min((v for (x, y), v in latencies.items() if x >= a and y >= b), default=np.inf)


@given(points)
@settings(max_examples=60, deadline=None)
def test_envelope_and_raw_against_brute_force(synthetic, latencies):
    grid = grid_of(synthetic, latencies)
    for a in range(1, 14):
        for b in range(1, 14):
            expected = brute_envelope(latencies, a, b)
            if not np.isfinite(expected):
                with pytest.raises(TableError, match="beyond the table"):
                    grid.at(a, b)
                with pytest.raises(TableError, match="beyond the table"):
                    grid.dense(max_in=a, max_out=b)
                continue
            dense = grid.dense("envelope", max_in=a, max_out=b)
            raw = grid.dense("raw", max_in=a, max_out=b)
            assert dense.shape == (a + 1, b + 1)
            assert dense[a, b] == expected
            assert raw[a, b] == latencies.get((a, b), expected)
            point = grid.at(a, b)
            assert point.latency_us == latencies.get((a, b), expected)
            assert point.source == ("measured" if (a, b) in latencies else "padded")
            assert latencies[point.padded_to] == point.latency_us
            assert point.low_us < point.latency_us < point.high_us


@given(points)
@settings(max_examples=40, deadline=None)
def test_envelope_is_monotone_and_zero_without_channels(synthetic, latencies):
    a, b = (max(pair[side] for pair in latencies) for side in (0, 1))
    dense = grid_of(synthetic, {**latencies, (a, b): 50.0}).dense()
    assert (np.diff(dense, axis=0) >= 0).all()
    assert (np.diff(dense, axis=1) >= 0).all()
    assert not dense[0].any()
    assert not dense[:, 0].any()


def test_a_depthwise_site_is_a_line(synthetic):
    shape = ConvShape.parse("1x16x8x8 ->32 k3 s1 p1 g16 conv+bias fp32 nchw")
    latencies = {4: 3.0, 8: 7.0, 12: 5.0, 16: 9.0}
    rows = {shape.with_channels(c, 2 * c): synthetic.measurement(v) for c, v in latencies.items()}
    grid = ChannelGrid.from_rows(rows)
    assert grid.linked
    np.testing.assert_array_equal(grid.dense(max_in=13), [0, 3, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5, 9])
    assert grid.dense("raw")[8] == 7
    assert grid.at(9, 18).padded_to == (12, 24)
    with pytest.raises(TableError, match="beyond"):
        grid.dense(max_in=17)
    assert grid.efficient_counts("in") == (4, 12, 16)


def test_from_table_takes_the_rows_of_one_site_only(synthetic):
    shape = synthetic.shape
    other = ConvShape.parse("1x16x8x8 ->16 k1 s1 p0 g1 conv+bias+relu fp32 nchw")
    rows = synthetic.rows_of(shape, [(8, 8), (16, 16)]) | synthetic.rows_of(other, [(8, 8)])
    table = LatencyTable(synthetic.environment, rows)
    assert ChannelGrid.from_table(table, shape.with_channels(5, 9)).inputs.tolist() == [8, 16]
    with pytest.raises(TableError, match=r"gharial profile MODEL --batch 4 --precision fp32 --out TABLE"):
        ChannelGrid.from_table(table, ConvShape.parse(shape.text.replace("1x16", "4x16")))
    with pytest.raises(InputError, match="one convolution site"):
        ChannelGrid.from_rows(rows)
    with pytest.raises(InputError, match="at least one channel"):
        ChannelGrid.from_rows(synthetic.rows_of(shape, [(8, 8)])).at(0, 8)
    with pytest.raises(InputError, match="unknown kind"):
        ChannelGrid.from_rows(synthetic.rows_of(shape, [(8, 8)])).dense("smooth")


def test_efficient_counts_end_plateaus_and_forgive_noise():
    costs = [0, 1, 1, 1, 2, 2, 2, 2.01, 3]
    assert efficient_counts(costs) == (3, 7, 8)
    assert efficient_counts(costs, rtol=0) == (3, 6, 7, 8)
    assert efficient_counts([0, 5]) == (1,)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0, 0.2))
@settings(deadline=None)
def test_no_efficient_count_is_matched_by_a_larger_one(steps, rtol):
    costs = np.concatenate(([0], np.maximum.accumulate(np.array(steps) + 1)))
    chosen = efficient_counts(costs, rtol=rtol)
    assert chosen[-1] == len(costs) - 1
    for count in range(1, len(costs)):
        ceiling = min(c for c in chosen if c >= count)
        assert costs[ceiling] * (1 - rtol) <= costs[count]
    for left, right in itertools.pairwise(chosen):
        assert costs[left] < costs[right] * (1 - rtol)


def hull_by_brute_force(values):
    n = len(values)
    out = values.copy()
    for k in range(n):
        for i in range(k):
            for j in range(k + 1, n):
                share = (k - i) / (j - i)
                out[k] = min(out[k], values[i] * (1 - share) + values[j] * share)
    return out


@given(st.lists(st.floats(0.5, 100), min_size=1, max_size=14))
@settings(deadline=None)
def test_minorant_of_a_line_is_its_lower_hull(steps):
    line = np.array([0, *steps])
    np.testing.assert_allclose(convex_minorant(line), hull_by_brute_force(line), rtol=1e-9, atol=1e-9)


def biconvex_by_brute_force(values):
    values = values.copy()
    for _ in range(200):
        before = values.copy()
        for row in range(values.shape[0]):
            values[row] = hull_by_brute_force(values[row])
        for column in range(values.shape[1]):
            values[:, column] = hull_by_brute_force(values[:, column])
        if np.abs(values - before).max() < 1e-12:
            break
    return values


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_minorant_of_a_matrix(rows, columns, step, monotone, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(1, 50, (-(-rows // step), -(-columns // step)))
    if monotone:
        coarse = np.maximum.accumulate(np.maximum.accumulate(coarse, 0), 1)
    matrix = np.zeros((rows + 1, columns + 1))
    matrix[1:, 1:] = np.repeat(np.repeat(coarse, step, 0), step, 1)[:rows, :columns]
    found = convex_minorant(matrix)
    np.testing.assert_allclose(found, biconvex_by_brute_force(matrix), rtol=1e-6, atol=1e-6)
    assert (found <= matrix + 1e-9).all()
    assert (np.diff(found, 2, axis=0) >= -1e-9).all()
    assert (np.diff(found, 2, axis=1) >= -1e-9).all()
    assert not found[0].any()


def test_minorant_refuses_what_is_no_latency():
    for wrong in ([0, np.inf], [1.0, 2.0], [0, -1.0], [[0, 0], [1, 1]]):
        with pytest.raises(InputError):
            convex_minorant(np.array(wrong))
