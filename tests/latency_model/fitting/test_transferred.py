"""From one device's rows and a few of another's to the other's table."""

import pandas as pd
import pytest

from latency_model import transfer
from latency_model.errors import InputError
from latency_model.table import LatencyTable

from .conftest import call, data, some_rows


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """Rows of a device, and forty of one that takes two and a half times as long."""
    folder = tmp_path_factory.mktemp("devices")
    rows = some_rows(140, 3)
    rows.to_csv(folder / "known.csv", index=False)
    few = rows.iloc[::4].head(40).copy()
    few["latency_ms"] *= 2.5
    few.to_csv(folder / "few.csv", index=False)
    return folder


def test_a_table_of_the_new_device(devices):
    out = devices / "new.parquet"
    said = data("transfer", devices / "known.csv", "--samples", devices / "few.csv", "--out", out)
    table, known = LatencyTable.load(out), pd.read_csv(devices / "known.csv")
    assert len(table) == len(known) == said["rows"]
    assert said["sources"]["measured"] == said["samples"]
    guessed = [row for row in table.values() if row.flags]
    assert all(row.flags[0] in ("transferred", "extrapolated") for row in guessed)
    assert all("not measured" in row.note for row in guessed)
    total = sum(row.latency_us for row in table.values())
    assert total == pytest.approx(2.5e3 * known.latency_ms.sum(), rel=0.15)


def test_the_table_is_one_that_other_commands_take(devices):
    out = devices / "again.csv"
    call("transfer", devices / "known.csv", "--samples", devices / "few.csv", "--out", out, "--units", 1)
    assert len(pd.read_csv(out)) > 100
    with pytest.raises(InputError, match="between 0 and 1"):
        words = ("--samples", devices / "few.csv", "--out", out, "--confidence", 2)
        call("transfer", devices / "known.csv", *words)


def test_every_option_reaches_the_transfer(devices, monkeypatch):
    given = {}
    real = transfer.transfer_table

    def seen(known, few, **options):
        given.update(options, few=few)
        return real(known, few, **options)

    monkeypatch.setattr(transfer, "transfer_table", seen)
    asked = devices / "asked.csv"
    pd.read_csv(devices / "known.csv").head(7).drop(columns="latency_ms").to_csv(asked, index=False)
    out = devices / "options.parquet"
    words = ("--rows", asked, "--units", 12, "--confidence", 0.8, "--device", "NVIDIA X")
    said = data("transfer", devices / "known.csv", "--samples", devices / "few.csv", "--out", out, *words)
    assert (given["units"], given["confidence"], len(given["wanted"])) == (12, 0.8, 7)
    assert given["few"].device == LatencyTable.load(out).environment.device == "NVIDIA X"
    assert (said["rows"], said["confidence"]) == (7, 0.8)
