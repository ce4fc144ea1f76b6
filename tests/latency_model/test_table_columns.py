import dataclasses
import gc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import conv_shapes, measurements

from latency_model.environment import Environment
from latency_model.errors import InputError, TableError
from latency_model.measurement import Candidate, Measurement
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.shipped import shipped_tables
from latency_model.table import LatencyTable
from latency_model.table_columns import MEASURED, ShapeReader, in_order, measured_columns
from latency_model.table_columns import measurements as decode
from latency_model.table_file import read_columns

SHAPE = ConvShape(1, 8, 9, 9, 16)
OPS = (
    OpShape("Add", ((1, 8, 9, 9), (1, 8, 9, 9))),
    OpShape("Gemm", ((1, 64),), ((10, 64), (10,)), (("transB", "1"),), "fp16"),
    OpShape("Add", ((1, 8, 9, 9),), ((8, 1, 1),)),
)
ENVIRONMENT = Environment("chip", "cpu", "fake", "1")

optional = st.none() | st.floats(0, 1e6)
full = st.builds(
    dataclasses.replace,
    measurements(),
    cold_us=optional,
    boundary_us=optional,
    error=optional,
    candidates=st.lists(
        st.builds(Candidate, st.text("ab+", max_size=3), st.floats(0, 1e6), st.integers(1, 9)), max_size=3
    ).map(tuple),
    temperature_c=optional,
    power_w=optional,
    note=st.text("ab ", max_size=3),
)


def test_columns_are_the_fields_in_their_order():
    assert [name for name, _ in MEASURED] == [field.name for field in dataclasses.fields(Measurement)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.data())
def test_everything_in_a_row_survives_the_file(tmp_path, data):
    rows = data.draw(st.dictionaries(conv_shapes(), full, max_size=4))
    ops = data.draw(st.dictionaries(st.sampled_from(OPS), full, max_size=3))
    table = LatencyTable(ENVIRONMENT, rows, failures={OPS[0]: "no"} if OPS[0] not in ops else {}, ops=ops)
    table.save(tmp_path / "t")
    again = LatencyTable.load(tmp_path / "t")
    assert again == table
    assert list(again) == sorted(rows)
    assert list(again.ops) == sorted(ops)


@given(st.lists(full, max_size=4), st.integers(0, 3))
def test_a_slice_of_the_columns_is_decoded_like_the_rows(rows, start):
    columns = pa.table(measured_columns(rows)) if rows else pa.table({"latency_us": pa.array([], "float64")})
    assert decode(columns.slice(start)) == rows[start:]


@given(st.lists(conv_shapes(), max_size=6))
def test_order_and_texts(shapes):
    assert in_order(shapes) == sorted(shapes)
    read = ShapeReader()
    # Twice: the second time every ending is known.
    assert [read(shape.text) for shape in (*shapes, *shapes)] == [*shapes, *shapes]


@pytest.mark.parametrize(
    "text",
    [
        "1x8x9x9 ->1_6 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
        "1x8x+9x9 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
        "1x8x9 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
        "0x8x9x9 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
        "1x8x9x9 ->16 k3 s1 p1 g1 conv+bias+relu fp32",
        "",
    ],
)
def test_a_reader_refuses_what_parse_refuses(text):
    read = ShapeReader()
    read(SHAPE.text)
    with pytest.raises(InputError):
        ConvShape.parse(text)
    with pytest.raises(InputError):
        read(text)


@pytest.mark.parametrize("path", shipped_tables(), ids=lambda path: path.stem)
def test_the_shipped_tables_load_and_survive_a_round_trip(path, tmp_path):
    table = LatencyTable.load(path)
    assert len(table) == read_columns(path)[1]["kind"].to_pylist().count("conv") > 0
    table.save(tmp_path / "again.parquet")
    assert LatencyTable.load(tmp_path / "again.parquet") == table


# The table that shipped before format version 2, as it was written then.
V1 = Path(__file__).parents[1] / "data" / "table_v1.parquet"


def test_a_table_of_version_1_lacks_the_later_columns_and_loads():
    path = V1
    assert pq.read_schema(path).metadata[b"gharial.format_version"] == b"1"
    assert "candidates" not in pq.read_schema(path).names
    table = LatencyTable.load(path)
    assert all(row.candidates == () and row.cold_us is None and row.note == "" for row in table.values())
    assert table.networks and not table.ops
    assert len(table) == 254


def test_version_1_files_without_the_shipped_one(tmp_path):
    path = tmp_path / "v2.parquet"
    LatencyTable(ENVIRONMENT, {SHAPE: Measurement(2, 1, 3, 1, 1, 3, 3, 1, 5, "host")}).save(path)
    columns = pq.read_table(path)
    later = ["cold_us", "boundary_us", "error", "candidates", "temperature_c", "power_w", "note"]
    old = columns.drop_columns(later)
    old = old.replace_schema_metadata({**columns.schema.metadata, b"gharial.format_version": b"1"})
    pq.write_table(old, tmp_path / "v1.parquet")
    assert LatencyTable.load(tmp_path / "v1.parquet") == LatencyTable.load(path)


def _rewritten(tmp_path, change):
    path = tmp_path / "t.parquet"
    LatencyTable(ENVIRONMENT, {SHAPE: Measurement(2, 1, 3, 1, 1, 3, 3, 1, 5, "host")}).save(path)
    columns = pq.read_table(path)
    pq.write_table(change(columns).replace_schema_metadata(change(columns).schema.metadata), path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop_columns(["config"]),
        lambda t: t.set_column(0, "kind", pa.array(["other"])),
        lambda t: t.set_column(1, "config", pa.array(["1x8"])),
        lambda t: t.set_column(2, "latency_us", pa.array([None], "float64")),
        lambda t: t.set_column(2, "latency_us", pa.array([-1.0])),
    ],
)
def test_contents_that_make_no_sense_are_one_sentence(tmp_path, change):
    with pytest.raises(TableError, match=r"is damaged \(") as error:
        LatencyTable.load(_rewritten(tmp_path, change))
    assert "\n" not in str(error.value)


def test_a_later_version_is_refused(tmp_path):
    path = _rewritten(
        tmp_path,
        lambda t: t.replace_schema_metadata({**t.schema.metadata, b"gharial.format_version": b"3"}),
    )
    with pytest.raises(TableError, match="later version"):
        LatencyTable.load(path)


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_the_garbage_collector_as_it_was(tmp_path, enabled):
    path = _rewritten(tmp_path, lambda t: t.set_column(1, "config", pa.array(["1x8"])))
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(TableError):
            LatencyTable.load(path)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
