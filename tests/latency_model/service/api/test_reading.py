"""What the service answers, against the same asked of the table itself."""

import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from latency_model.columns import ConvColumns
from latency_model.environment import Environment
from latency_model.exports import export
from latency_model.grid import ChannelGrid, efficient_counts
from latency_model.lookup import LookupTable
from latency_model.lookup.arrow import columns_to_arrow, result_from_arrow
from latency_model.service.store.rows import put
from latency_model.table import LatencyTable


def ask(client, table, text):
    return client.get("/v1/lookup", params={"environment": table.environment.key, "config": text})


def test_every_row_is_found_to_the_last_bit(client, table):
    for config, row in [*table.rows.items(), *table.ops.items()]:
        found = ask(client, table, config.text)
        assert found.status_code == 200
        assert found.json() == {
            "config": config.text,
            "latency_us": row.latency_us,
            "low_us": row.low_us,
            "high_us": row.high_us,
            "found": True,
        }


def test_a_text_in_another_form_is_the_same_convolution(client, table):
    shape = next(shape for shape in table if shape.kernel == (3, 3))
    text = shape.text.replace(" k3 ", " k3x3 ").replace(" g1 ", " d1 g1 ")
    assert text != shape.text
    assert ask(client, table, text).json()["config"] == shape.text


def test_what_was_not_measured_is_a_problem_that_says_so(client, table, synthetic):
    text = synthetic.shape.with_channels(777, 3).text
    found = ask(client, table, text)
    assert found.status_code == 404
    error = found.json()["error"]
    assert (error["type"], error["config"]) == ("not-measured", text)
    assert error["request_id"] == found.headers["x-request-id"]
    assert "POST /v1/jobs" in error["message"]


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("", 422, "invalid"),
        ("environment=KEY", 422, "invalid"),
        ("environment=0123&config=x", 404, "unknown-environment"),
        ("environment=KEY&config=x", 400, "input-error"),
        ("environment=KEY&config=" + "9" * 5000, 400, "input-error"),
        (
            "environment=KEY&config=1x1x8x8+->8+k" + "9" * 1500 + "+s1+p1+g1+conv+fp32+nchw",
            400,
            "input-error",
        ),
        ("environment=KEY&config=%00%ff", 400, "input-error"),
        ("environment=KEY&config=1x16x8x8+->16+k3xx+s1+p1+g1+conv+fp32+nchw", 400, "input-error"),
        ("environment=KEY&config=op+Add+1x0+fp32+nchw", 400, "input-error"),
    ],
)
def test_other_questions_are_refused(client, table, query, status, kind):
    found = client.get("/v1/lookup?" + query.replace("KEY", table.environment.key))
    assert (found.status_code, found.json()["error"]["type"]) == (status, kind)


def test_numbers_of_thousands_of_digits_are_no_failure(client, table):
    found = ask(client, table, f"1x{'9' * 1900}x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw")
    assert found.status_code in (400, 404)


def test_a_list_is_answered_in_order(client, table, synthetic):
    shapes = [*table][:40]
    texts = [s.text for s in shapes] + [synthetic.shape.with_channels(777, 3).text]
    found = client.post("/v1/lookup", json={"environment": table.environment.key, "configs": texts}).json()
    assert [row["config"] for row in found] == texts
    assert [row["latency_us"] for row in found] == [*(table[s].latency_us for s in shapes), None]
    assert [row["found"] for row in found] == [True] * 40 + [False]


def test_bulk_answers_are_those_of_the_lookup_table(client, table, synthetic):
    shapes = [*table, synthetic.shape.with_channels(777, 3)] * 20
    columns = ConvColumns.of(shapes)
    path = f"/v1/lookup/arrow?environment={table.environment.key}"
    found = result_from_arrow(client.post(path, content=columns_to_arrow(columns)).content)
    expected = LookupTable.build(table).lookup(columns)
    for name in ("latency_us", "low_us", "high_us", "found"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
    assert client.post(path, content=b"nonsense").status_code == 400


def test_environments_say_what_they_hold(client, table):
    (one,) = client.get("/v1/environments").json()
    key = table.environment.key
    assert (one["key"], one["convs"], one["ops"], one["networks"], one["failures"]) == (
        key,
        len(table),
        1,
        1,
        1,
    )
    assert Environment.from_json(one["environment"]) == table.environment
    detail = client.get(f"/v1/environments/{key}").json()
    assert (detail["precisions"], detail["layouts"], detail["batches"]) == (["fp32"], ["nchw"], [1])
    assert client.get("/v1/environments/nowhere").status_code == 404


@pytest.mark.parametrize("axis", ["in", "out"])
def test_staircases_are_those_of_the_grid(client, table, axis):
    for shape in [s for s in table if s.in_channels == s.out_channels == 64][:2]:
        found = client.get(
            "/v1/staircase", params={"environment": table.environment.key, "config": shape.text, "axis": axis}
        ).json()
        grid = ChannelGrid.from_table(table.rows, shape)
        line = grid.dense("envelope")[64] if axis == "out" else grid.dense("envelope")[:, 64]
        wide = {s for s in table if s.site == shape.site}
        rows = sorted(
            (s for s in wide if (s.in_channels if axis == "out" else s.out_channels) == 64),
            key=lambda s: (s.out_channels, s.in_channels),
        )
        assert found["counts"] == [s.out_channels if axis == "out" else s.in_channels for s in rows]
        assert found["latency_us"] == [table[s].latency_us for s in rows]
        assert found["envelope_us"] == [line[count] for count in found["counts"]]
        assert found["efficient"] == list(efficient_counts(line))
        assert 64 in found["others"]


def test_a_site_that_was_not_measured_has_no_staircase(client, table):
    text = "1x16x9x9 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw"
    params = {"environment": table.environment.key, "config": text}
    assert client.get("/v1/staircase", params=params).status_code == 404
    params["config"] = f"{10**30}x16x9x9 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw"
    assert client.get("/v1/staircase", params=params).status_code in (400, 404)
    params["config"] = "op Add 1x2 fp32 nchw"
    assert client.get("/v1/staircase", params=params).status_code == 400


def test_exports_are_those_of_the_command(client, table, tmp_path):
    key = table.environment.key
    for name in ("csv", "json", "parquet"):
        export(table, tmp_path / f"rows.{name}")
    theirs = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    found = client.get(f"/v1/environments/{key}/rows?format=csv")
    assert found.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(found.text)))
    assert len(rows) == len(theirs)
    assert {row["config"]: row for row in rows} == {row["config"]: row for row in theirs}
    ours = client.get(f"/v1/environments/{key}/rows?format=json").json()
    theirs = json.loads((tmp_path / "rows.json").read_text())
    for document in (ours, theirs):
        document["rows"].sort(key=lambda row: row["config"])
    assert ours == theirs
    ours = pq.read_table(io.BytesIO(client.get(f"/v1/environments/{key}/rows?format=parquet").content))
    theirs = pq.read_table(tmp_path / "rows.parquet")
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    assert ours.sort_by("config").equals(theirs.sort_by("config"))


def test_a_table_comes_back_as_it_was_imported(client, table, tmp_path):
    path = tmp_path / "back.parquet"
    path.write_bytes(client.get(f"/v1/environments/{table.environment.key}/table").content)
    assert LatencyTable.load(path) == table


def test_rows_of_another_process_show_up(client, table, synthetic, helpers):
    shape = synthetic.shape.with_channels(777, 3)
    assert ask(client, table, shape.text).status_code == 404
    # Another connection to the file is what another process has.
    put(
        client.database,
        LatencyTable(table.environment, {shape: synthetic.measurement(5.5)}),
        source="elsewhere",
    )
    helpers.until(lambda: ask(client, table, shape.text).status_code == 200)
    service = client.app.state.service
    helpers.until(lambda: service.catalog.of(table.environment.key).fresh)
    assert ask(client, table, shape.text).json()["latency_us"] == 5.5
    # The new lookups take the place of the old ones, in memory and on the disk.
    served = service.catalog.of(table.environment.key)
    assert served.lookups.convs[shape].latency_us == 5.5
    helpers.until(lambda: len(list(service.settings.cache_dir.glob("*.lookup"))) == 1)


def test_without_lookups_the_database_answers(new_client, table, synthetic, monkeypatch):
    monkeypatch.setattr("latency_model.service.catalog.build_lookups", lambda *_: np.nonexistent)
    client = new_client(wait=False)
    shape = next(iter(table))
    assert ask(client, table, shape.text).json()["latency_us"] == table[shape].latency_us
    assert ask(client, table, synthetic.shape.with_channels(777, 3).text).status_code == 404
    (operator,) = table.ops
    assert ask(client, table, operator.text).json()["latency_us"] == 3.25
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["environments"][table.environment.key].startswith(
        "building: answered from the database"
    )
    path = f"/v1/lookup/arrow?environment={table.environment.key}"
    refused = client.post(path, content=columns_to_arrow(ConvColumns.of([shape])))
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


def test_metrics_count(client, table):
    for shape in [*table][:3]:
        ask(client, table, shape.text)
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'gharial_requests_total{method="GET",route="/v1/lookup",status="200"} 3.0' in text
    assert 'gharial_requests_total{method="any",route="other",status="404"} 1.0' in text
    assert 'gharial_lookups_total{found="true"} 3.0' in text
    assert f'gharial_rows{{environment="{table.environment.key}",kind="convs"}} {float(len(table))}' in text
    assert client.get("/healthz").json() == {"status": "ok"}
