"""Single steps of a job's life that a random walk rarely takes, each with what would go wrong without its rule."""

import pytest
from job_things import CONVS, NARROW, OFFERS, OP, table

from latency_model.service.store import jobs as queue

LEASE_S = 10.0


def submitted(database, configs, **more):
    request = queue.configs_request(configs, queue.Wants.from_json({}), **more)
    return queue.submit(database, request, now=0.0)[0]


def leased(database, now, who="narrow"):
    return queue.lease_job(database, OFFERS[who], worker=who, now=now, lease_s=LEASE_S)


def state_of(database, job):
    return queue.get_job(database, job.id)


def items_of(database, job):
    return {item["config"]: item["state"] for item in queue.job_items_of(database, job.id)}


def test_a_worker_of_another_environment_measures_everything(database):
    job = submitted(database, CONVS[:2])
    first = leased(database, 1.0)
    queue.post_rows(database, first.lease, table(NARROW, CONVS[:1]), now=2.0, lease_s=LEASE_S)
    assert items_of(database, job) == {CONVS[0]: "stored", CONVS[1]: "waiting"}
    second = leased(database, 100.0, "wide")
    assert second.job_id == job.id
    assert second.configs == CONVS[:2]
    # And back again, the row of the first environment is there: it is not asked for twice.
    assert leased(database, 200.0).configs == CONVS[1:2]


def test_whoever_makes_progress_has_all_attempts_again(database):
    job = submitted(database, CONVS[:3], max_attempts=2)
    leased(database, 0.0)
    second = leased(database, 20.0)
    assert second.attempt == 2
    queue.post_rows(database, second.lease, table(NARROW, CONVS[:1]), now=21.0, lease_s=LEASE_S)
    # Rows that were there already are no progress.
    queue.post_rows(database, second.lease, table(NARROW, CONVS[:1]), now=22.0, lease_s=LEASE_S)
    assert leased(database, 40.0).attempt == 2
    assert leased(database, 60.0) is None
    assert state_of(database, job).state == "failed"


def test_a_job_without_a_single_row_has_failed_and_says_why(database):
    job = submitted(database, CONVS[:2])
    held = leased(database, 1.0)
    failures = {CONVS[0]: "out of memory", CONVS[1]: "too large"}
    ended = queue.complete(database, held.lease, now=2.0, failures=failures)
    assert ended.state == "failed"
    assert f"none of its 2 configurations could be timed; {CONVS[0]}: out of memory" in ended.error
    assert state_of(database, job).done == 2


def test_a_job_of_operators_waits_for_who_times_them(database):
    job = submitted(database, [OP])
    assert leased(database, 1.0, "wide") is None
    assert state_of(database, job).state == "queued"
    assert leased(database, 2.0).configs == (OP,)


@pytest.mark.parametrize(("later", "taken"), [(LEASE_S - 0.001, False), (LEASE_S, True)])
def test_a_lease_is_over_when_its_time_is(database, later, taken):
    submitted(database, CONVS[:1])
    first = leased(database, 5.0)
    assert first.until == 5.0 + LEASE_S
    assert (leased(database, 5.0 + later) is not None) is taken


@pytest.mark.parametrize(("later", "ended"), [(LEASE_S - 0.001, 0), (LEASE_S, 1)])
def test_the_last_attempt_is_over_when_its_time_is(database, later, ended):
    submitted(database, CONVS[:1], max_attempts=1)
    leased(database, 5.0)
    assert queue.sweep(database, now=5.0 + later) == ended


def test_a_reason_does_not_undo_a_row(database):
    job = submitted(database, CONVS[:2])
    held = leased(database, 1.0)
    queue.post_rows(database, held.lease, table(NARROW, CONVS[:1]), now=2.0, lease_s=LEASE_S)
    failures = {CONVS[0]: "it failed the second time", CONVS[1]: "too large"}
    ended = queue.complete(database, held.lease, now=3.0, failures=failures)
    assert (ended.state, ended.done) == ("done", 2)
    assert items_of(database, job) == {CONVS[0]: "stored", CONVS[1]: "failed"}
