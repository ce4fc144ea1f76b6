"""From plain rows to a model, and from the model to predictions of rows."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import InputError, ModelError, TableError
from latency_model.model import LatencyModel
from latency_model.regression.regressor import RowRegressor, Settings
from latency_model.row_model import RowModel
from latency_model.shapes import ConvShape

from .conftest import call, data, latency_us, some_rows


def test_a_fit_says_what_it_rests_on(fitted):
    out, said = fitted
    assert said["regression"] is True
    assert said["rows"] > 100
    assert said["figures"]["mape"] < 0.25
    assert any("assumed" in note for note in said["notes"])
    assert (out / "report.html").stat().st_size > 1000
    assert (out / "report.png").stat().st_size > 1000


def test_predictions_come_in_the_order_and_the_unit_of_the_rows(fitted, files):
    out, _ = fitted
    target = files / "predicted.csv"
    said = data("estimate", "--model", out, "--rows", files / "ask.csv", "--out", target)
    asked, found = pd.read_csv(files / "ask.csv"), pd.read_csv(target)
    assert list(found.columns) == ["predicted_ms", "low_ms", "high_ms", "source"]
    assert len(found) == len(asked) == said["rows"]
    assert (found.low_ms <= found.predicted_ms).all()
    assert (found.predicted_ms <= found.high_ms).all()
    error = np.abs(found.predicted_ms / (latency_us(asked) / 1e3) - 1)
    assert error.median() < 0.25


def test_measured_rows_come_back_as_they_are(fitted, files):
    target = files / "again.parquet"
    call("estimate", "--model", fitted[0], "--rows", files / "rows.csv", "--out", target)
    given, found = pd.read_csv(files / "rows.csv"), pd.read_parquet(target)
    assert set(found.source) == {"measured"}
    np.testing.assert_allclose(found.predicted_ms, given.latency_ms, rtol=1e-9)


def test_what_is_larger_than_all_rows_is_flagged_and_less_sure(fitted, files):
    asked = pd.read_csv(files / "ask.csv").iloc[[0, 0]].reset_index(drop=True)
    asked.loc[1, "out_channels"] = 4096
    asked.to_csv(files / "large.csv", index=False)
    call("estimate", "--model", fitted[0], "--rows", files / "large.csv", "--out", files / "large_out.csv")
    found = pd.read_csv(files / "large_out.csv")
    assert found.source.tolist() == ["regressed", "extrapolated"]
    width = found.high_ms / found.low_ms
    assert width[1] > width[0]


def test_an_interval_at_a_higher_confidence_is_wider(fitted, files):
    width = {}
    for confidence in (0.5, 0.95):
        target = files / f"at{confidence}.csv"
        words = ("--rows", files / "ask.csv", "--out", target, "--confidence", confidence)
        call("estimate", "--model", fitted[0], *words)
        found = pd.read_csv(target)
        width[confidence] = (found.high_ms / found.low_ms).mean()
    assert width[0.95] > width[0.5]


def test_a_saved_model_predicts_to_the_last_bit_what_it_did(fitted, tmp_path):
    first = LatencyModel.load(fitted[0])
    first.save(tmp_path / "copy")
    second = LatencyModel.load(tmp_path / "copy")
    assert first.rows is not None
    assert second.rows is not None
    columns = ConvColumns.of([ConvShape(2, 33, 14, 14, 77, pattern="conv"), ConvShape(1, 8, 7, 7, 9)])
    one, two = first.rows.predict(columns), second.rows.predict(columns)
    for name in ("latency_us", "low_us", "high_us"):
        assert (getattr(one, name) == getattr(two, name)).all()


def test_a_saved_model_needs_neither_the_library_nor_the_version_that_fitted_it(fitted, files):
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.argv[0] = 'gharial'\n"
        "from latency_model.cli import app; app()"
    )
    target = files / "without.csv"
    words = ["estimate", "--model", fitted[0], "--rows", files / "ask.csv", "--out", target]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True)
    call("estimate", "--model", fitted[0], "--rows", files / "ask.csv", "--out", files / "with.csv")
    assert target.read_text() == (files / "with.csv").read_text()


def test_rows_of_another_device_are_said(fitted, files):
    asked = pd.read_csv(files / "ask.csv").assign(device="Another device")
    asked.to_csv(files / "other.csv", index=False)
    words = ("--rows", files / "other.csv", "--out", files / "other_out.csv")
    assert any("Another device" in note for note in data("estimate", "--model", fitted[0], *words)["notes"])


def test_no_file_of_a_model_is_a_pickle(fitted):
    with np.load(fitted[0] / "regression.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    assert json.loads((fitted[0] / "regression.json").read_text())["experts"]


@pytest.mark.parametrize("name", ["regression.npz", "regression.json"])
def test_a_damaged_regression_is_one_sentence(fitted, tmp_path, name):
    LatencyModel.load(fitted[0]).save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match="fit the model again"):
        LatencyModel.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(TableError, match="fit the model again"):
        LatencyModel.load(tmp_path)


def test_too_few_rows_make_a_model_without_a_regression(files, tmp_path):
    pd.read_csv(files / "rows.csv").head(20).to_csv(tmp_path / "few.csv", index=False)
    said = data("fit", tmp_path / "few.csv", "--out", tmp_path / "model")
    assert said["regression"] is False
    assert any("40 rows" in note for note in said["notes"])
    ask = ("--rows", files / "ask.csv", "--out", tmp_path / "out.csv")
    with pytest.raises(TableError, match="no regression"):
        call("estimate", "--model", tmp_path / "model", *ask)
    assert not (tmp_path / "out.csv").exists()


def test_every_interval_rests_on_rows_that_were_left_out() -> None:
    rows = some_rows(60, 5)
    kernel = rows.kernel_size.to_numpy()
    kinds = (Kind((1, 1), padding=(0, 0, 0, 0), pattern="conv"), Kind(pattern="conv"))
    columns = ConvColumns(
        *(rows[n].to_numpy() for n in ("batch", "in_channels", "height", "height", "out_channels", "stride")),
        (kernel == 3).astype(np.int64),
        kinds,
    )
    latency = rows.latency_ms.to_numpy() * 1e3
    small = Settings(classifying=5, boosted=20, rate=0.2, averaged=5)
    with pytest.raises(ModelError, match="at least 40 rows"):
        RowModel.fit(columns.take(slice(39)), latency[:39], settings=small)
    model, left_out = RowModel.fit(columns.take(slice(40)), latency[:40], settings=small)
    # What the final regression says of its own rows is closer than what those without them said.
    own = np.abs(np.log(model.predict(columns.take(slice(40))).latency_us / latency[:40])).mean()
    assert own < np.abs(np.log(left_out.predicted_us / latency[:40])).mean()


class StopHereError(Exception):
    """Raised by a regression that only wants to know what it was asked."""


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("by_size", [True, False])
def test_a_drift_is_looked_for_in_the_order_of_measuring_only(monkeypatch, in_order, by_size) -> None:
    rng, count = np.random.default_rng(0), 200
    channels = np.sort(rng.integers(3, 300, count)) if by_size else rng.integers(3, 300, count)
    columns = ConvColumns.of([ConvShape(1, 8, 7, 7, int(c), pattern="conv") for c in channels])
    places = []

    def fit(*_args, place, **_options):
        places.append(place)
        raise StopHereError

    monkeypatch.setattr(RowRegressor, "fit", fit)
    with pytest.raises(StopHereError):
        RowModel.fit(columns, np.ones(count), in_order=in_order)
    # Rows that are sorted by size say nothing of time, whoever says that they stand as measured.
    assert (np.ptp(places[0]) > 0.9) == (in_order and not by_size)
    assert (np.diff(places[0]) >= 0).all()


def test_sums_are_of_expectations(fitted):
    rows = LatencyModel.load(fitted[0]).rows
    assert rows is not None
    columns = ConvColumns.of([ConvShape(2, 33, 14, 14, c, pattern="conv") for c in range(20, 90)])
    alone, summed = rows.predict(columns), rows.predict(columns, for_sums=True)
    np.testing.assert_array_equal(alone.latency_us, rows.regressor.predict(columns))
    np.testing.assert_array_equal(summed.latency_us, rows.regressor.expected(columns))
    assert (alone.latency_us != summed.latency_us).any()
    assert (summed.low_us <= summed.latency_us).all()
    assert (summed.latency_us <= summed.high_us).all()


def test_a_fit_without_a_regression_still_reports_its_networks(files, tmp_path):
    words = ("--networks", files / "networks.json.gz", "--no-regression")
    with pytest.raises(TableError, match="no regression"):  # these networks have convolutions without a row
        call("fit", files / "rows.csv", *words, "--out", tmp_path / "model")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "MODEL or --rows"),
        (("resnet20", "--rows", "ask.csv"), "one of them"),
        (("--rows", "ask.csv"), "--out PREDICTIONS"),
        (("resnet20", "--out", "x.csv"), "--json"),
    ],
)
def test_mixed_up_options_are_one_sentence(fitted, files, words, says):
    given = [files / word if word == "ask.csv" else word for word in words]
    with pytest.raises(InputError, match=says):
        call("estimate", "--model", fitted[0], *given)
