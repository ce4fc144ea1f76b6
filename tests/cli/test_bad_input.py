"""A user's mistake ends with exit code 2 and one sentence, and leaves files as they were."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from latency_model.zoo import load_model


@pytest.fixture
def prune_args(fake_table, tmp_path):
    options = {
        "--table": fake_table,
        "--budget": "latency=0.6x",
        "--data": "digits",
        "--out": tmp_path / "run",
    }
    return lambda model="digits_resnet", **changes: [
        "prune",
        model,
        *(
            part
            for name, value in {
                **options,
                **{f"--{k.replace('_', '-')}": v for k, v in changes.items()},
            }.items()
            for part in (name, value)
        ),
    ]


def refused(result, *words):
    assert result.exit_code == 2, result.stdout
    assert "\n" not in result.error
    for word in words:
        assert word in result.error, result.error


def test_missing_table(gh, prune_args, tmp_path):
    refused(gh(*prune_args(table=tmp_path / "none.parquet")), "none.parquet", "gharial profile")


def test_truncated_table(gh, prune_args, fake_table, tmp_path):
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(fake_table.read_bytes()[:-100])
    refused(gh(*prune_args(table=cut)), "damaged", "gharial profile")
    refused(gh("estimate", "digits_resnet", "--table", cut), "damaged")
    refused(gh("tables", "show", cut), "damaged")


def test_table_of_another_device(gh, fake_table):
    before = fake_table.read_bytes()
    result = gh("profile", "digits_resnet", "--runtime", "fake", "--threads", "2", "--out", fake_table)
    refused(result, "threads")
    assert fake_table.read_bytes() == before


def test_unknown_model(gh, prune_args):
    refused(gh(*prune_args(model="resnet21")), "resnet21", "resnet20")
    refused(gh("estimate", "torchvision:resnet51", "--table", "x"), "")


def test_impossible_budget_names_the_minimum(gh, prune_args):
    refused(gh(*prune_args(budget="latency=0.01x")), "the least is")
    refused(gh(*prune_args(budget="latency=fast")), "latency=0.7x")


def test_weights_that_do_not_fit(gh, prune_args, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = load_model("digits_resnet").module.state_dict()
    tensors["surplus"] = tensors.pop("conv1.weight")
    save_file(tensors, path)
    refused(gh(*prune_args(weights=path)), "conv1.weight", "surplus")
    path.write_bytes(path.read_bytes()[:1000])
    refused(gh(*prune_args(weights=path)), "w.safetensors")
    refused(gh(*prune_args(weights=tmp_path / "no.safetensors")), "no.safetensors")


def test_table_that_lacks_the_model(gh, prune_args):
    refused(gh(*prune_args(model="resnet20")), "gharial profile")


def test_data(gh, prune_args, tmp_path):
    refused(gh(*prune_args(data=tmp_path / "nothing")), "nothing")


def test_out_that_is_something_else(gh, prune_args, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    refused(gh(*prune_args(out=precious)), "precious")
    assert gh(*prune_args(out=precious), "--restart").exit_code == 2
    assert (precious / "thesis.tex").read_text() == "years"


def test_unknown_method_and_runtime(gh, prune_args, tmp_path):
    refused(gh(*prune_args(method="gater")), "gator")
    refused(
        gh("profile", "digits_resnet", "--runtime", "tensorflow", "--out", tmp_path / "t.parquet"),
        "onnxruntime",
    )
    refused(gh("profile", "digits_resnet", "--device", "cuda:0", "--out", tmp_path / "t.parquet"), "cuda:0")


def test_unknown_devices_and_precisions(gh, prune_args, tmp_path):
    refused(gh(*prune_args(device="gpu")), "'gpu'", "auto, cpu, cuda")
    refused(gh(*prune_args(device="cuda:99")), "cuda:99", "--device auto or cpu")
    refused(
        gh("train", "digits_resnet", "--data", "digits", "--out", tmp_path / "w", "--device", "gpu"), "'gpu'"
    )
    refused(gh(*prune_args(precision="fp16")), "no fp16 rows, only of fp32", "--precision fp16")
    refused(gh(*prune_args(precision="fp8")), "fp8", "fp32 or fp16 or tf32")
    assert not (tmp_path / "run").exists() and not (tmp_path / "w").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(gh, fake_table):
    refused(gh("tables", "export", fake_table, "--out", "/dev/full/x.csv"), "cannot write")


def test_the_process_prints_one_sentence_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gharial", "tables", "show", str(tmp_path / "none.parquet")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: no latency table")


def test_json_goes_to_stdout_alone(fake_table):
    done = subprocess.run(
        [sys.executable, "-m", "gharial", "estimate", "digits_resnet", "--table", str(fake_table), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["latency_us"] > 0
