"""Each command on tiny inputs, the whole way from a profile to a pruned network, on the fake device."""

import json
import subprocess
import sys

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from latency_model import LatencyTable
from latency_model.zoo import load_model
from pruner.saved import rebuild

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:onnxruntime.*")


@pytest.fixture(scope="module")
def pruned(gh, fake_table, tmp_path_factory):
    out = tmp_path_factory.mktemp("prune") / "run"
    args = ["prune", "digits_resnet", "--table", fake_table, "--budget", "latency=0.6x", "--data", "digits"]
    args += ["--epochs", "1", "--finetune-epochs", "1", "--out", out, "--json"]
    result = gh(*args)
    assert result.exit_code == 0
    return out, args, result.json


def test_help_of_every_command_has_an_example(gh):
    for command in (
        "profile",
        "fit",
        "estimate",
        "train",
        "prune",
        "demo",
        "methods",
        "tables list",
        "tables show",
        "tables diff",
    ):
        result = gh(*command.split(), "--help")
        assert result.exit_code == 0
        assert "Example" in result.stdout, command


def test_help_says_what_is_taken_where_nothing_is_given(gh):
    for command in ("profile", "estimate"):
        text = " ".join(gh(command, "--help").stdout.replace("│", " ").split())
        assert "default: (1, or what an ONNX file fixes)" in text
        assert "of an ONNX file its own" in text


def test_estimate_from_table_and_from_model(gh, fake_table, tmp_path):
    one = gh("estimate", "digits_resnet", "--table", fake_table, "--json").json
    assert gh("fit", fake_table, "--out", tmp_path / "model").exit_code == 0
    two = gh("estimate", "digits_resnet", "--model", tmp_path / "model", "--json").json
    assert one == two
    assert one["low_us"] <= one["latency_us"] <= one["high_us"]
    assert one["raw_sum_us"] == pytest.approx(
        sum(part["latency_us"] for part in (*one["sites"], *one["ops"]))
    )


def test_estimate_equals_the_fake_network(gh, fake_table):
    table = LatencyTable.load(fake_table)
    estimate = gh("estimate", "digits_resnet", "--table", fake_table, "--json").json
    assert estimate["latency_us"] == pytest.approx(table.networks[0].measurement.latency_us, rel=0.02)


def test_prune_report(pruned, fake_table):
    out, _, report = pruned
    names = (
        "method device runtime budget latency_before_us latency_after_us latency_predicted_us ratio_measured "
        "ratio_predicted accuracy_before accuracy_after params_before params_after macs_before macs_after seconds"
    )
    assert set(names.split()) <= set(report)
    assert report == json.loads((out / "report.json").read_text())
    assert report["ratio_measured"] <= 0.615
    assert abs(report["ratio_measured"] - report["ratio_predicted"]) <= 0.05
    assert report["params_after"] < report["params_before"]
    assert not any("table lacks" in note for note in report["notes"])
    assert (out / "report.html").stat().st_size > 100_000
    assert (out / "report.png").stat().st_size > 10_000


def test_pruned_files_work_without_the_graph(pruned):
    out, _, _ = pruned
    small = rebuild(
        lambda: load_model("digits_resnet").module, out / "spec.json", out / "weights.safetensors"
    ).eval()
    session = onnxruntime.InferenceSession(out / "pruned.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(1, 1, 16, 16)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(small(x), torch.from_numpy(logits), rtol=1e-3, atol=1e-3)


def test_a_finished_run_is_not_done_again(gh, pruned):
    out, args, report = pruned
    before = (out / "weights.safetensors").stat().st_mtime_ns
    assert gh(*args).json == report
    assert (out / "weights.safetensors").stat().st_mtime_ns == before


def test_same_seed_same_network(gh, pruned, tmp_path):
    out, args, _ = pruned
    again = tmp_path / "again"
    assert gh(*[again if arg == out else arg for arg in args]).exit_code == 0
    first, second = (load_file(folder / "weights.safetensors") for folder in (out, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_settings_do_not_overwrite_a_run(gh, pruned):
    _, args, _ = pruned
    result = gh(*[("latency=0.5x" if arg == "latency=0.6x" else arg) for arg in args])
    assert result.exit_code == 2
    assert "budget" in result.error and "--restart" in result.error


def test_killed_prune_resumes_to_the_same_network(pruned, tmp_path):
    """kill -9 after the first saved epoch of gate learning; the same command then ends with the same weights."""
    out, args, _ = pruned
    again = tmp_path / "killed"
    words = [str(again if arg == out else arg) for arg in args]
    code = (
        "import os, sys\n"
        "import pruner.training.run as run\n"
        "real = run.save_state\n"
        "def save(*a, **k):\n"
        "    real(*a, **k)\n"
        "    os.kill(os.getpid(), 9)\n"
        "run.save_state = save\n"
        "import gharial\n"
        "gharial.app(sys.argv[1:])\n"
    )
    killed = 0
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        killed += 1
    assert killed == 2  # once in each of the two stages, one epoch each
    first, second = (load_file(folder / "weights.safetensors") for folder in (out, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_l1_needs_no_training_and_a_budget_takes_a_confidence(gh, fake_table, tmp_path):
    result = gh(
        *(
            "prune",
            "digits_resnet",
            "--table",
            fake_table,
            "--budget",
            "latency=0.7x@95%",
            "--data",
            "digits",
        ),
        *("--method", "l1", "--finetune-epochs", "0", "--out", tmp_path / "l1", "--json"),
    )
    assert result.exit_code == 0
    report = result.json
    assert report["method"] == "l1"
    assert (report["budget"], report["budget_confidence"]) == ("latency=0.7x@95%", 0.95)
    predicted = json.loads((tmp_path / "l1" / "plan.json").read_text())["predicted"]
    assert report["latency_predicted_us"] < report["latency_bound_us"]
    assert report["latency_bound_us"] == pytest.approx(predicted["latency_bound"])
    assert report["latency_bound_us"] <= 0.7 * predicted["latency_before"] * (1 + 1e-6)
    assert report["ratio_measured"] <= 0.7
    assert "bound at 95 %" in (tmp_path / "l1" / "report.html").read_text()


def test_a_confidence_of_what_is_exact_is_refused(gh, fake_table, tmp_path):
    result = gh(
        *("prune", "digits_resnet", "--table", fake_table, "--budget", "macs=0.7x@95%", "--data", "digits"),
        *("--method", "l1", "--out", tmp_path / "l1", "--json"),
    )
    assert result.exit_code == 2
    assert "leave @ away" in result.error


def test_a_prediction_from_unmeasured_counts_is_said(gh, fake_table, tmp_path):
    result = gh(
        *("prune", "digits_resnet", "--table", fake_table, "--budget", "flops=0.5x", "--data", "digits"),
        *("--method", "uniform", "--finetune-epochs", "0", "--out", tmp_path / "l1", "--json"),
    )
    assert result.exit_code == 0
    assert result.json["macs_after"] <= 0.5 * result.json["macs_before"]
    assert any("table lacks" in note for note in result.json["notes"])


def test_methods(gh):
    rows = gh("methods", "--json").json
    assert {"gator", "l1"} <= {row["name"] for row in rows}
