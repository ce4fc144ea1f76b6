import json

import pytest
from typer.testing import CliRunner

from latency_model import LatencyModel, LatencyTable
from latency_model.cli import app
from latency_model.errors import RowsError, TableError
from latency_model.rows import holds_rows, load_tables

runner = CliRunner()


@pytest.fixture
def table(tmp_path, synthetic):
    LatencyTable(synthetic.environment, synthetic.rows_of(synthetic.shape, [(16, 16)])).save(
        tmp_path / "table.parquet"
    )
    return tmp_path / "table.parquet"


def test_rows_are_told_from_tables(rows, saved, table, tmp_path):
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(table.read_bytes()[:-5])
    assert holds_rows(saved(rows.frame()))
    assert holds_rows(saved(rows.frame(), "rows.csv.gz"))
    for other in (table, torn, tmp_path, tmp_path / "none.csv"):
        assert not holds_rows(other)
    with pytest.raises(TableError, match="damaged"):
        load_tables([torn])


def test_tables_and_rows_mixed(rows, saved, table):
    first, second = saved(rows.frame(), "a.csv"), saved(rows.frame({"batch": 2}), "b.parquet")
    tables, plain, notes = load_tables([table, first, second])
    assert tables[0] == LatencyTable.load(table)
    assert [rows.origin for rows in plain] == [first, second]
    assert [len(t) for t in tables] == [1, 1, 1]
    assert [note.split(": ")[0] for note in notes] == [str(first), str(second)]


def test_rows_of_two_files(rows, saved):
    first = saved(rows.frame({}, {"batch": 2}), "a.csv")
    near = saved(rows.frame({"latency_us": 10.5}), "near.csv")
    far = saved(rows.frame({"latency_us": 8.0}), "far.csv")
    _, _, notes = load_tables([first, near])
    assert notes[-1] == f"{near}: 1 convolution also in {first}, whose rows are not used"
    with pytest.raises(
        RowsError, match=r"1 convolution of both .*a\.csv and .*far\.csv differ by more than 10%"
    ):
        load_tables([first, far])
    tables, _, notes = load_tables([first, far], on_bad="drop")
    assert notes[-1].endswith("; 1 differ by more than 10%")
    assert sorted(row.latency_us for row in LatencyModel.fit(tables).table.values()) == [8, 10]


def test_fit_takes_rows(rows, saved, tmp_path):
    result = runner.invoke(app, ["fit", str(saved(rows.probe())), "--out", str(tmp_path / "model"), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["rows"] == 2
    assert any("precision fp16, layout nhwc" in note for note in said["notes"])
    assert len(LatencyModel.load(tmp_path / "model").table) == 2


def test_fit_says_what_it_leaves_out(rows, saved, tmp_path):
    path = str(saved(rows.frame({}, {"batch": 2, "latency_us": 0.0}), "rows.csv"))
    words = ["fit", path, "--out", str(tmp_path / "model")]
    with pytest.raises(RowsError, match=r"latency_us is zero or negative \(row 2\)"):
        runner.invoke(app, words, catch_exceptions=False, standalone_mode=False)
    assert not (tmp_path / "model").exists()
    result = runner.invoke(app, [*words, "--on-bad", "drop"])
    assert result.exit_code == 0, result.output
    assert "left out: in 1 row latency_us is zero or negative (row 2)" in result.stdout
    assert runner.invoke(app, [*words, "--on-bad", "ignore"]).exit_code == 2


def test_rows_beside_a_table_of_a_known_device_are_refused(rows, saved, table, tmp_path):
    tables, _, _ = load_tables([table, saved(rows.frame(), "rows.csv")])
    with pytest.raises(TableError, match="different environments"):
        LatencyModel.fit(tables)


def test_rows_get_the_device_that_their_file_does_not_name(rows, saved, table, tmp_path):
    plain = saved(rows.frame(), "rows.csv")
    tables, (found,), _ = load_tables([plain], device="NVIDIA X")
    assert tables[0].environment.device == found.device == "NVIDIA X"
    words = ["fit", str(plain), "--device", "NVIDIA X", "--out", str(tmp_path / "model")]
    assert runner.invoke(app, words).exit_code == 0
    assert LatencyModel.load(tmp_path / "model").table.environment.device == "NVIDIA X"
    named = saved(rows.frame({"device": "NVIDIA Y"}), "named.csv")
    assert load_tables([named], device="NVIDIA Y")[0][0].environment.device == "NVIDIA Y"
    with pytest.raises(RowsError, match="has rows of NVIDIA Y, not of NVIDIA X"):
        load_tables([named], device="NVIDIA X")
    with pytest.raises(RowsError, match="name their device themselves"):
        load_tables([table], device="NVIDIA X")
