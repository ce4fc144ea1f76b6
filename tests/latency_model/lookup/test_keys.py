"""Keys of convolutions: packed without loss, the same for one and for many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import InputError
from latency_model.lookup.keys import FIELDS, Packing, bucket_of, fields_of, mixed
from latency_model.shapes import ConvShape

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
KEYS = st.lists(st.tuples(*[NUMBERS] * len(FIELDS)), min_size=1, max_size=20)


def arrays(keys):
    return [np.array(values, dtype=np.int64) for values in zip(*keys, strict=True)]


@given(KEYS)
def test_packing_loses_nothing(keys):
    fields = arrays(keys)
    packing = Packing.of(fields)
    assert packing.fits(fields).all()
    back = packing.fields(packing.words(fields))
    assert [list(values) for values in back] == [list(values) for values in fields]
    assert packing.count <= len(FIELDS)


@given(KEYS, st.integers(1, 2**32 - 1))
def test_one_key_and_many_go_the_same_way(keys, buckets):
    fields = arrays(keys)
    packing = Packing.of(fields)
    words = packing.words(fields)
    bucket = bucket_of(words, buckets)
    for place, key in enumerate(keys):
        assert packing.fits(key)
        one = packing.words(key)
        assert one == [int(word[place]) for word in words]
        assert mixed(one) == int(mixed(words)[place])
        assert bucket_of(one, buckets) == int(bucket[place]) < buckets


@given(KEYS, KEYS)
def test_what_is_wider_or_negative_does_not_fit(keys, others):
    packing = Packing.of(arrays(keys))
    most = [2**bits - 1 for bits in packing.bits]
    fit = packing.fits(arrays(others)).tolist()
    assert fit == [all(v <= m for v, m in zip(other, most, strict=True)) for other in others]
    assert fit == [packing.fits(other) for other in others]
    assert not packing.fits([-1] * len(FIELDS))
    assert not packing.fits(arrays([(-1,) * len(FIELDS)])).any()


def test_two_words_hold_a_table_of_every_usual_size():
    largest = [(1024, 4096, 1024, 1024, 4096, 4096, 200)]
    assert Packing.of(arrays(largest)).count == 2


def test_buckets_of_neighbouring_keys_are_as_full_as_those_of_chance():
    batch, channels = (grid.ravel() for grid in np.meshgrid(np.arange(1, 101), np.arange(1, 201)))
    one = np.ones_like(batch)
    fields = [batch, channels, one, one, one, one, one]
    packing = Packing.of(fields)
    filled = np.bincount(bucket_of(packing.words(fields), 20_000).astype(int), minlength=20_000)
    # Of n keys in n buckets, a share of 1/e stays empty and 9 in one bucket are rare.
    assert 0.35 < (filled == 0).mean() < 0.39
    assert filled.max() <= 10


def test_a_wrong_packing_is_refused():
    for bits in [(1, 2), (0,) * 7, (64,) * 7]:
        with pytest.raises(InputError, match="7 fields"):
            Packing(bits)


def test_columns_that_are_no_integers_or_have_no_kind_are_refused():
    columns = ConvColumns.of([ConvShape(1, 3, 8, 8, 4)])
    arrays = {name: getattr(columns, name) for name in FIELDS}
    with pytest.raises(InputError, match="height of convolutions holds float64"):
        fields_of(ConvColumns(**{**arrays, "height": np.array([8.5])}, kinds=columns.kinds), {})
    for kind in (-1, 1):
        with pytest.raises(InputError, match="beyond the 1 kinds"):
            fields_of(ConvColumns(**{**arrays, "kind": np.array([kind])}, kinds=columns.kinds), {})
    assert fields_of(columns, {Kind(): 3})[-1].tolist() == [3]
    assert fields_of(columns, {})[-1].tolist() == [-1]
