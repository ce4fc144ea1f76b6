import dataclasses
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from latency_model import shipped, tables_cli
from latency_model.cli import app
from latency_model.compare import compare
from latency_model.errors import InputError, ModelError, TableError
from latency_model.harvest import harvest
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import load_model

runner = CliRunner()


@pytest.fixture(scope="module")
def table(synthetic):
    return synthetic.table_of(
        harvest(load_model("digits_resnet", seed=0), batch=1), step=16, whole=lambda total: total + 30
    )


@pytest.fixture
def path(table, tmp_path):
    table.save(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def call(*words):
    result = runner.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def data(*words):
    return json.loads(call(*words, "--json"))


def test_estimate_from_a_table_and_from_a_model_agree(path, table, tmp_path):
    first = data("estimate", "digits_resnet", "--table", path)
    fitted = data("fit", path, "--out", tmp_path / "model")
    assert fitted["rows"] == len(table)
    assert fitted["correction"]["offset_us"] == pytest.approx(30)
    second = data("estimate", "digits_resnet", "--model", tmp_path / "model")
    assert first == second
    assert {
        "latency_us",
        "low_us",
        "high_us",
        "raw_sum_us",
        "confidence",
        "flags",
        "unpriced",
        "sites",
    } <= set(first)
    assert first["latency_us"] == pytest.approx(first["raw_sum_us"] + 30)
    assert len(first["sites"]) == 10
    text = call("estimate", "digits_resnet", "--table", path, "--confidence", "0.5")
    assert "10 convolutions" in text
    assert "layer1.0.conv2" in text
    assert "as 1 measured network" in call("fit", path, "--out", tmp_path / "model")


def test_estimate_says_what_it_needs(path, table, tmp_path):
    what = r"give --table TABLE, .*gharial tables list .*--model MODEL_DIR.*or --server URL"
    with pytest.raises(InputError, match=what):
        call("estimate", "resnet20")
    with pytest.raises(InputError, match="not both"):
        call("estimate", "resnet20", "--table", path, "--model", tmp_path)
    with pytest.raises(TableError, match=f"--batch 2 --out {path}"):
        call("estimate", "digits_resnet", "--table", path, "--batch", 2)
    fp16 = {dataclasses.replace(shape, precision="fp16"): row for shape, row in table.items()}
    LatencyTable(table.environment, {**table.rows, **fp16}).save(tmp_path / "both")
    with pytest.raises(InputError, match="--precision"):
        call("estimate", "digits_resnet", "--table", tmp_path / "both")
    call("estimate", "digits_resnet", "--table", tmp_path / "both", "--precision", "fp16")


def test_show(path, table):
    shown = data("tables", "show", path)
    assert len(shown["rows"]) == len(table)
    assert shown["networks"][0]["name"] == "digits_resnet"
    some = data("tables", "show", path, "--site", "k1 s2")["rows"]
    assert 0 < len(some) < len(table)
    assert {row["kernel_size"] for row in some} == {1}
    assert f"{len(some)} of {len(table)} rows" in call("tables", "show", path, "--site", "k1 s2")


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_export(path, table, tmp_path, ending):
    out = tmp_path / f"rows.{ending}"
    call("tables", "export", path, "--out", out)
    if ending == "json":
        rows = pd.DataFrame(json.loads(out.read_text())["rows"])
    else:
        rows = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    assert len(rows) == len(table)
    for _, row in rows.iterrows():
        shape = ConvShape.parse(row["config"])
        assert table[shape].latency_us == pytest.approx(row["latency_us"])
        assert (row["in_channels"], row["stride"]) == (shape.in_channels, shape.stride[0])
    with pytest.raises(InputError, match=r"\.csv"):
        call("tables", "export", path, "--out", tmp_path / "rows.xlsx")


def test_merge(table, tmp_path, synthetic):
    shapes = sorted(table)
    for name, part in (("a", shapes[:20]), ("b", shapes[10:])):
        LatencyTable(table.environment, {s: table[s] for s in part}).save(tmp_path / name)
    call("tables", "merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert dict(LatencyTable.load(tmp_path / "c")) == dict(table)
    LatencyTable(synthetic.other_environment).save(tmp_path / "d")
    with pytest.raises(TableError, match="different environments"):
        call("tables", "merge", tmp_path / "a", tmp_path / "d", "--out", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_list_and_tables_by_name(path, table, tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(tables_cli, "shipped_tables", lambda: tuple(listed))
    monkeypatch.setattr(shipped, "shipped_tables", lambda: tuple(listed))
    assert data("tables", "list") == []
    assert "no table ships" in call("tables", "list")
    monkeypatch.chdir(tmp_path)
    listed.append(path.rename(tmp_path / "some-cpu.parquet"))
    (row,) = data("tables", "list")
    assert row == {
        "name": "some-cpu",
        "path": str(listed[0]),
        "environment": table.environment.to_json(),
        "rows": len(table),
        "networks": ["digits_resnet"],
    }
    text = call("tables", "list")
    assert str(listed[0]) in text
    assert f"{len(table)} rows; networks: digits_resnet" in text
    assert data("estimate", "digits_resnet", "--table", "some-cpu")["latency_us"] > 0
    assert len(data("tables", "show", "some-cpu")["rows"]) == len(table)
    assert (
        data("tables", "diff", "some-cpu", "some-cpu")["summary"]["SAME"] == len(table) + 1
    )  # and its network
    assert data("tables", "export", "some-cpu", "--out", "rows.csv") == {
        "out": "rows.csv",
        "rows": len(table),
    }
    assert data("tables", "merge", "some-cpu", "some-cpu", "--out", "m")["rows"] == len(table)
    assert data("tables", "plot", "some-cpu", "--out", "stairs.png")["rows"] > 0
    assert data("fit", "some-cpu", "--out", "model")["rows"] == len(table)


def test_a_network_without_convolutions_is_an_error(path, tmp_path, monkeypatch):
    (tmp_path / "flat.py").write_text("import torch\ndef build():\n    return torch.nn.Identity()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="flat:build has no 2-D convolution"):
        call("estimate", "flat:build", "--table", path)


def test_diff(tmp_path, synthetic):
    shape = synthetic.shape
    shapes = [shape.with_channels(8, count) for count in (8, 16, 24, 32, 40)]
    first = dict(zip(shapes[:4], (synthetic.measurement(10.0),) * 4, strict=True))
    second = {
        shapes[0]: synthetic.measurement(10.1),
        shapes[1]: synthetic.measurement(9.0),
        shapes[2]: synthetic.measurement(11.0),
        shapes[3]: synthetic.measurement(10.1, spread=0.3),
        shapes[4]: synthetic.measurement(1.0),
    }
    verdicts = ["SAME", "FASTER", "SLOWER", "UNCLEAR"]
    assert [row.verdict for row in compare(first, second)] == verdicts
    LatencyTable(synthetic.environment, first).save(tmp_path / "a")
    LatencyTable(synthetic.other_environment, second).save(tmp_path / "b")
    found = data("tables", "diff", tmp_path / "a", tmp_path / "b")
    assert [row["verdict"] for row in found["rows"]] == verdicts
    assert found["summary"] == dict.fromkeys(["SAME", "FASTER", "SLOWER", "UNCLEAR"], 1)
    assert (found["kernels_changed"], found["stands_for_all_rows"]["SLOWER"]) == (0, 1)
    assert (found["only_in_first"], found["only_in_second"]) == (0, 1)
    assert found["environment_differences"] == ["device: 'Test CPU' against 'Another CPU'"]
    assert "1 FASTER" in call("tables", "diff", tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("ending", "begin"), [("png", b"\x89PNG"), ("html", b"<")])
def test_plot(path, tmp_path, ending, begin):
    out = tmp_path / f"stairs.{ending}"
    call("tables", "plot", path, "--site", "k3 s1 x16x16", "--out", out)
    assert out.read_bytes().startswith(begin)
    with pytest.raises(TableError, match="no row of"):
        call("tables", "plot", path, "--site", "k9", "--out", out)
    with pytest.raises(InputError, match=r"\.png or \.html"):
        call("tables", "plot", path, "--out", tmp_path / "stairs.gif")


@pytest.mark.parametrize(
    "words",
    [
        ["fit"],
        ["estimate"],
        *(["tables", name] for name in ("list", "show", "export", "merge", "diff", "plot")),
    ],
)
def test_every_help_has_an_example(words):
    assert f"Example: gharial {' '.join(words)}" in call(*words, "--help")


def test_missing_and_damaged_tables(path, tmp_path):
    with pytest.raises(TableError, match="no latency table"):
        call("tables", "show", tmp_path / "absent")
    with pytest.raises(TableError, match="is a folder"):
        call("tables", "show", tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    for words in (("tables", "show", path), ("fit", path, "--out", tmp_path / "m")):
        with pytest.raises(TableError, match="damaged"):
            call(*words)
    assert not (tmp_path / "m").exists()
