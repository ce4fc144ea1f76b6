"""Estimates over HTTP are those of the command, to the last bit, however the model came."""

import asyncio
import json
import signal
import time
import warnings

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import gharial
from latency_model.errors import ModelError
from latency_model.harvest import harvest_onnx
from latency_model.harvest.onnx_skeleton import skeleton_of
from latency_model.network_json import network_to_json
from latency_model.service.harvesting import Harvesters
from latency_model.zoo import load_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Return the path of ResNet-20 as ONNX."""
    loaded = load_model("resnet20")
    path = tmp_path_factory.mktemp("onnx") / "resnet20.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(loaded.module.eval(), torch.zeros(1, *loaded.input_shape), str(path), dynamo=False)
    return path


@pytest.fixture(scope="session")
def table_path(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    table.save(path)
    return path


def command(name, model, table_path, *options):
    done = CliRunner().invoke(gharial.app, [name, str(model), "--table", str(table_path), "--json", *options])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("options", [{}, {"confidence": 0.5}, {"batch": 1}, {"precision": "fp32"}])
def test_the_answer_is_that_of_the_command(client, table, model, table_path, options):
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    expected = command("estimate", model, table_path, *given)
    params = {"environment": table.environment.key, "name": str(model), **options}
    for body in (model.read_bytes(), skeleton_of([model.read_bytes()])):
        for kept in ("false", "true") if body == model.read_bytes() else ("true",):
            answer = client.post("/v1/estimate", params=params, content=body)
            assert answer.json() == expected
            assert answer.headers["x-gharial-kept"] == kept
    network = network_to_json(harvest_onnx(model, batch=1))
    options = {name: value for name, value in options.items() if name == "confidence"}
    params = {"environment": table.environment.key, "name": str(model), **options}
    assert client.post("/v1/estimate/network", params=params, json=network).json() == expected


def test_explanations_are_those_of_the_command(client, table, model, table_path):
    params = {"environment": table.environment.key, "name": str(model), "explain": True}
    answer = client.post("/v1/estimate", params=params, content=model.read_bytes())
    assert answer.json() == command("explain", model, table_path)


def test_a_model_that_was_fitted_before_is_read_after_a_restart(new_service, table, model):
    from starlette.testclient import TestClient

    from latency_model.service.api.app import create_app

    settings, database = new_service()
    params, found = {"environment": table.environment.key}, []
    for _ in range(2):
        with TestClient(create_app(settings, database)) as client:
            fit = f"/v1/environments/{table.environment.key}/fit"
            assert client.get(fit).json()["ready"] is False
            found.append(client.post("/v1/estimate", params=params, content=model.read_bytes()).json())
            assert client.get(fit).json()["rows"] == len(table)
        assert len(list(settings.cache_dir.glob("*.model/model.json"))) == 1
    assert found[0] == found[1]


def test_new_rows_make_a_new_model(client, table, model, synthetic):
    from latency_model.service.store.rows import put
    from latency_model.table import LatencyTable

    params = {"environment": table.environment.key}
    before = client.post("/v1/estimate", params=params, content=model.read_bytes()).json()
    slower = {s: synthetic.measurement(3 * row.latency_us, at="2027-01-01") for s, row in table.items()}
    put(client.database, LatencyTable(table.environment, slower), source="again")
    end = time.monotonic() + 20
    while True:
        after = client.post("/v1/estimate", params=params, content=model.read_bytes()).json()
        if after["raw_sum_us"] == pytest.approx(3 * before["raw_sum_us"], rel=1e-3):
            return
        assert time.monotonic() < end


def test_what_was_not_measured_says_what_to_do(client, table, model):
    params = {"environment": table.environment.key, "batch": 1}
    other = harvest_onnx(model)
    data = json.loads(json.dumps(network_to_json(other)).replace("1x3x32x32", "1x3x48x48"))
    answer = client.post("/v1/estimate/network", params=params, json=data)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not-measured"
    assert "POST /v1/jobs" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("params", "status"),
    [({"batch": 7}, 400), ({"precision": "fp16"}, 400), ({"precision": "x"}, 422), ({"batch": 0}, 422),
     ({"confidence": 1}, 422), ({"family": "none"}, 400), ({"environment": "nowhere"}, 404)],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(client, table, model, params, status):
    answer = client.post(
        "/v1/estimate", params={"environment": table.environment.key} | params, content=model.read_bytes()
    )
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"3", b"{}", b'{"format_version": 1}', b"\xff"])
def test_what_is_no_network_is_refused(client, table, body):
    answer = client.post("/v1/estimate/network", params={"environment": table.environment.key}, content=body)
    assert answer.status_code == 400


def external(place):
    """Return a model with a tensor that names a file of this machine: an initializer, a constant, or in a branch."""
    tensor = numpy_helper.from_array(torch.zeros(4, 3, 3, 3).numpy(), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    nodes, tensors = [helper.make_node("Conv", ["x", "w"], ["y"])], []
    constant = helper.make_node("Constant", [], ["w" if place == "constant" else "v"], value=tensor)
    if place == "initializer":
        tensors = [tensor]
    elif place == "constant":
        nodes = [constant, *nodes]
    else:
        tensors = [numpy_helper.from_array(torch.zeros(4, 3, 3, 3).numpy(), "w")]
        branch = helper.make_graph(
            [constant], "b", [], [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)]
        )
        nodes = [helper.make_node("If", ["c"], ["v"], then_branch=branch, else_branch=branch), *nodes]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(
        helper.make_graph(nodes, "g", [image], [out], initializer=tensors)
    ).SerializeToString()


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_tensors_in_other_files_are_refused(client, table, place):
    answer = client.post(
        "/v1/estimate", params={"environment": table.environment.key}, content=external(place)
    )
    assert answer.status_code == 400
    assert "lies in a file beside" in answer.json()["error"]["message"]
    assert "passwd" not in answer.text


def test_deep_messages_are_refused_before_they_are_parsed(client, table):
    value = onnx.TypeProto()
    value.tensor_type.elem_type = 1
    for _ in range(40):
        outer = onnx.TypeProto()
        outer.sequence_type.elem_type.CopyFrom(value)
        value = outer
    model = onnx.load_model_from_string(external("initializer"))
    model.graph.input[0].type.CopyFrom(value)
    answer = client.post(
        "/v1/estimate", params={"environment": table.environment.key}, content=model.SerializeToString()
    )
    assert answer.status_code == 400
    assert "nests messages deeper" in answer.json()["error"]["message"]


def run(harvesters, *models, before=None):
    """Harvest ``models`` one after the other; return networks and errors."""

    async def each():
        found = []
        await harvesters.start()
        for data in models:
            if before is not None:
                before(harvesters)
            try:
                found.append(await harvesters.harvest(data, batch=None, precision=None, layout="nchw"))
            except ModelError as error:
                found.append(error)
        await harvesters.close()
        return found

    return asyncio.run(each())


def test_a_reader_that_crashes_costs_one_request(model):
    data, killed = skeleton_of([model.read_bytes()]), []

    def kill(harvesters):
        if not killed:
            killed.append(harvesters._idle[0].pid)
            harvesters._idle[0].send_signal(signal.SIGKILL)

    harvesters = Harvesters()
    first, second = run(harvesters, data, data, before=kill)
    assert "crashed" in str(first)
    assert second == harvest_onnx(data, name=second.name)
    assert harvesters.restarts == 1


def test_a_reader_that_hangs_is_ended(model):
    data, stopped = skeleton_of([model.read_bytes()]), []

    def stop(harvesters):
        if not stopped:
            stopped.append(harvesters._idle[0])
            harvesters._idle[0].send_signal(signal.SIGSTOP)

    harvesters = Harvesters(timeout_s=0.5)
    (first,) = run(harvesters, data, before=stop)
    assert "took longer than the 0.5 s" in str(first)
    assert stopped[0].returncode is not None


def test_memory_of_a_reader_is_limited(model):
    (found,) = run(Harvesters(memory_bytes=300 << 20), skeleton_of([model.read_bytes()]) + bytes(2))
    assert isinstance(found, ModelError)
