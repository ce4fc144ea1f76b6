"""Nobody reads or writes without the scope for it."""

import time

import pytest
from starlette.routing import Route

from latency_model.service.api.app import create_app
from latency_model.service.store.rows import environments
from latency_model.service.store.tokens import create_token, revoke_token

# What anybody may know of a private service: that it lives, and which paths it has.
OPEN = {"/healthz", "/readyz", "/openapi.json"}


def operations(client):
    """Return every method and path of the OpenAPI document."""
    document = client.get("/openapi.json").json()
    return [(method, path) for path, item in document["paths"].items() for method in item]


def test_a_private_service_gives_nothing_without_a_token(new_client, table):
    client = new_client(public_reads=False)
    key = table.environment.key
    found = operations(client)
    assert len(found) >= 14
    for method, path in found:
        if path in OPEN:
            continue
        for headers in ({}, {"Authorization": "Bearer ghl_wrong"}, {"Authorization": "Basic eDp5"}):
            answer = client.request(
                method, path.replace("{key}", key), headers=headers, params={"environment": key}
            )
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert key not in answer.text and table.environment.device not in answer.text
    assert key not in client.get("/readyz").text
    assert key not in client.get("/openapi.json").text


def test_every_route_is_in_the_document_or_known_to_be_open(new_client):
    client = new_client()
    documented = {path for _, path in operations(client)}
    routes = {route.path for route in client.app.routes if isinstance(route, Route)}
    assert routes - documented <= {"/openapi.json"}


def test_a_token_for_one_thing_is_not_for_another(new_client, table):
    client = new_client(public_reads=False, token="work")
    key = table.environment.key
    for method, path in operations(client):
        if path in OPEN or path.startswith(("/v1/leases",)):
            continue
        answer = client.request(method, path.replace("{key}", key), params={"environment": key})
        assert answer.status_code in (403, 404), (method, path, answer.text)
        if answer.status_code == 403:
            assert answer.json()["error"]["type"] == "forbidden"


def test_a_reader_reads_and_does_not_write(new_client, table):
    client = new_client(public_reads=False, token="read")
    key = table.environment.key
    assert client.get("/v1/environments").json()[0]["key"] == key
    assert client.get("/metrics").status_code == 200
    assert key in client.get("/readyz").text
    file = client.get(f"/v1/environments/{key}/table").content
    assert client.post("/v1/tables", content=file).status_code == 403


def test_writing_needs_a_token_even_where_reading_does_not(new_client, table, synthetic):
    client = new_client()
    file = client.get(f"/v1/environments/{table.environment.key}/table").content
    assert client.post("/v1/tables", content=file).status_code == 401
    _, secret = create_token(client.database, "importer", ["rows:write"])
    headers = {"Authorization": f"Bearer {secret}"}
    report = client.post("/v1/tables", content=file, headers=headers)
    assert report.status_code == 200
    assert report.json()["identical"] == len(table) + len(table.ops) + 2
    assert report.json()["new"] == 0


def test_a_revoked_token_ends_soon(new_client):
    client = new_client(public_reads=False, token_cache_s=0.2)
    info, secret = create_token(client.database, "reader", ["read"])
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/v1/environments", headers=headers).status_code == 200
    revoke_token(client.database, info.id)
    time.sleep(0.25)
    assert client.get("/v1/environments", headers=headers).status_code == 401


def test_a_bad_token_is_told_even_where_none_is_needed(client):
    answer = client.get("/v1/environments", headers={"Authorization": "Bearer ghl_old"})
    assert answer.status_code == 401
    assert "revoked" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"PAR1", b"PAR1" + bytes(500) + b"PAR1", b"\x89PNG" * 100, b"kind,config\n"]
)
def test_what_is_no_table_is_refused(new_client, body):
    client = new_client(token="rows:write")
    answer = client.post("/v1/tables", content=body)
    assert answer.status_code == 400, answer.text
    assert str(client.app.state.service.settings.cache_dir) not in answer.text


def test_a_damaged_table_is_refused_and_a_new_one_is_there_at_once(new_client, table, synthetic, tmp_path):
    from latency_model.table import LatencyTable

    client = new_client(token="admin")
    other = LatencyTable(synthetic.other_environment, dict(table.rows))
    other.save(tmp_path / "other.parquet")
    data = (tmp_path / "other.parquet").read_bytes()
    bad = bytearray(data)
    bad[len(bad) // 3 : len(bad) // 2] = bytes(len(bad) // 2 - len(bad) // 3)
    assert client.post("/v1/tables", content=bytes(bad)).status_code == 400
    assert client.post("/v1/tables", content=data).status_code == 200
    shape = next(iter(table))
    params = {"environment": other.environment.key, "config": shape.text}
    assert client.get("/v1/lookup", params=params).json()["latency_us"] == table[shape].latency_us
    assert len(environments(client.database)) == 2


def test_tables_beyond_the_limit_of_rows_are_refused(new_client, table):
    client = new_client(token="admin", max_table_rows=10)
    file = client.get(f"/v1/environments/{table.environment.key}/table").content
    answer = client.post("/v1/tables", content=file)
    assert (answer.status_code, "up to 10" in answer.text) == (400, True)


def test_errors_tell_nothing_of_the_inside(new_client, monkeypatch, table):
    client = new_client()

    def fail(*_):
        raise RuntimeError("a secret path /root/x")

    monkeypatch.setattr("latency_model.service.api.environments.summary", fail)
    answer = client.get("/v1/environments", headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {
            "type": "internal",
            "message": "the server failed; its log has more under this id",
            "request_id": "mine-1",
        }
    }


def test_an_id_that_would_forge_a_line_of_the_log_is_not_taken(client):
    for bad in ("a b", "x" * 65, 'x"'):
        assert client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad
    assert client.get("/healthz", headers={"X-Request-ID": "ok_1.2-3"}).headers["x-request-id"] == "ok_1.2-3"


def test_the_page_of_interactive_documents_is_off(new_service):
    settings, database = new_service()
    app = create_app(settings, database)
    assert {"/docs", "/redoc"}.isdisjoint(getattr(route, "path", "") for route in app.routes)
