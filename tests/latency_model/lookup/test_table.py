"""Lookups against a dictionary: exact, complete, and never a number for what was not measured."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_model.columns import ConvColumns, Kind
from latency_model.environment import Environment
from latency_model.errors import InputError, TableError
from latency_model.lookup import LookupRow, LookupTable, keys, table
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

HERE = Environment("Test CPU", "cpu", "fake", "1.0")
# Few values, so that rows and queries meet; among them sizes that need many bits.
SIZES = st.sampled_from([7, 8, 9, 224, 65_535, 65_536, 100_000, 2**40])
CHANNELS = st.sampled_from([1, 2, 3, 4, 64, 100_000])


@st.composite
def shapes(draw):
    groups = draw(st.sampled_from([1, 1, 2, 64]))
    return ConvShape(
        draw(SIZES),
        groups * draw(CHANNELS),
        draw(SIZES),
        draw(SIZES),
        groups * draw(CHANNELS),
        kernel=draw(st.sampled_from([(3, 3), (7, 1), (1, 7)])),
        stride=draw(st.sampled_from([(1, 1), (1, 2)])),
        padding=draw(st.sampled_from([(1, 1, 1, 1), (0, 1, 2, 3)])),
        groups=groups,
        pattern=draw(st.sampled_from(["conv", "conv+bias+relu"])),
        precision=draw(st.sampled_from(["fp16", "fp32"])),
    )


LATENCIES = st.floats(1e-3, 1e7)
MAPPINGS = st.dictionaries(shapes(), st.tuples(LATENCIES, LATENCIES, LATENCIES).map(sorted), max_size=30)


def made(rows):
    columns = ConvColumns.of(list(rows))
    values = np.array(list(rows.values()), dtype=np.float64).reshape(-1, 3)
    return LookupTable.of(HERE, columns, values[:, 1], values[:, 0], values[:, 2])


def agree(looked_up, rows, queries):
    """Compare every way to look up with the dictionary ``rows``."""
    result = looked_up.lookup(ConvColumns.of(queries))
    assert len(result) == len(queries)
    for place, shape in enumerate(queries):
        got = (result.low_us[place], result.latency_us[place], result.high_us[place])
        if shape in rows:
            assert result.found[place] and shape in looked_up
            assert list(got) == list(rows[shape])
            assert looked_up.get(shape) == LookupRow(got[1], got[0], got[2]) == looked_up[shape]
        else:
            assert not result.found[place] and shape not in looked_up
            assert all(map(math.isnan, got))
            assert looked_up.get(shape) is None
    assert len(looked_up) == len(rows)
    assert set(looked_up) == set(rows)


@given(MAPPINGS, st.lists(shapes(), max_size=30))
def test_lookups_agree_with_a_dictionary(rows, others):
    agree(made(rows), rows, [*rows, *others, *rows])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MAPPINGS, st.lists(shapes(), max_size=30), st.sampled_from([0, 1, 3]))
def test_keys_are_told_apart_when_their_hashes_are_equal(monkeypatch, rows, others, bits):
    mixed = keys.mixed
    with monkeypatch.context() as patch:
        patch.setattr(keys, "mixed", lambda words: mixed(words) & ((2**bits - 1) << (64 - bits)))
        agree(made(rows), rows, [*rows, *others])


def test_many_queries_are_found_across_parts(monkeypatch):
    monkeypatch.setattr(table, "_PART", 7)
    monkeypatch.setattr(table, "_SHAPES", 5)
    rows = {ConvShape(1, 8, 16, 16, count): (count, count + 0.5, count + 1) for count in range(1, 60)}
    agree(made(rows), rows, [ConvShape(1, 8, 16, 16, count) for count in range(80, 0, -1)])


def test_a_key_that_differs_in_one_part_only_is_not_found():
    shape = ConvShape(2, 4, 9, 10, 8, groups=2)
    one = made({shape: (1.0, 2.0, 3.0)})
    changes = [
        *({name: getattr(shape, name) * 2} for name in ("batch", "in_channels", "height", "width")),
        {"out_channels": 16},
        {"groups": 1},
        {"kernel": (3, 1)},
        {"stride": (1, 2)},
        {"padding": (1, 1, 1, 0)},
        {"dilation": (1, 2)},
        {"pattern": "conv"},
        {"precision": "int8"},
        {"layout": "nhwc"},
    ]
    queries = [dataclasses.replace(shape, **change) for change in changes]
    agree(one, {shape: (1.0, 2.0, 3.0)}, [shape, *queries])


def test_sizes_wider_than_the_keys_are_missing_and_do_not_wrap():
    one = made({ConvShape(1, 1, 8, 8, 1): (1.0, 2.0, 3.0)})
    bits = one.parts.packing.bits
    wide = [ConvShape(1 + 2 ** bits[0], 1, 8, 8, 1), ConvShape(1, 1, 8, 8 + 2 ** bits[3], 1)]
    assert not one.lookup(ConvColumns.of(wide)).found.any()
    columns = ConvColumns.of(wide)
    below = dataclasses.replace(columns, batch=np.array([-1, 0]))
    assert not one.lookup(below).found.any()


def test_an_empty_table_finds_nothing():
    none = made({})
    agree(none, {}, [ConvShape(1, 1, 8, 8, 1)])
    assert none.nbytes == 0
    assert len(none.columns) == 0


def test_a_latency_table_keeps_its_numbers_to_the_last_bit(synthetic):
    site = ConvShape(8, 64, 14, 14, 64, precision="fp16")
    measured = LatencyTable(HERE, synthetic.rows_of(site, [(a, b) for a in (8, 24) for b in range(1, 65)]))
    looked_up = LookupTable.build(measured)
    assert looked_up.environment == HERE
    result = looked_up.lookup(ConvColumns.of(list(measured)))
    assert result.latency_us.tolist() == [row.latency_us for row in measured.values()]
    assert result.low_us.tolist() == [row.low_us for row in measured.values()]
    assert result.high_us.tolist() == [row.high_us for row in measured.values()]


def test_columns_and_latencies_share_one_order():
    rows = {ConvShape(1, 8, 16, 16, count): (count, count + 0.5, count + 1) for count in range(1, 60)}
    looked_up = made(rows)
    for shape, latency in zip(looked_up.columns, looked_up.latency_us, strict=True):
        assert rows[shape][1] == latency


@pytest.mark.parametrize(("batch", "groups", "most"), [(256, 1, 36), (1024, 2048, 44), (2**40, 2048, 44)])
def test_bytes_of_a_row(batch, groups, most):
    counts = range(groups, 1000 * groups, groups)
    rows = {ConvShape(batch, groups, 224, 224, count, groups=groups): (1, 2, 3) for count in counts}
    assert made(rows).nbytes == most * len(rows)


def pair(first, second):
    columns = ConvColumns.of(
        [ConvShape(1, 8, 16, 16, 8), ConvShape(1, 4, 7, 7, 4), ConvShape(1, 8, 16, 16, 8)]
    )
    values = np.array([first, (1.0, 1.0, 1.0), second])
    return LookupTable.of(HERE, columns, values[:, 1], values[:, 0], values[:, 2])


def test_rows_that_say_the_same_twice_become_one():
    twice = pair((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    agree(twice, {ConvShape(1, 8, 16, 16, 8): (1, 2, 3), ConvShape(1, 4, 7, 7, 4): (1, 1, 1)}, [])
    assert twice[ConvShape(1, 8, 16, 16, 8)] == LookupRow(2.0, 1.0, 3.0)


@pytest.mark.parametrize("other", [(1.0, 2.5, 3.0), (0.5, 2.0, 3.0), (1.0, 2.0, 3.5)])
def test_rows_that_disagree_are_refused(other):
    with pytest.raises(TableError, match=r"rows 0 and 2 are both 1x8x16x16 .* say 2 and .* \(1 such pairs\)"):
        pair((1.0, 2.0, 3.0), other)


@pytest.mark.parametrize(
    "values",
    [(1, math.nan, 3), (math.nan, 2, 3), (1, 2, math.inf), (0, 0, 1), (-3, -2, -1), (2, 1, 3), (1, 4, 3)],
)
def test_impossible_latencies_are_refused(values):
    with pytest.raises(TableError, match=r"row 2 \(1x8x16x16 .* must be finite, positive"):
        pair((1.0, 2.0, 3.0), values)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"height": -5},
        {"width": 0},
        {"groups": 3},
        {"groups": 0},
        {"in_channels": 0},
        {"height": 0},
    ],
)
def test_rows_that_are_no_convolution_are_refused(change):
    columns = ConvColumns.of([ConvShape(1, 8, 16, 16, 8)])
    wrong = dataclasses.replace(columns, **{name: np.array([value]) for name, value in change.items()})
    one = np.ones(1)
    with pytest.raises(InputError, match="not a convolution"):
        LookupTable.of(HERE, wrong, one, one, one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "conv+pool"}, "unknown fused pattern"),
        ({"kernel": (99, 1)}, "larger than the padded input"),
    ],
)
def test_kinds_that_are_none_are_refused(change, message):
    columns = ConvColumns.of([ConvShape(1, 8, 16, 16, 8)])
    wrong = dataclasses.replace(columns, kinds=(Kind(**change),))
    one = np.ones(1)
    with pytest.raises(InputError, match=message):
        LookupTable.of(HERE, wrong, one, one, one)


def test_arrays_of_other_lengths_are_refused():
    columns = ConvColumns.of([ConvShape(1, 8, 16, 16, 8)])
    with pytest.raises(TableError, match="1 convolutions need as many latencies"):
        LookupTable.of(HERE, columns, np.ones(1), np.ones(2), np.ones(1))


def test_equal_kinds_of_the_columns_are_one_and_unused_ones_are_none():
    columns = ConvColumns.of([ConvShape(1, 8, 16, 16, 8), ConvShape(1, 8, 16, 16, 9)])
    odd = dataclasses.replace(columns, kind=np.array([2, 0]), kinds=(Kind(), Kind(precision="int8"), Kind()))
    one = np.ones(2)
    looked_up = LookupTable.of(HERE, odd, one, one, one)
    assert looked_up.parts.kinds == (Kind(),)
    assert looked_up.lookup(columns).found.all()
    assert looked_up.lookup(odd).found.all()
    twice = dataclasses.replace(columns.take(np.array([0, 0])), kind=np.array([2, 0]), kinds=odd.kinds)
    with pytest.raises(TableError, match="rows 0 and 1 are both"):
        LookupTable.of(HERE, twice, np.array([1.0, 2.0]), one, one * 2)
