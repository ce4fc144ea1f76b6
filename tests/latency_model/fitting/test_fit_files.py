"""What the files of a fit decide: the order of their rows, the unit, and what stands beside a regression."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from latency_model.conformal import FamilyConformal
from latency_model.fitting import fit_files, report_facts
from latency_model.model import LatencyModel
from latency_model.networks.prices import LeftOutNetwork
from latency_model.row_model import LeftOut

from .conftest import some_rows


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A file of 45 rows, another of the rest of them, and the first as a table."""
    folder = tmp_path_factory.mktemp("parts")
    rows = some_rows(95, 5).sort_values("batch", kind="stable")
    rows.head(45).to_csv(folder / "first.csv", index=False)
    rows.tail(len(rows) - 45).to_csv(folder / "second.csv", index=False)
    fit_files([folder / "first.csv"], regression=False).model.table.save(folder / "table.parquet")
    return folder


@pytest.fixture
def orders(monkeypatch):
    """What each fit says of the order of its rows; no regression is grown."""
    seen = []

    def with_regression(self, *, in_order, progress):
        seen.append(in_order)
        nothing = np.zeros(0)
        return self, LeftOut(nothing.astype(np.int64), nothing, nothing, ())

    monkeypatch.setattr(LatencyModel, "with_regression", with_regression)
    return seen


def test_only_the_rows_of_one_plain_file_stand_as_they_were_measured(parts, orders):
    # Those of a table are sorted, and of two files nobody knows which hour was between them.
    for names, in_order in (
        (["first.csv"], True),
        (["table.parquet"], False),
        (["first.csv", "second.csv"], False),
        (["first.csv", "table.parquet"], False),
    ):
        orders.clear()
        fit_files([parts / name for name in names])
        assert orders == [in_order], names


def test_predictions_are_in_the_unit_of_plain_rows(parts):
    rows = pd.read_csv(parts / "first.csv")
    rows["latency_us"] = rows.pop("latency_ms") * 1000
    rows.to_csv(parts / "us.csv", index=False)
    units = {
        name: fit_files([parts / name], regression=False).model.unit
        for name in ("first.csv", "us.csv", "table.parquet")
    }
    assert units == {"first.csv": "ms", "us.csv": "us", "table.parquet": "us"}
    both = fit_files([parts / "first.csv", parts / "table.parquet"], regression=False).model
    assert both.unit == "us"
    assert dataclasses.replace(both, unit="ms").defaults.unit == "ms"


def test_a_network_is_judged_by_an_interval_that_its_family_has_no_part_in(parts):
    rng = np.random.default_rng(1)
    networks = tuple(
        LeftOutNetwork(f"{family}{place}", family, measured, 100.0, 90.0, 3)
        for family, centre in (("a", 100.0), ("b", 104.0), ("c", 300.0))
        for place, measured in enumerate(centre * np.exp(rng.normal(0, 0.01, 4)))
    )
    fitted = fit_files([parts / "first.csv"], regression=False)
    facts = report_facts(dataclasses.replace(fitted, networks=networks), title="", confidence=0.8)
    far = [network for network in networks if network.family != "c"]
    ratios = np.log([network.measured_us / network.predicted_us for network in far])
    intervals = FamilyConformal.fit([network.family for network in far], ratios)
    for fact in facts.networks[8:]:
        assert (fact.low_us, fact.high_us) == pytest.approx(intervals.interval(100.0, confidence=0.8))
        assert not fact.low_us <= fact.measured_us <= fact.high_us
    # Of a and b the far family is one of the others, so that much is open.
    assert all(fact.low_us < fact.measured_us < fact.high_us for fact in facts.networks[:8])
    two = report_facts(dataclasses.replace(fitted, networks=networks[4:]), title="")
    assert all(np.isnan((fact.low_us, fact.high_us)).all() for fact in two.networks)


def test_few_rows_are_said_and_many_are_not(parts):
    few = fit_files([parts / "first.csv"], regression=False)
    assert (few.rows, few.model.rows) == (None, None)
    pd.read_csv(parts / "first.csv").head(39).to_csv(parts / "39.csv", index=False)
    fitted = fit_files([parts / "39.csv"])
    assert fitted.rows is None
    assert fitted.notes[-1] == "no regression: it needs 40 rows, and there are 39"
