"""The file of a lookup table: mapped, and either right or refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from latency_model.cli import app
from latency_model.columns import ConvColumns
from latency_model.environment import Environment
from latency_model.errors import InputError, TableError
from latency_model.lookup import LookupTable, file
from latency_model.lookup.keys import FIELDS
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

HERE = Environment("Test CPU", "cpu", "fake", "1.0", options=(("threads", "1"),))
COUNTS = range(1, 41)
SHAPES = [
    ConvShape(1, 8, 16, 16, c, padding=(0, 1, 2, 3), precision=p) for c in COUNTS for p in ("fp32", "int8")
]


def made(factor=1.0):
    latency = np.arange(1, len(SHAPES) + 1) * factor / 3
    return LookupTable.of(HERE, ConvColumns.of(SHAPES), latency, latency * 0.9, latency * 1.1)


def same(first, second):
    assert first.environment == second.environment
    assert first.parts.kinds == second.parts.kinds
    for ours, theirs in zip(first.parts.columns.values(), second.parts.columns.values(), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


@pytest.fixture
def path(tmp_path):
    made().save(tmp_path / "rows.lookup")
    return tmp_path / "rows.lookup"


@pytest.mark.parametrize("check", [True, False])
def test_a_table_comes_back_as_it_was_saved(path, check):
    loaded = LookupTable.load(path, check=check)
    same(loaded, made())
    assert set(loaded) == set(SHAPES)
    assert loaded.lookup(ConvColumns.of(SHAPES)).latency_us.tolist() == (np.arange(1, 81) / 3).tolist()


@pytest.mark.parametrize("shapes", [[], SHAPES[:1]])
def test_the_smallest_tables_come_back(tmp_path, shapes):
    latency = np.full(len(shapes), 2.0)
    small = LookupTable.of(HERE, ConvColumns.of(shapes), latency, latency, latency)
    small.save(tmp_path / "small.lookup")
    same(LookupTable.load(tmp_path / "small.lookup"), small)


def test_the_arrays_are_the_mapped_file(path):
    loaded = LookupTable.load(path)
    before = pa.total_allocated_bytes()
    again = LookupTable.load(path)
    assert pa.total_allocated_bytes() == before
    for array in (*loaded.parts.columns.values(), *again.parts.columns.values()):
        assert not array.flags.owndata
        assert not array.flags.writeable
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(path) in maps.read_text()


def test_the_file_may_be_deleted_or_replaced_while_it_is_mapped(path):
    loaded = LookupTable.load(path, check=False)
    made(2.0).save(path)
    same(loaded, made())
    same(LookupTable.load(path), made(2.0))
    path.unlink()
    same(loaded, made())


def test_saving_a_loaded_table_over_its_own_file(path):
    loaded = LookupTable.load(path)
    loaded.save(path)
    same(LookupTable.load(path), made())


def test_the_same_rows_in_another_order_are_the_same_answers(path, tmp_path):
    order = np.random.default_rng(0).permutation(len(SHAPES))
    latency = (np.arange(1, 81) / 3)[order]
    other = LookupTable.of(HERE, ConvColumns.of(SHAPES).take(order), latency, latency * 0.9, latency * 1.1)
    assert dict(other) == dict(made())


def test_other_programs_read_the_columns(path):
    with pa.memory_map(str(path)) as source:
        frame = pa.ipc.open_file(source).read_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame) == ["bucket_start", "key0", "latency_us", "low_us", "high_us"]
    assert sorted(frame["latency_us"]) == (np.arange(1, 81) / 3).tolist()


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(
            TableError, match=r"(damaged|not a lookup table).*make one with: gharial tables export"
        ):
            LookupTable.load(path)


def test_a_changed_bit_is_refused_or_changes_nothing(path):
    whole = path.read_bytes()
    accepted = 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            loaded = LookupTable.load(path)
        except TableError as error:
            assert "\n" not in str(error)
            continue
        same(loaded, made())
        accepted += 1
    # Padding and the unused parts of Arrow's own headers.
    assert accepted < len(whole) / 7 / 2


def test_a_missing_file_a_folder_and_foreign_files_are_refused(tmp_path, synthetic):
    def refused(path, message):
        with pytest.raises(TableError, match=message):
            LookupTable.load(path)

    refused(tmp_path / "none.lookup", "no lookup table at")
    refused(tmp_path, "is a folder")
    (tmp_path / "text.lookup").write_text("batch,latency_us\n1,2\n")
    refused(tmp_path / "text.lookup", r"text\.lookup is not a lookup table")
    LatencyTable(HERE, {SHAPES[0]: synthetic.measurement(3.0)}).save(tmp_path / "table.parquet")
    refused(tmp_path / "table.parquet", "is not a lookup table; make one with")
    frame = pa.table({"latency_us": [1.0]})
    with (
        pa.OSFile(str(tmp_path / "arrow.lookup"), "wb") as sink,
        pa.ipc.new_file(sink, frame.schema) as writer,
    ):
        writer.write_table(frame)
    refused(tmp_path / "arrow.lookup", "is an Arrow file but not a lookup table")


def test_a_later_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "FORMAT_VERSION", 2)
    made().save(tmp_path / "later.lookup")
    monkeypatch.undo()
    with pytest.raises(TableError, match="later version of Gharial; update with: pip install"):
        LookupTable.load(tmp_path / "later.lookup")


def test_other_columns_or_batches_are_refused(path):
    with pa.memory_map(str(path)) as source:
        whole = pa.ipc.open_file(source).read_all()

    def written(*tables):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, tables[0].schema) as writer:
            for part in tables:
                writer.write_table(part)

    whole = whole.take(list(range(len(whole))))
    written(whole.slice(0, 10), whole.slice(10))
    with pytest.raises(TableError, match=r"damaged \(2 record batches"):
        LookupTable.load(path)
    written(whole.drop_columns(["low_us"]))
    with pytest.raises(
        TableError, match=r"damaged \(its columns are bucket_start, key0, latency_us, high_us"
    ):
        LookupTable.load(path)
    written(whole.set_column(2, "latency_us", whole["latency_us"].cast(pa.float32())))
    with pytest.raises(TableError, match="damaged"):
        LookupTable.load(path)
    latency = whole["latency_us"].to_pylist()
    written(whole.set_column(2, "latency_us", pa.array([None, *latency[1:]])))
    with pytest.raises(TableError, match="nulls"):
        LookupTable.load(path)
    written(whole.slice(0, 79))
    with pytest.raises(TableError, match="checksum"):
        LookupTable.load(path)


def test_a_place_that_cannot_be_written_leaves_the_old_file(path, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(InputError, match="No space left"):
        made(2.0).save(path)
    same(LookupTable.load(path), made())
    assert list(tmp_path.iterdir()) == [path]


def test_the_commands_make_one_and_say_what_it_is(tmp_path, synthetic):
    rows = {shape: synthetic.measurement(float(place + 1)) for place, shape in enumerate(SHAPES)}
    add = OpShape.parse("op Add 1x8x16x16 1x8x16x16 fp32 nchw")
    LatencyTable(HERE, rows, ops={add: synthetic.measurement(1.0)}).save(tmp_path / "table.parquet")
    out = tmp_path / "rows.lookup"

    def run(*words):
        return CliRunner().invoke(app, ["tables", *map(str, words)])

    said = run("export", tmp_path / "table.parquet", "--out", out)
    assert said.exit_code == 0
    assert "wrote 80 rows" in said.stderr
    assert "left out 1 operators" in said.stderr
    assert {shape: row.latency_us for shape, row in LookupTable.load(out).items()} == {
        shape: row.latency_us for shape, row in rows.items()
    }
    shown = run("show", out)
    assert isinstance(shown.exception, TableError)
    assert "lookup table or another Arrow file, not a latency table; give the .parquet" in str(
        shown.exception
    )


def test_every_field_of_a_key_is_a_column():
    assert set(FIELDS) <= {*vars(ConvColumns.of([])), "kind"}
