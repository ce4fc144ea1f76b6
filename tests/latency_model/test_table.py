import dataclasses

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import environments, measurements, tables

from latency_model import ConvShape, Environment, LatencyTable, Measurement
from latency_model.errors import InputError, TableError

SHAPE = ConvShape(1, 8, 9, 9, 16)
ENVIRONMENT = Environment("chip", "cpu", "fake", "1", options=(("threads", "1"),))


def row(us, when="2026-01-01"):
    return Measurement(us, us, us, us, us, us, us, us, 5, "host", measured_at=when)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(tables())
def test_file_round_trip(tmp_path, table):
    path = tmp_path / "table.parquet"
    table.save(path)
    assert LatencyTable.load(path) == table


@given(environments)
def test_environment_round_trip_and_key(environment):
    again = Environment.from_json(environment.to_json())
    assert again == environment and again.key == environment.key
    other = dataclasses.replace(environment, device=environment.device + "2")
    assert other.key != environment.key
    assert environment.differences(other) == [f"device: {environment.device!r} against {other.device!r}"]


@given(measurements())
def test_a_measurement_holds_its_interval(measurement):
    with pytest.raises(InputError):
        dataclasses.replace(measurement, high_us=measurement.latency_us / 2)


@pytest.mark.parametrize("us", [0.0, -1.0, float("nan"), float("inf")])
def test_no_latency_is_zero_negative_or_unknown(us):
    with pytest.raises(InputError):
        row(us)


def test_the_later_row_wins_a_merge():
    old, new = (
        LatencyTable(ENVIRONMENT, {SHAPE: row(us, when)})
        for us, when in ((1, "2026-01-01"), (2, "2026-02-01"))
    )
    assert old.merge(new)[SHAPE].latency_us == new.merge(old)[SHAPE].latency_us == 2


def test_a_row_ends_a_failure():
    failed = LatencyTable(ENVIRONMENT, failures={SHAPE: "out of memory"})
    assert not failed.merge(LatencyTable(ENVIRONMENT, {SHAPE: row(1)})).failures


def test_environments_do_not_mix():
    other = dataclasses.replace(ENVIRONMENT, options=(("threads", "2"),))
    with pytest.raises(TableError, match="threads"):
        LatencyTable(ENVIRONMENT).merge(LatencyTable(other))


def test_missing_foreign_and_truncated_files(tmp_path):
    with pytest.raises(TableError, match="gharial profile"):
        LatencyTable.load(tmp_path / "no.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(TableError, match="not a latency table"):
        LatencyTable.load(tmp_path / "foreign.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(TableError, match="damaged"):
        LatencyTable.load(tmp_path / "text.parquet")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.data())
def test_any_truncation_is_one_sentence(tmp_path, data):
    path = tmp_path / "cut.parquet"
    LatencyTable(ENVIRONMENT, {SHAPE: row(1)}).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(TableError) as error:
        LatencyTable.load(path)
    assert "\n" not in str(error.value)


def test_a_mapping_that_cannot_be_changed():
    table = LatencyTable(ENVIRONMENT, {SHAPE: row(1)})
    assert len(table) == 1 and list(table) == [SHAPE] and SHAPE in table
    with pytest.raises(TypeError):
        table.rows[SHAPE] = row(2)
