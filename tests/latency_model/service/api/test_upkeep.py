"""What the server does by itself: end jobs that nobody holds any more, count the queue."""

import time

import httpx
from job_things import CONVS, OFFERS
from sqlalchemy import select
from starlette.testclient import TestClient

import latency_model.service.api.app as application
from latency_model.harvest import harvest_onnx
from latency_model.service.store.jobs import cancel, configs_request, lease_job, model_request, submit
from latency_model.service.store.jobs.wants import Wants
from latency_model.service.store.schema import blobs
from profiler.testing import small_network


def state_of(client: httpx.Client, job: str) -> str:
    return client.get(f"/v1/jobs/{job}").json()["state"]


def test_a_job_whose_last_worker_is_gone_ends_by_itself(new_service, monkeypatch):
    monkeypatch.setattr(application, "_UPKEEP_S", 0.05)
    settings, database = new_service()
    long_ago = time.time() - 1000
    request = configs_request(CONVS, Wants(), max_attempts=1)
    job, _ = submit(database, request, now=long_ago)
    offer = OFFERS["narrow"]
    assert lease_job(database, offer, worker="w", now=long_ago, lease_s=1.0) is not None
    with TestClient(application.create_app(settings, database)) as client:
        deadline = time.monotonic() + 20
        while state_of(client, job.id) == "leased" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state_of(client, job.id) == "failed"
        text = client.get("/metrics").text
    assert 'gharial_jobs{state="failed"} 1.0' in text
    assert 'gharial_jobs{state="queued"} 0.0' in text


def test_the_model_of_a_job_that_ended_goes_by_itself(new_service, monkeypatch, helpers):
    monkeypatch.setattr(application, "_UPKEEP_S", 0.05)
    settings, database = new_service(keep_models_s=3600)

    def ended(now, channels):
        model = small_network(channels=channels, size=8)
        job, _ = submit(database, model_request(model, harvest_onnx(model), Wants()), now=now)
        cancel(database, job.id, now=now)
        return model

    ended(time.time() - 4000, 8)
    young = ended(time.time(), 4)

    def kept():
        with database.read() as connection:
            return list(connection.scalars(select(blobs.c.bytes)))

    assert len(kept()) == 2
    with TestClient(application.create_app(settings, database)):
        helpers.until(lambda: len(kept()) < 2)
    assert kept() == [young]
