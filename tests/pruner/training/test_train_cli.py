"""`gharial train`, on a tiny network and the digits."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from latency_model.errors import DataError, InputError
from pruner.train_cli import train
from pruner.training.state import load_tensors


@dataclass(frozen=True)
class Loaded:
    name: str
    module: nn.Module
    input_shape: tuple[int, ...] = (1, 16, 16)
    classes: int = 10


def _load_model(name: str) -> Loaded:
    classes = 100 if name == "wide" else 10
    first = nn.Conv2d(3 if name == "colour" else 1, 4, 3, stride=2)
    return Loaded(name, nn.Sequential(first, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, classes)))


def _load_weights(module: nn.Module, path: Path) -> None:
    module.load_state_dict(load_tensors(path)[0])


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    zoo = types.ModuleType("latency_model.zoo")
    zoo.load_model, zoo.load_weights = _load_model, _load_weights
    monkeypatch.setitem(sys.modules, "latency_model.zoo", zoo)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(train)
    yield app
    torch.set_num_threads(threads)


def run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_trains_writes_and_resumes(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["tiny", "--data", "digits", "--epochs", "2", "--limit-batches", "3", "--out", str(tmp_path)]
    first = json.loads(run(app, *arguments, "--json"))
    assert json.loads((tmp_path / "history.json").read_text()) == first
    assert [record["epoch"] for record in first["epochs"]] == [1, 2]
    assert 0 <= first["test_accuracy"] <= 100
    tensors, about = load_tensors(tmp_path / "weights.safetensors")
    assert about["model"] == "tiny"
    # The same command again trains nothing, which the unchanged times show, and writes the same weights.
    assert json.loads(run(app, *arguments, "--json")) == first
    again, _ = load_tensors(tmp_path / "weights.safetensors")
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    told = run(app, *arguments)
    assert f"test accuracy {first['test_accuracy']:.2f} %" in told


def test_it_starts_from_given_weights(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["tiny", "--data", "digits", "--epochs", "1", "--json", "--ema", "0.9"]
    run(app, *arguments, "--out", str(tmp_path / "a"))
    weights = str(tmp_path / "a" / "weights.safetensors")
    options = ["--weights", weights, "--out", str(tmp_path / "b"), "--lr", "1e-9"]
    second = json.loads(run(app, *arguments, *options))
    first = json.loads((tmp_path / "a" / "history.json").read_text())
    assert second["test_accuracy"] == pytest.approx(first["test_accuracy"], abs=1)


def test_mistakes_are_one_sentence(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10 classes but wide tells 100 apart"):
        run(app, "wide", "--data", "digits", "--out", str(tmp_path))
    with pytest.raises(DataError, match="colour cannot run on the 1x16x16 images of digits"):
        run(app, "colour", "--data", "digits", "--out", str(tmp_path))
    with pytest.raises(DataError, match="no data at"):
        run(app, "tiny", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path))
    with pytest.raises(InputError, match="cannot train on the device 'gpu'"):
        run(app, "tiny", "--data", "digits", "--device", "gpu", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_help_has_an_example(app: typer.Typer) -> None:
    assert "gharial train resnet20" in " ".join(run(app, "--help").split())
