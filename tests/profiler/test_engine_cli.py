import json

import onnx
import pytest
from typer.testing import CliRunner

from gharial import app
from latency_model.errors import InputError
from profiler.testing import small_network

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


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(small_network(channels=8, size=8))
    return path


def test_a_network_lists_what_is_fused_with_what(network):
    result = run(str(network), *TARGET, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["network"] == "net.onnx"
    assert data["compute_capability"] == "8.9"
    convs = [layer for layer in data["layers"] if layer["role"] == "conv"]
    assert {site for layer in convs for site in layer["sites"]} == set(data["convolutions"])
    nodes = [node.name or f"node_of_{node.output[0]}" for node in onnx.load(network).graph.node]
    assert {node for layer in data["layers"] for node in layer["nodes"]} <= set(nodes)
    assert data["engine_bytes"] > 1000
    shown = run(str(network), *TARGET)
    assert shown.exit_code == 0, shown.output
    assert convs[0]["sites"][0] in shown.stdout


def test_layers_that_trtexec_wrote_need_no_builder(network, tmp_path):
    built = json.loads(run(str(network), *TARGET, "--json").stdout)
    layers = [
        {
            "Name": use["layer"],
            "LayerType": "correlation",
            "Metadata": "".join(f"[{n}]" for n in use["nodes"]),
        }
        for use in built["layers"]
        if use["role"] == "conv"
    ]
    exported = tmp_path / "layers.json"
    exported.write_text(json.dumps({"Layers": layers, "Bindings": []}))
    data = json.loads(run(str(network), "--layers", str(exported), "--json").stdout)
    assert data["convolutions"] == built["convolutions"]
    assert "runtime" not in data
    assert data["unmatched"]
    shown = run(str(network), "--layers", str(exported)).stdout
    assert "note: " in shown
    assert isinstance(run(str(network), "--layers", str(tmp_path / "none.json")).exception, InputError)


@pytest.mark.parametrize(
    "words",
    [
        ("no_such_file.onnx", *TARGET),
        ("net.onnx", *TARGET, "--copies", "2"),
        ("net.onnx", *TARGET, "--source", "onnx"),
        (SHAPE, *TARGET, "--batch", "2"),
        (SHAPE, *TARGET, "--layers", "layers.json"),
    ],
)
def test_options_of_the_other_kind_are_input_errors(words):
    assert isinstance(run(*words).exception, InputError)
