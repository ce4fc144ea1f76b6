"""Jobs and leases over HTTP: scopes, codes, and that nothing a client sends breaks the server."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_things import CONVS, NARROW, OFFERS, table
from live_service import live_service

from latency_model.service.store.tokens import create_token
from profiler.testing import small_network

SCOPES = ("read", "rows:write", "jobs:write", "work")
PARQUET = {"content-type": "application/vnd.apache.parquet"}
ONNX = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with live_service(tmp_path_factory.mktemp("service"), token_cache_s=0.0) as live:
        live.clients = {
            scope: live.client_of(create_token(live.database, scope, [scope])[1]) for scope in SCOPES
        }
        live.clients[None] = live.client_of(None)
        yield live
        for client in live.clients.values():
            client.close()


@pytest.fixture(autouse=True)
def nothing_waits(service):
    yield
    for job in service.client.get("/v1/jobs", params={"limit": 1000}).json():
        if job["state"] in ("queued", "leased"):
            service.client.post(f"/v1/jobs/{job['id']}/cancel")


def lease(service, who="narrow"):
    body = {"worker": "w", "offer": OFFERS[who].to_json()}
    return service.clients["work"].post("/v1/leases", json=body)


def parquet(tmp_path, *given, **more):
    path = tmp_path / "rows.parquet"
    table(*given, **more).save(path)
    return path.read_bytes()


def test_from_the_request_to_the_row(service, tmp_path):
    wants = {"runtime": "onnxruntime"}
    answer = service.clients["jobs:write"].post("/v1/jobs", json={"configs": CONVS, "wants": wants})
    assert answer.status_code == 201
    job = answer.json()
    assert (job["state"], job["total"], job["done"]) == ("queued", len(CONVS), 0)
    assert lease(service, "wide").status_code == 204
    held = lease(service).json()
    assert held["configs"] == list(CONVS)
    assert held["lease_s"] == service.settings.lease_s
    work = service.clients["work"]
    assert work.post(f"/v1/leases/{held['lease']}/heartbeat").json()["state"] == "leased"
    rows = parquet(tmp_path, NARROW, CONVS[:3], {CONVS[3]: "too large"})
    for new in (3, 0):
        posted = work.post(f"/v1/leases/{held['lease']}/rows", content=rows, headers=PARQUET).json()
        assert posted["done"] == len(CONVS)
        assert posted["rows"]["new"] == new + bool(new)
    for _ in range(2):
        done = work.post(f"/v1/leases/{held['lease']}/complete")
        assert (done.status_code, done.json()["state"]) == (200, "done")
    seen = service.clients[None].get(f"/v1/jobs/{job['id']}").json()
    assert seen["failures"] == {CONVS[3]: "too large"}
    items = service.clients[None].get(f"/v1/jobs/{job['id']}/items").json()
    assert [item["state"] for item in items] == ["stored"] * 3 + ["failed"]
    assert held["lease"] not in json.dumps(service.client.get("/v1/jobs").json())


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/jobs", "jobs:write"),
        ("POST", "/v1/jobs/ab/cancel", "jobs:write"),
        ("POST", "/v1/leases", "work"),
        ("POST", "/v1/leases/ab/heartbeat", "work"),
        ("POST", "/v1/leases/ab/rows", "work"),
        ("POST", "/v1/leases/late/rows?worker=w", "work"),
        ("POST", "/v1/leases/ab/complete", "work"),
        ("POST", "/v1/leases/ab/fail", "work"),
        ("POST", "/v1/leases/ab/release", "work"),
        ("GET", "/v1/leases/ab/model", "work"),
    ],
)
def test_each_request_needs_its_scope(service, method, path, scope):
    for given_scope, client in service.clients.items():
        status = client.request(method, path, json={}).status_code
        if given_scope is None:
            assert status == 401
        elif given_scope == scope:
            assert status not in (401, 403)
            assert status < 500
        else:
            assert status == 403


def test_the_same_key_makes_one_job(service):
    client, headers = service.clients["jobs:write"], {"idempotency-key": "once"}
    first = client.post("/v1/jobs", json={"configs": CONVS}, headers=headers)
    again = client.post("/v1/jobs", json={"configs": [*CONVS, CONVS[0]]}, headers=headers)
    other = client.post("/v1/jobs", json={"configs": CONVS[:1]}, headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json()["id"] == again.json()["id"]
    assert other.json()["error"]["type"] == "job-conflict-error"
    # Somebody else's key of the same name is another one.
    mine = service.client.post("/v1/jobs", json={"configs": CONVS[:1]}, headers=headers)
    assert mine.status_code in (200, 201)
    assert mine.json()["id"] != first.json()["id"]


def test_a_stale_lease_is_refused_and_its_rows_are_welcome_late(service, tmp_path):
    job = service.submit(["1x4x4x4 ->8 k1 s1 p0 g1 conv fp32 nchw"])
    stale = lease(service).json()["lease"]
    service.client.post(f"/v1/leases/{stale}/release")
    current = lease(service).json()["lease"]
    work = service.clients["work"]
    rows = parquet(tmp_path, NARROW, ["1x4x4x4 ->8 k1 s1 p0 g1 conv fp32 nchw"])
    for answer in (
        work.post(f"/v1/leases/{stale}/rows", content=rows, headers=PARQUET),
        work.post(f"/v1/leases/{stale}/heartbeat"),
        work.post(f"/v1/leases/{stale}/complete"),
        work.post(f"/v1/leases/{stale}/fail", json={"reason": "x"}),
        work.post(f"/v1/leases/{stale}/release"),
        work.get(f"/v1/leases/{stale}/model"),
    ):
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "lease-lost-error")
    assert service.job(job["id"])["state"] == "leased"
    assert service.job(job["id"])["done"] == 0
    late = work.post("/v1/leases/late/rows", params={"worker": "w"}, content=rows, headers=PARQUET)
    assert late.json()["new"] == 1
    assert service.job(job["id"])["done"] == 0
    assert work.post(f"/v1/leases/{current}/release").status_code == 200
    assert lease(service).status_code == 204
    assert service.job(job["id"])["state"] == "done"


def test_a_model_is_asked_for_by_its_bytes(service):
    data = small_network(channels=48, size=12)
    ask = {"name": "net", "wants": '{"runtime": "onnxruntime"}', "priority": 3}
    answer = service.client.post("/v1/jobs", params=ask, content=data, headers=ONNX)
    assert answer.status_code == 201
    job = answer.json()
    assert (job["kind"], job["priority"], job["request"]["batch"]) == ("model", 3, 1)
    held = lease(service).json()
    assert held["network"]
    assert len(service.client.get(f"/v1/leases/{held['lease']}/model").content) < len(data) / 5
    assert service.client.post("/v1/jobs", content=b"no onnx", headers=ONNX).status_code == 400
    assert (
        service.client.post("/v1/jobs", content=data, headers={"content-type": "text/plain"}).status_code
        == 415
    )
    assert (
        service.client.post("/v1/jobs", params={"wants": "{"}, content=data, headers=ONNX).status_code == 400
    )
    assert service.client.post("/v1/jobs", params={"batch": 4}, content=data, headers=ONNX).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b'{"configs": []}', 422),
        (b'{"configs": ["x"]}', 400),
        (b'{"configs": [1]}', 422),
        (b'{"configs": ["' + b"9" * 5000 + b'x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"]}', 400),
        (b'{"configs": ["1x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"], "wants": {"colour": 1}}', 400),
        (b'{"configs": ["1x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"], "color": 1}', 422),
        (b"[" * 5000, 422),
        (b'{"configs": ["\\ud800"]}', (400, 422)),
    ],
)
def test_bodies_that_make_no_sense_are_the_clients_fault(service, body, status):
    answer = service.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,))
    assert answer.json()["error"]["message"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_offer_and_no_wants_break_the_server(service, data):
    text = st.text(max_size=20)
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | text, lambda s: st.dictionaries(text, s, max_size=3)
    )
    offer = data.draw(
        st.fixed_dictionaries(
            {
                "environment": st.dictionaries(st.sampled_from(list(NARROW.to_json())), anything),
                "precisions": st.lists(st.sampled_from(["fp32", "fp16", "x"])),
            }
        )
    )
    asked = service.client.post("/v1/leases", json={"worker": data.draw(text.filter(bool)), "offer": offer})
    assert asked.status_code < 500, asked.text
    wants = data.draw(
        st.dictionaries(st.sampled_from(["device", "kind", "options", "ops", "runtime"]), anything)
    )
    asked = service.client.post("/v1/jobs", json={"configs": [CONVS[0]], "wants": wants})
    assert asked.status_code < 500, asked.text


def test_rows_that_are_no_table_are_refused(service, tmp_path):
    service.submit(["1x4x4x4 ->16 k1 s1 p0 g1 conv fp32 nchw"])
    held = lease(service).json()["lease"]
    good = parquet(tmp_path, NARROW, CONVS)
    for body in (b"", b"PAR1", good[:-20], good[:50] + b"\0" * 50 + good[100:]):
        answer = service.client.post(f"/v1/leases/{held}/rows", content=body, headers=PARQUET)
        assert answer.status_code == 400, answer.text
    assert not list(service.settings.cache_dir.glob(".rows-*"))
