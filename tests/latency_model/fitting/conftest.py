"""Rows of a device that is a formula, as plain files, and a model fitted on them."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from latency_model.cli import app

runner = CliRunner()


def call(*words, fails=False):
    result = runner.invoke(app, [str(word) for word in words])
    if fails:
        assert result.exception is not None
        return str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def data(*words):
    return json.loads(call(*words, "--json"))


def latency_us(rows):
    pixels = rows.batch * rows.height * rows.height
    work = pixels * np.ceil(rows.out_channels / 16) * 16 * rows.in_channels * rows.kernel_size**2
    return 4.0 + work / 2e6 + pixels * (rows.in_channels + rows.out_channels) / 1e5


def some_rows(count, seed):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "batch": rng.choice([1, 2, 4], count),
            "in_channels": rng.integers(3, 128, count),
            "out_channels": rng.integers(3, 128, count),
            "height": rng.choice([7, 14, 28], count),
            "kernel_size": rng.choice([1, 3], count),
        }
    )
    rows["stride"], rows["padding"], rows["precision"] = 1, rows.kernel_size // 2, "fp32"
    rows["latency_ms"] = latency_us(rows) / 1e3 * np.exp(rng.normal(0, 0.03, count))
    return rows.drop_duplicates(["batch", "in_channels", "out_channels", "height", "kernel_size"])


SPECS = [
    ("resnet", {"block": "basic", "stem": 16, "stream": [16, 32], "inner": [[[16]], [[24]]]}),
    ("resnet", {"block": "basic", "stem": 24, "stream": [24, 40], "inner": [[[24]], [[40]]]}),
    ("vgg", {"widths": [[16, 24], [32]]}),
    ("vgg", {"widths": [[32], [48]]}),
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files of rows and networks."""
    folder = tmp_path_factory.mktemp("given")
    rows = some_rows(110, 0)
    rows.to_csv(folder / "rows.csv", index=False)
    some_rows(12, 1).drop(columns="latency_ms").to_csv(folder / "ask.csv", index=False)
    networks = []
    for place, (family, spec) in enumerate(SPECS):
        wanted = {"family": family, **spec, "input": 28, "batch": 2, "precision": "fp32"}
        networks.append({"name": f"{family}{place}", "spec": wanted, "e2e_us": 400.0 + 150 * place})
    with gzip.open(folder / "networks.json.gz", "wt") as stream:
        json.dump(networks, stream)
    return folder


@pytest.fixture(scope="session")
def fitted(files):
    """The folder of a model with a regression and a correction, and what the command said."""
    out = files / "model"
    return out, data("fit", files / "rows.csv", "--networks", files / "networks.json.gz", "--out", out)
