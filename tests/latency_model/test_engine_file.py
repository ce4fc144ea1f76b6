"""An engine's layers as a file, and the estimate of a network with them."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from latency_model.cli import app
from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.harvest import harvest_onnx
from latency_model.harvest.engine_file import KEY, harvest_engine, layers_to_json, read_layers
from latency_model.harvest.engine_layers import EngineLayer, EngineTensor
from latency_model.harvest.from_engine import engine_cost
from latency_model.table import LatencyTable
from latency_model.zoo import load_model
from profiler.engine_network import network_view

TENSORRT = Environment("Test GPU", "cuda", "tensorrt", "11.0")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An ONNX file, and the layers of an engine that leaves every activation and sum to kernels of their own."""
    import onnx
    import torch

    folder = tmp_path_factory.mktemp("engine")
    loaded = load_model("digits_resnet", seed=0)
    example = torch.zeros(1, *loaded.input_shape)
    torch.onnx.export(loaded.module.eval(), (example,), folder / "net.onnx", dynamo=True, verbose=False)
    graph = onnx.load(folder / "net.onnx").graph
    tensor = EngineTensor("x", (1, 16, 8, 8), "Float NCHW")
    layers = tuple(
        EngineLayer(
            node.name, node.op_type, "", ("Float NCHW",), (node.name,), ("Float NCHW",), 0, (tensor,), ()
        )
        for node in graph.node
    )
    (folder / "engine.json").write_text(json.dumps({KEY: layers_to_json(layers)}))
    return folder, layers


@pytest.fixture(scope="module")
def table(synthetic, files):
    """Rows of bare convolutions, as that engine runs them, and of the operators between them."""
    network = harvest_engine(files[0] / "net.onnx", files[0] / "engine.json").network
    plain = synthetic.table_of(network, step=16, environment=TENSORRT)
    ops = {op: synthetic.measurement(3.0) for _, op in network.op_shapes(network.groups)}
    table = dataclasses.replace(plain, ops=ops)
    table.save(files[0] / "table.parquet")
    return table


def test_layers_are_read_back(files):
    assert read_layers(files[0] / "engine.json") == files[1]


def test_the_view_of_inspect_is_such_a_file(files, tmp_path):
    view = network_view(files[0] / "net.onnx", layers_file=files[0] / "engine.json")
    (tmp_path / "view.json").write_text(json.dumps(view))
    assert read_layers(tmp_path / "view.json") == files[1]


def test_the_cost_is_that_of_the_layers(files):
    path = files[0] / "net.onnx"
    found = harvest_engine(path, files[0] / "engine.json")
    assert found == engine_cost(files[1], path, harvest_onnx(path, name="net.onnx"))
    assert {site.shape.pattern for site in found.network.sites} == {"conv"}
    assert {site.shape.pattern for site in harvest_onnx(path).sites} != {"conv"}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Layers": ["a"]}', '{"engine_layers": [{"name": "a"}]}', "\xff"]
)
def test_what_is_no_such_file_says_which_file_to_give(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="no layers of an engine"):
        read_layers(path)
    with pytest.raises(InputError, match="exportLayerInfo"):
        read_layers(tmp_path / "none.json")


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_an_estimate_with_the_engine_has_its_fusions(files, table):
    net, engine = files[0] / "net.onnx", files[0] / "engine.json"
    path = files[0] / "table.parquet"
    found = json.loads(call("estimate", net, "--table", path, "--engine", engine, "--json"))
    network = harvest_engine(net, engine).network
    assert found["raw_sum_us"] == pytest.approx(
        sum(table[shape].latency_us for _, shape in network.shapes())
        + sum(table.ops[shape].latency_us for _, shape in network.op_shapes(network.groups))
    )
    assert len(found["ops"]) > 3
    assert not any("as ONNX Runtime does" in flag for flag in found["flags"])
    assert "15 other operators" in call("explain", net, "--table", path, "--engine", engine)


def test_without_the_engine_it_says_so(files, table):
    fused = harvest_onnx(files[0] / "net.onnx")
    rows = {
        dataclasses.replace(shape, pattern=site.shape.pattern): row
        for site in fused.sites
        for shape, row in table.rows.items()
    }
    LatencyTable(TENSORRT, rows).save(files[0] / "fused.parquet")
    found = json.loads(
        call("estimate", files[0] / "net.onnx", "--table", files[0] / "fused.parquet", "--json")
    )
    assert any("fused as ONNX Runtime does it" in flag for flag in found["flags"])


def test_an_engine_needs_its_file_and_a_table_of_tensorrt(files, table):
    net, engine = files[0] / "net.onnx", files[0] / "engine.json"
    with pytest.raises(InputError, match="for the ONNX file"):
        call("estimate", "digits_resnet", "--table", files[0] / "table.parquet", "--engine", engine)
    other = LatencyTable(dataclasses.replace(TENSORRT, runtime="onnxruntime"), table.rows)
    other.save(files[0] / "other.parquet")
    with pytest.raises(InputError, match="this one is of onnxruntime"):
        call("estimate", net, "--table", files[0] / "other.parquet", "--engine", engine)
    with pytest.raises(InputError, match="are for a network"):
        call(
            "estimate",
            "--rows",
            net,
            "--out",
            "x.csv",
            "--table",
            files[0] / "table.parquet",
            "--engine",
            engine,
        )


def test_what_the_engine_does_not_say_is_among_the_flags(files, table, tmp_path):
    mystery = dataclasses.replace(files[1][0], name="mystery", operators=("nowhere",))
    (tmp_path / "engine.json").write_text(json.dumps({KEY: layers_to_json((*files[1], mystery))}))
    words = ("estimate", files[0] / "net.onnx", "--table", files[0] / "table.parquet", "--json")
    found = json.loads(call(*words, "--engine", tmp_path / "engine.json"))
    assert any("mystery" in flag for flag in found["flags"])
