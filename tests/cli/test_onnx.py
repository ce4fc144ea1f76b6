"""ONNX files and models of the caller's own, the whole way through the commands."""

import onnx
import pytest

from latency_model import LatencyTable
from latency_model.harvest import harvest_onnx
from latency_model.zoo import load_model
from profiler.backends.fake import FakeDevice
from profiler.onnx_export import export_onnx


@pytest.fixture(scope="module")
def digits():
    """The demo network as ONNX bytes."""
    loaded = load_model("digits_resnet", seed=0)
    return export_onnx(loaded.module, loaded.input_shape, batch=1)


@pytest.fixture
def net(digits, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(digits)
    return path


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The model name `own_package.nets:build`, of a package outside ours."""
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten())\n"
        "    net.input_shape = (3, 10, 10)\n"
        "    return net\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "own_package.nets:build"


def refused(result, *words):
    assert result.exit_code == 2, result.stdout
    assert result.error
    assert "\n" not in result.error
    for word in words:
        assert word in result.error, result.error


def profiled(gh, *args):
    result = gh("profile", *args, "--json")
    assert result.exit_code == 0, result.error
    return result.json


def test_a_file_is_profiled_and_estimated(gh, net, digits, tmp_path):
    out = tmp_path / "t.parquet"
    data = profiled(gh, net, "--runtime", "fake", "--out", out)
    assert (data["failed"], data["notes"]) == ({}, [])
    device = FakeDevice()
    true_us = device.network_us(digits)
    assert data["networks"] == [
        {"name": str(net), "batch": 1, "us": pytest.approx(true_us, rel=0.02)},
    ]
    found = gh("estimate", net, "--table", out, "--json").json
    assert (found["batch"], found["precision"]) == (1, "fp32")
    cost = harvest_onnx(digits)
    assert found["raw_sum_us"] == pytest.approx(sum(device.true_us(s) for _, s in cost.shapes()), rel=0.02)
    # One network with an offset for its other operators: the correction is exact but for the noise.
    assert found["latency_us"] == pytest.approx(true_us, rel=0.02)
    assert found["low_us"] <= true_us <= found["high_us"]
    assert found["unpriced"] == dict(cost.others)


def test_the_table_of_a_file_serves_the_module_that_it_came_from(gh, net, fake_table):
    by_file = gh("estimate", net, "--table", fake_table, "--json").json
    by_name = gh("estimate", "digits_resnet", "--table", fake_table, "--json").json
    assert by_file["latency_us"] == pytest.approx(by_name["latency_us"])


def test_the_batch_of_the_file_holds(gh, digits, tmp_path):
    loaded = load_model("digits_resnet", seed=0)
    path = tmp_path / "four.onnx"
    path.write_bytes(export_onnx(loaded.module, loaded.input_shape, batch=4))
    out = tmp_path / "t.parquet"
    profiled(gh, path, "--runtime", "fake", "--step", 32, "--out", out)
    assert {shape.batch for shape in LatencyTable.load(out)} == {4}
    assert gh("estimate", path, "--table", out, "--json").json["batch"] == 4
    refused(gh("estimate", path, "--table", out, "--batch", 1), "four.onnx", "batch 4, not 1")
    refused(gh("profile", path, "--batch", 1, "--runtime", "fake", "--out", out), "batch 4, not 1")
    refused(gh("estimate", path, "--table", out, "--precision", "fp16"), "fp32, not in fp16")


def test_a_table_that_lacks_the_network_names_the_command(gh, net, own, tmp_path):
    out = tmp_path / "own.parquet"
    profiled(gh, own, "--runtime", "fake", "--out", out)
    refused(
        gh("estimate", net, "--table", out),
        f"gharial profile {net} --device fake --runtime fake --precision fp32 --batch 1 --out {out}",
    )


@pytest.mark.parametrize("damage", ["junk", "truncated", "empty", "absent"])
def test_what_is_no_onnx_file(gh, net, digits, fake_table, tmp_path, damage):
    if damage == "absent":
        net.unlink()
    else:
        net.write_bytes({"junk": b"no graph at all", "truncated": digits[:-1000], "empty": b""}[damage])
    out = tmp_path / "t.parquet"
    refused(gh("profile", net, "--runtime", "fake", "--out", out), "net.onnx")
    refused(gh("estimate", net, "--table", fake_table), "net.onnx")
    assert not out.exists()


def test_a_file_that_lost_its_weights_in_other_files(gh, net, digits, tmp_path):
    onnx.save(
        onnx.load_model_from_string(digits),
        net,
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    profiled(gh, net, "--runtime", "fake", "--step", 32, "--out", tmp_path / "whole.parquet")
    (tmp_path / "w.bin").unlink()
    refused(gh("profile", net, "--runtime", "fake", "--out", tmp_path / "t.parquet"), "net.onnx")
    assert not (tmp_path / "t.parquet").exists()


def test_profile_in_eager_torch(gh, tmp_path):
    out = tmp_path / "torch.parquet"
    data = profiled(gh, "digits_resnet", "--runtime", "torch", "--step", 32, "--out", out)
    assert data["failed"] == {}
    assert data["rows"] == data["configurations"] > 0
    assert LatencyTable.load(out).environment.runtime == "torch"
    estimate = gh("estimate", "digits_resnet", "--table", out, "--json").json
    assert any("uncorrected" in flag for flag in estimate["flags"])


def test_a_callable_of_the_caller(gh, own, tmp_path):
    data = profiled(gh, own, "--runtime", "fake", "--out", tmp_path / "t.parquet")
    assert data["configurations"] == 1 + 2
    assert [network["name"] for network in data["networks"]] == [own]
    for wrong, says in (("own_package.nets:biuld", "build"), ("own_package.nets:number", "callable")):
        refused(gh("profile", wrong, "--runtime", "fake", "--out", tmp_path / "u.parquet"), says)
    refused(gh("profile", "no_package.nets:build", "--out", tmp_path / "u.parquet"), "no_package")


def test_a_precision_that_the_runtime_lacks(gh, net, tmp_path):
    out = tmp_path / "t.parquet"
    for model in (net, "digits_resnet"):
        result = gh("profile", model, "--precision", "fp16", "--out", out)
        refused(result, "onnxruntime on cpu cannot time fp16", "fp32")
    assert not out.exists()


def test_a_dry_run_of_a_file(gh, net, tmp_path):
    out = tmp_path / "t.parquet"
    data = profiled(gh, net, "--dry-run", "--out", out)
    assert data["configurations"] == data["missing"] > 0
    assert data["estimated_seconds"] > 0
    assert not out.exists()


def test_a_file_is_not_pruned(gh, net, fake_table, tmp_path):
    result = gh(
        *("prune", net, "--table", fake_table, "--budget", "latency=0.7x", "--data", "digits"),
        *("--out", tmp_path / "run"),
    )
    refused(result, "ONNX file", "only a torch model is pruned")
