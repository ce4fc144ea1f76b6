"""`gharial tables` on tables with operators, candidates, kernels, flags and failures."""

import csv
import dataclasses
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from latency_model.cli import app
from latency_model.errors import InputError, TableError
from latency_model.exports import COLUMNS
from latency_model.measurement import Candidate, Measurement, NetworkRow
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.shipped import shipped_tables
from latency_model.table import LatencyTable

runner = CliRunner()
GEMM = "sm80_xmma_gemm_tilesize64x64"
WINO = "winograd_kernel"
SHAPE = ConvShape.parse("1x16x8x8 ->16 k3 s1 p1 g1 conv+bias+relu fp16 nhwc")
ADD = OpShape("Add", ((1, 16, 8, 8), (1, 16, 8, 8)), precision="fp16", layout="nhwc")
POOL = OpShape("MaxPool", ((1, 16, 8, 8),), (), (("kernel_shape", "3,3"),), "fp16", "nhwc")


def row(us, *, half=0.05, kernel=GEMM, flags=(), at="2026-01-01", **more):
    return Measurement(
        *(us, us - half, us + half, us, us, us, us, us - half, 30, "kernel-trace"),
        kernels=((kernel, 0.9), ("bias, relu", 0.1)),
        flags=flags,
        measured_at=at,
        **more,
    )


@pytest.fixture
def table(synthetic):
    rows = {SHAPE.with_channels(a, b): row(5 + a * b / 100) for a in (8, 16) for b in (8, 16, 24, 31, 32)}
    rows[SHAPE] = row(
        9.0,
        kernel=WINO,
        flags=("unstable", "drift"),
        cold_us=12.0,
        boundary_us=3.0,
        error=0.001,
        candidates=(Candidate(WINO, 9.0, 4), Candidate(GEMM, 11.5, 1)),
        sm_clock_mhz=1980.0,
        temperature_c=44.0,
        power_w=310.0,
        note='chosen by 4 of 5 builds, "by far"',
    )
    environment = dataclasses.replace(synthetic.environment, kind="cuda", device="Some GPU")
    networks = (NetworkRow("net", (SHAPE, SHAPE), row(50, half=0.4)),)
    failures = {SHAPE.with_channels(512, 512): "out of memory", POOL: "no such kernel"}
    return LatencyTable(environment, rows, networks, failures, {ADD: row(2.5, kernel="add")})


@pytest.fixture
def path(table, tmp_path):
    table.save(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def run(*words, code=0):
    result = runner.invoke(app, ["tables", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def shown(*words):
    return [row["config"] for row in json.loads(run("show", *words, "--json"))["rows"]]


def test_filters(path, table):
    everything = [*(shape.text for shape in sorted(table)), ADD.text]
    assert shown(path) == everything
    assert shown(path, "--op", "add") == [ADD.text]
    assert shown(path, "--op", "Conv") == everything[:-1]
    assert shown(path, "--op", "Conv", "--site", "->31") == [t for t in everything if "->31" in t]
    assert shown(path, "--flag", "drift") == shown(path, "--kernel", "winograd") == [SHAPE.text]
    assert shown(path, "--flag", "drif") == []
    by_latency = shown(path, "--sort", "latency")
    assert sorted(by_latency) == sorted(everything) and by_latency[-1] == ADD.text
    assert shown(path, "--sort", "latency", "--limit", 2) == by_latency[:2]
    with pytest.raises(InputError, match="shape, latency"):
        run("show", path, "--sort", "colour")
    with pytest.raises(InputError, match="not both"):
        run("show", path, "--all", "--limit", 3)


def test_show_says_what_it_leaves_out(path):
    text = run("show", path, "--limit", 3)
    assert "… and 8 more" in text and "… and" not in run("show", path, "--all")
    assert "failed: op MaxPool" in text and "no such kernel" in text and "out of memory" in text
    assert "11 of 11 rows, 10 convolutions, 1 operators, 1 networks, 2 failures" in text
    assert "flags: unstable 1, drift 1" in text
    assert "network net: 50.0 us (49.6 - 50.4), 2 convolutions" in text
    assert "measured: 2026-01-01 to 2026-01-01" in text
    assert "out of memory" not in run("show", path, "--op", "MaxPool")


def test_a_large_table_does_not_flood(tmp_path, table):
    rows = {SHAPE.with_channels(a, b): row(5) for a in range(1, 21) for b in range(1, 21)}
    LatencyTable(table.environment, rows).save(tmp_path / "t")
    assert len(run("show", tmp_path / "t").splitlines()) < 60
    assert len(run("show", tmp_path / "t", "--all").splitlines()) > 400
    assert len(shown(tmp_path / "t")) == 400


def test_wide_says_everything(path):
    text = run("show", path, "--wide", "--flag", "unstable")
    for part in (
        "cold caches 12.00 us", "boundary 3.00 us", "SM clock 1980 MHz", "44 °C", "310 W", "chosen by 4 of 5",
        "candidate 9.00 us in 4 builds: winograd_kernel", "candidate 11.50 us in 1 build", "bias, relu",
        "median of 30 samples by kernel-trace", "flags unstable, drift",
    ):  # fmt: skip
        assert part in text


def test_exports_agree_and_lose_nothing(path, table, tmp_path):
    for ending in ("csv", "parquet", "json"):
        assert json.loads(run("export", path, "--out", tmp_path / f"r.{ending}", "--json"))["rows"] == 11
    with (tmp_path / "r.csv").open(newline="") as stream:
        texts = list(csv.DictReader(stream))
    whole = json.loads((tmp_path / "r.json").read_text())
    frame = pd.read_parquet(tmp_path / "r.parquet")
    assert list(texts[0]) == list(frame.columns) == list(whole["rows"][0]) == list(COLUMNS)
    for text, plain, (_, columnar) in zip(texts, whole["rows"], frame.iterrows(), strict=True):
        found = table.measured(ADD if plain["kind"] == "op" else ConvShape.parse(plain["config"]))
        assert found.latency_us == plain["latency_us"] == columnar["latency_us"] == float(text["latency_us"])
        assert json.loads(text["candidates"]) == plain["candidates"] == list(columnar["candidates"])
        assert json.loads(text["kernels"]) == plain["kernels"] == list(columnar["kernels"])
        assert plain["candidates"] == [dataclasses.asdict(candidate) for candidate in found.candidates]
        assert text["note"] == plain["note"] == columnar["note"] == found.note
        assert text["cold_us"] == ("" if found.cold_us is None else str(found.cold_us))
        assert plain["main_kernel"] == found.kernels[0][0]
    op = whole["rows"][-1]
    assert (op["kind"], op["op"], op["inputs"], op["in_channels"]) == ("op", "Add", "1x16x8x8 1x16x8x8", None)
    assert whole["rows"][0]["macs"] == sorted(table)[0].macs
    assert whole["failures"] == {config.text: why for config, why in table.failures.items()}
    assert whole["networks"][0]["shapes"] == [SHAPE.text] * 2


def test_merging_several_counts_conflicts(table, tmp_path):
    def part(name, us, at, **more):
        built = LatencyTable(table.environment, {SHAPE: row(us, at=at)}, **more)
        built.save(tmp_path / name)
        return tmp_path / name

    first = part("a", 1, "2026-03", networks=(NetworkRow("n", (SHAPE,), row(7, at="2026-03")),))
    second = part("b", 2, "2026-02", networks=(NetworkRow("n", (SHAPE,), row(8, at="2026-02")),))
    third = part("c", 3, "2026-03", failures={ADD: "no"})
    LatencyTable(table.environment, ops={ADD: row(4)}).save(tmp_path / "d")
    out = tmp_path / "out"
    report = json.loads(run("merge", first, second, third, tmp_path / "d", first, "--out", out, "--json"))
    joined = LatencyTable.load(out)
    assert joined[SHAPE].latency_us == 1 and joined.networks[0].measurement.latency_us == 7
    assert joined.ops[ADD].latency_us == 4 and not joined.failures
    assert (report["rows"], report["networks"], report["tables"]) == (2, 1, 5)
    # The row: b against a, c against a, a against c; the network: b against a. The network of a comes twice.
    assert (report["conflicts"], report["identical"], report["earlier_given_won"]) == (4, 1, 2)
    assert report["failures_ended"] == 1
    other = dataclasses.replace(table.environment, driver="9")
    LatencyTable(other).save(tmp_path / "e")
    with pytest.raises(TableError, match="driver: '' against '9'"):
        run("merge", first, tmp_path / "e", "--out", tmp_path / "f")


def test_diff_for_continuous_integration(path, table, tmp_path):
    slower = {s: row(m.latency_us * 1.2, flags=m.flags) for s, m in table.items()}
    LatencyTable(table.environment, slower, ops={ADD: row(2.5)}).save(tmp_path / "b")
    run("diff", path, path, "--fail-on", "changed")
    run("diff", path, tmp_path / "b", "--fail-on", "faster")
    run("diff", path, tmp_path / "b", "--fail-on", "slower", "--threshold", 0.3)
    out = tmp_path / "d.csv"
    text = run("diff", path, tmp_path / "b", "--fail-on", "slower", "--limit", 2, "--out", out, code=3)
    assert "… and 9 more" in text and "to be expected by chance" in text and "drift: the device" in text
    rows = pd.read_csv(out)
    assert rows["verdict"].value_counts().to_dict() == {"SLOWER": 9, "SAME": 1, "UNCLEAR": 1}
    assert rows.set_index("config").loc[ADD.text, "kernel_changed"]
    found = json.loads(run("diff", path, tmp_path / "b", "--json"))
    assert found["geometric_mean_ratio"] == pytest.approx(1.2 ** (10 / 11), rel=0.01)
    assert [r["config"] for r in found["rows"]] == rows["config"].tolist()
    with pytest.raises(InputError, match="slower, faster, changed"):
        run("diff", path, path, "--fail-on", "red")
    with pytest.raises(InputError, match=r"\.csv"):
        run("diff", path, path, "--out", tmp_path / "d.xlsx")


@pytest.mark.parametrize("shipped", shipped_tables(), ids=lambda shipped: shipped.stem)
def test_every_command_takes_the_shipped_tables(shipped, tmp_path):
    table = LatencyTable.load(shipped)
    assert f"{len(table)} convolutions" in run("show", shipped.stem)
    run("show", shipped.stem, "--wide", "--limit", 1)
    run("export", shipped.stem, "--out", tmp_path / "x.csv")
    run("merge", shipped.stem, shipped.stem, "--out", tmp_path / "m.parquet")
    assert LatencyTable.load(tmp_path / "m.parquet") == table
    run("diff", shipped.stem, tmp_path / "m.parquet", "--fail-on", "changed")
    run("plot", shipped.stem, "--out", tmp_path / "x.png")
