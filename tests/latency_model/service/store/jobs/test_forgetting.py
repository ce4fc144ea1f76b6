"""Models of jobs that ended go; those that a job still needs stay."""

import pytest
from job_things import OFFERS
from sqlalchemy import select

from latency_model.errors import InputError
from latency_model.harvest import harvest_onnx
from latency_model.service.store import jobs as queue
from latency_model.service.store.schema import blobs
from profiler.testing import small_network

MODEL = small_network(channels=8, size=8)
COST = harvest_onnx(MODEL)
WEEK = 7 * 86400.0


def submitted(database, data=MODEL, now=0.0):
    request = queue.model_request(data, COST, queue.Wants.from_json({}))
    return queue.submit(database, request, now=now)[0]


def kept(database):
    with database.read() as connection:
        return sorted(connection.scalars(select(blobs.c.bytes)))


def test_a_model_goes_when_the_last_job_that_needs_it_ended_long_ago(database):
    first, second = submitted(database), submitted(database)
    other = submitted(database, MODEL + b"other")
    queue.cancel(database, first.id, now=10.0)
    queue.cancel(database, other.id, now=20.0)
    assert queue.drop_models(database, now=10.0 + WEEK, keep_s=WEEK) == 0  # the second job waits for it
    assert kept(database) == sorted([MODEL, MODEL + b"other"])
    assert queue.drop_models(database, now=20.0 + WEEK, keep_s=WEEK) == 1
    assert kept(database) == [MODEL]
    lease = queue.lease_job(database, OFFERS["narrow"], worker="w", now=WEEK + 30.0, lease_s=10.0)
    assert lease.job_id == second.id
    assert queue.model_of(database, lease.lease) == MODEL
    queue.cancel(database, second.id, now=WEEK + 40.0)
    with_lease = queue.model_of(database, lease.lease)
    assert with_lease == MODEL
    assert queue.drop_models(database, now=3 * WEEK, keep_s=WEEK) == 1
    assert kept(database) == []
    with pytest.raises(InputError, match="no model"):
        queue.model_of(database, lease.lease)
    assert queue.get_job(database, second.id).state == "cancelled"


def test_a_model_that_went_can_be_submitted_again(database):
    job = submitted(database)
    queue.cancel(database, job.id, now=1.0)
    assert queue.drop_models(database, now=2.0, keep_s=0.0) == 1
    submitted(database, now=3.0)
    assert kept(database) == [MODEL]
