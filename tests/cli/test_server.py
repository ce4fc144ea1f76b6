"""`--server URL` of every command that reads: what is printed is what the same table prints as a file."""

import json

import pytest
from served import served

from latency_model import Client, LatencyTable
from latency_model.zoo import load_model
from profiler.onnx_export import export_onnx


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("GHARIAL_TOKEN", raising=False)
        yield


@pytest.fixture(scope="module")
def server(fake_table, tmp_path_factory):
    with served(tmp_path_factory.mktemp("served"), token_cache_s=0) as running:
        with Client(running.url, token=running.token("rows:write")) as client:
            client.import_table(fake_table)
        yield running


@pytest.fixture(scope="module")
def there(server, fake_table):
    """The arguments that choose the server's table."""
    return ["--server", server.url, "--environment", LatencyTable.load(fake_table).environment.key]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    loaded = load_model("digits_resnet")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    path.write_bytes(export_onnx(loaded.module, loaded.input_shape, batch=1))
    return path


@pytest.mark.parametrize("command", ["estimate", "explain"])
@pytest.mark.parametrize("more", [["--json"], [], ["--confidence", "0.7", "--json"]])
def test_estimate_and_explain(gh, fake_table, there, onnx_file, command, more):
    for model in ("digits_resnet", onnx_file):
        ours = gh(command, model, "--table", fake_table, *more)
        theirs = gh(command, model, *there, *more)
        assert ours.exit_code == theirs.exit_code == 0
        assert ours.stdout == theirs.stdout


def test_rows(gh, fake_table, there, tmp_path):
    rows = tmp_path / "rows.csv"
    assert gh("tables", "export", fake_table, "--out", rows).exit_code == 0
    said = [
        gh("estimate", "--rows", rows, "--out", tmp_path / f"{name}.csv", *place)
        for name, place in (("ours", ["--table", fake_table]), ("theirs", there))
    ]
    assert [each.exit_code for each in said] == [0, 0], said[0].error
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_show_export_and_plot(gh, fake_table, server, there, tmp_path):
    key = there[-1]
    ours = gh("tables", "show", fake_table, "--json")
    theirs = gh("tables", "show", key, "--server", server.url, "--json")
    assert ours.stdout == theirs.stdout and json.loads(ours.stdout)["rows"]
    for ending in ("csv", "json", "parquet", "lookup"):
        one, two = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
        assert gh("tables", "export", fake_table, "--out", one, "--json").exit_code == 0
        assert gh("tables", "export", key, "--server", server.url, "--out", two, "--json").exit_code == 0
        assert one.read_bytes() == two.read_bytes()
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    ours = gh("tables", "plot", fake_table, "--out", one, "--json").json
    theirs = gh("tables", "plot", key, "--server", server.url, "--out", two, "--json").json
    assert {**ours, "out": ""} == {**theirs, "out": ""}


def test_list_and_download(gh, fake_table, server, there, tmp_path):
    found = gh("tables", "list", "--server", server.url, "--json").json
    table = LatencyTable.load(fake_table)
    (mine,) = (one for one in found if one["name"] == there[-1])
    assert mine["environment"] == table.environment.to_json() and mine["rows"] == len(table)
    assert there[-1] in gh("tables", "list", "--server", server.url).stdout
    out = tmp_path / "down.parquet"
    assert gh("tables", "download", "fake", "--server", server.url, "--out", out, "--json").json[
        "rows"
    ] == len(table)
    assert LatencyTable.load(out) == table


def test_what_contradicts_itself(gh, fake_table, server, tmp_path):
    assert "one place" in gh("estimate", "resnet20", "--server", server.url, "--table", fake_table).error
    assert (
        "--server URL as well"
        in gh("estimate", "resnet20", "--table", fake_table, "--environment", "x").error
    )
    assert "choose with --environment" in gh("estimate", "resnet20", "--server", server.url).error
    assert "--server URL" in gh("estimate", "resnet20").error
    prune = [
        "prune",
        "digits_resnet",
        "--budget",
        "latency=0.6x",
        "--data",
        "digits",
        "--out",
        tmp_path / "run",
    ]
    assert "--table TABLE or --server URL" in gh(*prune).error
    assert "one place" in gh(*prune, "--table", fake_table, "--server", server.url).error
    assert gh(*prune, "--server", server.url, "--environment", "h100").exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:onnxruntime.*")
def test_prune_rests_on_one_revision(gh, fake_table, server, there, tmp_path, monkeypatch):
    def command(out, *place):
        settings = [
            "--budget",
            "latency=0.6x",
            "--data",
            "digits",
            "--method",
            "l1",
            "--finetune-epochs",
            "0",
        ]
        return gh("prune", "digits_resnet", *settings, *place, "--out", out, "--json")

    ours, theirs = command(tmp_path / "ours", "--table", fake_table), command(tmp_path / "theirs", *there)
    assert ours.exit_code == theirs.exit_code == 0, (ours.error, theirs.error)
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("ours", "theirs")]
    assert plans[0] == plans[1]
    assert LatencyTable.load(tmp_path / "theirs" / "table.parquet") == LatencyTable.load(fake_table)
    # Going on asks nobody, and takes the table that the run began with.
    monkeypatch.setattr("latency_model.served.served_table", None)
    (tmp_path / "theirs" / "report.json").unlink()
    again = command(tmp_path / "theirs", *there)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "theirs" / "plan.json").read_text()) == plans[1]
