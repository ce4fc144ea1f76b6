import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import conv_shapes

from latency_model.columns import ConvColumns
from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.lookup import LookupResult, LookupTable
from latency_model.lookup.arrow import (
    columns_from_arrow,
    columns_to_arrow,
    result_from_arrow,
    result_to_arrow,
)
from latency_model.lookup.keys import FIELDS

ENVIRONMENT = Environment("d", "cpu", "r", "1")


def batch(**changed):
    """Return a record batch that asks for three convolutions of one kind, with columns changed."""
    arrays = {name: pa.array([1, 2, 3], pa.int64()) for name in FIELDS} | {"kind": pa.array([0, 0, 0])}
    arrays |= changed
    found = pa.record_batch(list(arrays.values()), names=list(arrays))
    return found.replace_schema_metadata({b"gharial.kinds": b"[{}]"})


def written(*batches, options=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for each in batches:
            writer.write_batch(each)
    return sink.getvalue().to_pybytes()


@given(st.lists(conv_shapes(), max_size=20))
@settings(max_examples=30, deadline=None)
def test_columns_come_back(shapes):
    assert list(columns_from_arrow(columns_to_arrow(ConvColumns.of(shapes)))) == shapes


def test_results_come_back_to_the_last_bit():
    found = LookupResult(
        np.array([0.1 + 0.2, np.nan]),
        np.array([1e-300, np.nan]),
        np.array([1.5, np.nan]),
        np.array([True, False]),
    )
    back = result_from_arrow(result_to_arrow(found))
    for name in ("latency_us", "low_us", "high_us", "found"):
        assert getattr(back, name).tobytes() == getattr(found, name).tobytes()
    assert back.found.dtype == np.bool_


def test_any_integers_and_several_batches_will_do():
    small = pa.array([1, 2, 3], pa.uint8())
    assert len(columns_from_arrow(written(batch(batch=small), batch(batch=small)))) == 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"no stream at all, but some bytes", "cannot be read"),
        (written(batch(batch=pa.array([1.5, 2.0, 3.0]))), "integers"),
        (written(batch(batch=pa.array([1, None, 3]))), "nulls"),
        (written(batch(batch=pa.array([1, 2, 2**64 - 1], pa.uint64()))), "cannot be read"),
        (written(batch(more=pa.array([1, 2, 3]))), "its columns are"),
        (written(batch().replace_schema_metadata(None)), "metadata"),
        (written(batch().replace_schema_metadata({b"gharial.kinds": b"{}"})), "list"),
        (written(batch().replace_schema_metadata({b"gharial.kinds": b"[[["})), "kinds cannot be read"),
        (
            written(batch().replace_schema_metadata({b"gharial.kinds": b'[{"size": 1}]'})),
            "kinds cannot be read",
        ),
        (written(batch().replace_schema_metadata({b"gharial.kinds": b"[3]"})), "kinds|cannot be read"),
        (written(batch(), options=pa.ipc.IpcWriteOptions(compression="zstd")), "compressed"),
        (written(batch(), options=pa.ipc.IpcWriteOptions(compression="lz4")), "compressed"),
        (written(batch(kind=pa.array(["a", "b", "a"]).dictionary_encode())), "dictionary|integers"),
    ],
)
def test_other_streams_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        columns_from_arrow(data)


def test_too_many_are_refused():
    with pytest.raises(InputError, match="asks for 3 convolutions; send up to 2"):
        columns_from_arrow(written(batch()), most=2)


def test_a_bomb_of_a_few_bytes_is_refused_unread():
    zeros = {name: pa.array(np.zeros(2_000_000, dtype=np.int64)) for name in FIELDS}
    data = written(batch(**zeros), options=pa.ipc.IpcWriteOptions(compression="zstd"))
    assert len(data) < 100_000
    with pytest.raises(InputError, match="compressed"):
        columns_from_arrow(data)


def test_damaged_streams_are_refused_or_answered(synthetic):
    shapes = [synthetic.shape.with_channels(a, b) for a in (8, 16) for b in range(8, 80, 8)]
    us = np.linspace(1, 2, len(shapes))
    columns = ConvColumns.of(shapes)
    table = LookupTable.of(ENVIRONMENT, columns, us, us, us)
    data, draw, refused = columns_to_arrow(columns), random.Random(3), 0
    for _ in range(2000):
        bad = bytearray(data)
        for _ in range(draw.randint(1, 5)):
            bad[draw.randrange(len(bad))] = draw.randrange(256)
        if draw.random() < 0.3:
            del bad[draw.randrange(len(bad)) :]
        try:
            found = table.lookup(columns_from_arrow(bytes(bad), most=10**6))
        except InputError:
            refused += 1
        else:
            assert np.isnan(found.latency_us[~found.found]).all()
    assert refused > 500


def test_an_answer_that_is_none_is_refused():
    with pytest.raises(InputError, match="no answer"):
        result_from_arrow(b"nothing")
