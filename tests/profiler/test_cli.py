import json

import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

from latency_model import LatencyTable, zoo
from latency_model.errors import InputError, ModelError
from latency_model.zoo import LoadedModel
from profiler.cli import app
from profiler.cli_plan import channel_counts
from profiler.testing import small_network


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The model name `tiny`: two convolutions on 8x8 images."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, padding=1)
    )
    loaded = LoadedModel("tiny", module.eval(), (3, 8, 8))
    real = zoo.load_model
    monkeypatch.setattr(zoo, "load_model", lambda name: loaded if name == "tiny" else real(name))


@pytest.fixture
def net(tmp_path):
    """Write an ONNX file of two convolutions; a batch of "N" is free."""

    def write(batch=1):
        model = onnx.load_model_from_string(small_network(channels=16, size=8))
        for value in (model.graph.input[0], model.graph.output[0]):
            size = value.type.tensor_type.shape.dim[0]
            if batch == "N":
                size.dim_param = batch
            else:
                size.dim_value = batch
        path = tmp_path / "net.onnx"
        onnx.save(model, path)
        return path

    return write


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


def test_an_onnx_file_is_timed_at_the_batch_that_it_fixes(out, net):
    data = report(net(4), "--runtime", "fake", "--out", out)
    assert [network["batch"] for network in data["networks"]] == [4]
    assert {shape.batch for shape in LatencyTable.load(out)} == {4}
    with pytest.raises(ModelError, match="exported with batch 4, not 1"):
        raise run(net(4), "--batch", 1, 4, "--runtime", "fake", "--out", out).exception


def test_an_onnx_file_with_a_free_batch_is_timed_at_each(out, net):
    data = report(net("N"), "--batch", 1, 4, "--runtime", "fake", "--out", out)
    assert [network["batch"] for network in data["networks"]] == [1, 4]
    assert data["networks"][0]["us"] < data["networks"][1]["us"]
    assert data["notes"] == []
    real = report(net("N"), "--batch", 2, "--out", f"{out}2", "--step", 16)
    assert [network["batch"] for network in real["networks"]] == [2]


def test_rows_of_a_precision_have_no_network_of_another(out, net):
    data = report("tiny", "--precision", "bf16", "--runtime", "fake", "--out", out)
    assert data["networks"] == []
    assert "bf16" in data["notes"][0]
    with pytest.raises(ModelError, match="computes in fp32, not in fp16"):
        raise run(net(), "--precision", "fp16", "--runtime", "fake", "--out", out).exception


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nothing", "--runtime", "fake"), "unknown model"),
        (("nothing.onnx", "--runtime", "fake"), "no ONNX file"),
        (("tiny", "--runtime", "magic"), "magic"),
        (("tiny", "--device", "cuda:x"), "not a device"),
        (("tiny", "--device", "cuda:0", "--runtime", "fake"), "does not time on cuda:0"),
        (("tiny", "--runtime", "onnxruntime-tensorrt"), "CUDA devices only"),
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
    assert data["rows"] == 2 + 1  # and the change of layout at the end
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


def test_operators_are_measured_unless_refused(out, net):
    data = report(net(), "--runtime", "fake", "--out", out)
    table = LatencyTable.load(out)
    assert {shape.op for shape in table.ops} == {"GlobalAveragePool"}
    assert data["rows"] == len(table) + len(table.ops)
    assert any(shape.text.startswith("op ") for shape in table.networks[0].shapes)
    other = out.with_name("convolutions.parquet")
    report(net(), "--runtime", "fake", "--out", other, "--no-ops")
    assert not LatencyTable.load(other).ops


@pytest.mark.parametrize(
    ("text", "counts"),
    [("8,16,24", {8, 16, 24}), ("8:32:8", {8, 16, 24, 32}), ("4:6", {4, 5, 6}), ("1,4:8:4", {1, 4, 8})],
)
def test_channels_take_lists_and_ranges(text, counts):
    assert set(channel_counts(text)) == counts


@pytest.mark.parametrize("text", ["", "8,", "0,8", "8:x", "9:8", "1:2:3:4", "1:9:0", "-8"])
def test_what_names_no_channels_is_an_error(text):
    with pytest.raises(InputError, match="channels"):
        channel_counts(text)


def test_several_precisions_and_channels(out):
    words = ("tiny", "--runtime", "fake", "--precision", "fp32", "fp16", "--channels", "4,8", "--out", out)
    data = report(*words)
    table = LatencyTable.load(out)
    assert {shape.precision for shape in table} == {"fp32", "fp16"}
    assert {shape.out_channels for shape in table} == {4, 8, 16}
    assert data["failed"] == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("seed",), "write --option NAME=VALUE"),
        (("=3",), "write --option NAME=VALUE"),
        (("wheels=3",), "the runtime fake on cpu has no option 'wheels'"),
    ],
)
def test_options_of_the_runtime_are_checked(out, words, says):
    result = run("tiny", "--runtime", "fake", "--option", *words, "--out", out)
    assert isinstance(result.exception, InputError), result.exception
    assert says in str(result.exception)


def test_options_of_the_runtime_are_part_of_the_environment(out):
    data = report("tiny", "--runtime", "fake", "--option", "seed=3", "--option", "noise=0.02", "--out", out)
    assert data["environment"]["options"]["seed"] == "3"
    assert data["environment"]["options"]["noise"] == "0.02"


def test_several_devices_share_the_work_and_are_each_named_once(out):
    data = report("tiny", "--runtime", "fake", "--device", "a", "--device", "b", "--out", out)
    assert (data["rows"], data["failed"]) == (6, {})
    with pytest.raises(InputError, match="a is given twice"):
        raise run("tiny", "--runtime", "fake", "--device", "a", "--device", "a", "--out", out).exception


def test_the_same_table_comes_out_of_this_process(out):
    data = report("tiny", "--runtime", "fake", "--out", out)
    here = report("tiny", "--runtime", "fake", "--out", f"{out}2", "--in-process")
    assert data["rows"] == here["rows"]
    rows = [{s: row.latency_us for s, row in LatencyTable.load(path).items()} for path in (out, f"{out}2")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--workers", 2), "--workers is for a --cluster"),
        (("--in-process", "--device", "a", "--device", "b"), "--in-process measures on one device"),
        (("--cluster", "nowhere", "--device", "a", "--device", "b"), "one --device only"),
        (("--device", "cuda:all"), "nvidia-smi"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(out, words, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = run("tiny", "--runtime", "fake", *words, "--out", out)
    assert isinstance(result.exception, InputError), result.exception
    assert says in str(result.exception)
