import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from latency_model import Channels, ConvShape, LatencyTable, NetworkCost, Site
from latency_model.errors import InputError
from profiler.cli import app
from profiler.testing import small_network


@dataclass
class Loaded:
    name: str
    module: Any
    input_shape: tuple[int, int, int]
    onnx_path: Path | None = None


def cost(batch, precision):
    first = ConvShape(batch, 3, 8, 8, 16, pattern="conv+bias+relu", precision=precision)
    second = ConvShape(batch, 16, 8, 8, 16, pattern="conv+bias", precision=precision)
    a, b = Channels(terms=(("a", 1),)), Channels(terms=(("b", 1),))
    return NetworkCost(
        "tiny", (Site("1", first, Channels(3), a), Site("2", second, a, b)), {"a": 16, "b": 16}
    )


@pytest.fixture(autouse=True)
def stubs(monkeypatch, tmp_path):
    """The zoo and the harvest, stubbed: they belong to another package."""
    zoo, harvest = ModuleType("latency_model.zoo"), ModuleType("latency_model.harvest")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU())
    path = tmp_path / "net.onnx"
    path.write_bytes(small_network(channels=16, size=8))

    def load_model(name):
        if name == "nothing":
            raise InputError("unknown model 'nothing'; known are tiny")
        if name.endswith(".onnx"):
            return Loaded("net", None, (3, 8, 8), path)
        return Loaded(name, module, (3, 8, 8))

    zoo.load_model = load_model
    harvest.harvest = lambda loaded, *, batch, precision: cost(batch, precision)
    monkeypatch.setitem(sys.modules, "latency_model.zoo", zoo)
    monkeypatch.setitem(sys.modules, "latency_model.harvest", harvest)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "table.parquet"


# As the root command does it: the parts have no name of their own.
root = typer.Typer()
root.add_typer(app)
root.command("other")(lambda: None)


def run(*words):
    return CliRunner().invoke(root, ["profile", *map(str, words)])


def report(*words):
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_table_is_made_and_summed_up(out):
    result = run("tiny", "--runtime", "fake", "--out", out)
    assert result.exit_code == 0, result.output
    assert "fake device" in result.stdout
    table = LatencyTable.load(out)
    assert len(table) == 2 + 4
    assert [network.name for network in table.networks] == ["tiny"]


def test_json_is_one_document(out):
    data = report("tiny", "--runtime", "fake", "--out", out, "--step", 4)
    assert (data["rows"], data["configurations"], data["failed"], data["notes"]) == (4 + 16, 20, {}, [])
    assert data["networks"][0]["us"] > 0
    assert data["environment"]["runtime"] == "fake"


@pytest.mark.parametrize(
    "batches",
    [("--batch", 1, 8), ("--batch", 1, "--batch", 8), ("-b", 8, 1), ("--batch=1", "--batch", 8)],
)
def test_several_batches_can_be_given_in_either_way(out, batches):
    data = report("tiny", *batches, "--runtime", "fake", "--out", out)
    assert data["configurations"] == 12
    assert {network["batch"] for network in data["networks"]} == {1, 8}


def test_models_may_follow_the_batches(out):
    data = report("--batch", 1, 8, "tiny", "--runtime", "fake", "--out", out)
    assert data["configurations"] == 12


def test_a_dry_run_counts_and_measures_nothing(out):
    result = run("tiny", "--runtime", "fake", "--out", out, "--dry-run")
    assert result.exit_code == 0
    assert "6 configurations, 6 of them" in " ".join(result.stdout.split())
    assert not out.exists()
    report("tiny", "--runtime", "fake", "--out", out)
    again = report("tiny", "--runtime", "fake", "--out", out, "--step", 4, "--dry-run")
    assert (again["configurations"], again["missing"]) == (20, 14)


def test_an_onnx_file_is_timed_at_its_own_batch_only(out):
    data = report("net.onnx", "--batch", 1, 4, "--runtime", "fake", "--out", out)
    assert [network["batch"] for network in data["networks"]] == [1]
    assert len(data["notes"]) == 1
    assert "batch 4" in data["notes"][0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nothing", "--runtime", "fake"), "unknown model"),
        (("tiny", "--runtime", "magic"), "magic"),
        (("tiny", "--device", "cuda:0"), "CPU only"),
        (("tiny", "--runtime", "tensorrt"), "CPU only"),
        (("tiny", "--precision", "fp13"), "fp13"),
        (("tiny", "--precision", "fp16"), "fp16"),
    ],
)
def test_mistakes_are_errors_of_ours(out, words, says):
    result = run(*words, "--out", out)
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert not out.exists()


def test_a_real_runtime_works_from_the_command(out):
    data = report("tiny", "--out", out, "--step", 16)
    assert data["rows"] == 2
    assert data["failed"] == {}
    assert data["networks"][0]["us"] > 0


def test_networks_can_be_left_out_and_a_runtime_without_onnx_says_so(out):
    assert report("tiny", "--runtime", "fake", "--out", out, "--no-networks")["networks"] == []
    data = report("tiny", "--runtime", "torch", "--out", f"{out}2", "--step", 16)
    assert data["networks"] == []
    assert "ONNX" in data["notes"][0]


def test_help_has_an_example():
    result = run("--help")
    assert result.exit_code == 0
    assert "gharial profile resnet20" in " ".join(result.stdout.split())
