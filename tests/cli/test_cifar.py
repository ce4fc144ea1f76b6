"""The real data set and checkpoint, through the real command, on the fake device and without training."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_prune_the_checkpoint(gh, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pruner.stages.weighing.images_for", lambda macs: 64
    )  # what is tested is the way, not the choice
    table = tmp_path / "fake.parquet"
    assert gh("profile", "resnet20", "--runtime", "fake", "--step", "16", "--out", table).exit_code == 0
    result = gh(
        *("prune", "resnet20", "--weights", SHARED / "checkpoints" / "resnet20_cifar10.safetensors"),
        *("--data", SHARED / "cifar10", "--table", table, "--budget", "latency=0.8x", "--method", "l1"),
        *("--finetune-epochs", "0", "--out", tmp_path / "run", "--json"),
    )
    assert result.exit_code == 0
    report = result.json
    # The checkpoint's own figure, 88.77; without any recovery what is left is above the 10 % of chance.
    assert report["accuracy_before"] == pytest.approx(88.77, abs=0.05)
    assert report["accuracy_after"] > 20
    assert 0.75 <= report["ratio_measured"] <= 0.81
