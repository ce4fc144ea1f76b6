import json

import pytest
from typer.testing import CliRunner

from gharial import app
from latency_model.errors import InputError

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

SHAPE = "1x16x14x14 ->32 k3 s1 p1 g1 conv+bias+relu fp16 nchw"
TARGET = ["--compute-capability", "8.9", "--flavour", "tensorrt_rtx"]


def run(*words):
    return CliRunner().invoke(app, ["inspect", *words])


def test_json_says_what_was_built():
    result = run(SHAPE, *TARGET, "--copies", "2", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["shape"] == SHAPE
    assert data["fused"] is True
    assert data["fused_pattern"] == "conv+bias+relu"
    assert data["compute_capability"] == "8.9"
    assert data["reformats"] == data["merged"] == []
    assert sorted(layer["operators"] for layer in data["layers"]) == [["conv0", "act0"], ["conv1", "act1"]]
    assert data["engine_bytes"] > 1000


def test_onnx_shows_the_reformats_at_its_ends():
    data = json.loads(run(SHAPE, *TARGET, "--source", "onnx", "--json").stdout)
    assert data["fused"] is True
    assert data["reformats"]


def test_text_for_people():
    result = run(SHAPE, *TARGET)
    assert result.exit_code == 0, result.output
    assert "fused: one layer executes all of it" in result.stdout
    assert "conv0" in result.stdout
    result = run(SHAPE.replace("1x16", "1x64").replace("fp16", "int8"), *TARGET)
    assert "fused: " in result.stdout


@pytest.mark.parametrize(
    "words", [("not a shape", *TARGET), (SHAPE, "--compute-capability", "9.0", "--flavour", "tensorrt_rtx")]
)
def test_mistakes_are_input_errors(words):
    assert isinstance(run(*words).exception, InputError)
