"""Jobs against an oracle: plain dictionaries that do the same, for any sequence of requests and any clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from job_things import CONVS, HALF, OFFERS, OP, table
from sqlalchemy import delete, select

from latency_model.ops import parse_config
from latency_model.service.store import jobs as queue
from latency_model.service.store import schema

LEASE_S = 10.0
CONFIGS = (*CONVS, HALF, OP)
WANTS = ({}, {"device": "h100"}, {"kind": "cpu"}, {"runtime": "tensorrt", "options": {"builds": "3"}})


def needs(wants, texts):
    """Which of the two workers may take such a job, written out by hand."""
    able = {"wide", "narrow"}
    if HALF in texts:
        able -= {"narrow"}
    if OP in texts:
        able -= {"wide"}
    if "device" in wants or "runtime" in wants:
        able -= {"narrow"}
    if "kind" in wants:
        able -= {"wide"}
    return able


def likes(wants):
    return needs(wants, ())


class Machine(RuleBasedStateMachine):
    database = None

    def __init__(self):
        super().__init__()
        with self.database.write() as connection:
            for each in ("job_items", "jobs", "blobs", "rows", "runs", "environments"):
                connection.execute(delete(getattr(schema, each)))
        self.now = 1000.0
        self.jobs = []
        self.keys = {}
        self.rows = set()  # (worker, text)
        self.leases = []  # every lease ever given, with its job and worker
        self.touched = []  # workers' environments, the latest changed last

    # What the requests do to the oracle

    def store(self, worker, texts):
        self.rows |= {(worker, text) for text in texts}

    def over(self, job):
        return not any(state == "waiting" for state in job["items"].values())

    def settle(self, job):
        job["state"] = "done" if "stored" in job["items"].values() else "failed"

    def expire(self):
        for job in self.jobs:
            if job["state"] == "leased" and job["until"] <= self.now and job["attempts"] >= job["most"]:
                job["state"] = "failed"

    def waits(self, job):
        if job["state"] == "queued":
            return job["rest"] <= self.now
        return job["state"] == "leased" and job["until"] <= self.now

    def holder(self, lease):
        """The job whose last lease this is."""
        return next((job for job in self.jobs if job["lease"] == lease), None)

    # Requests

    @rule(
        texts=st.lists(st.sampled_from(CONFIGS), min_size=1, max_size=5),
        wants=st.sampled_from(WANTS),
        priority=st.integers(-1, 1),
        most=st.integers(1, 3),
        key=st.none() | st.sampled_from("ab"),
    )
    def submit(self, texts, wants, priority, most, key):
        request = queue.configs_request(
            texts, queue.Wants.from_json(wants), priority=priority, max_attempts=most
        )
        what = (list(dict.fromkeys(texts)), wants, priority, most)
        if key in self.keys:
            number, before = self.keys[key]
            if before != what:
                with pytest.raises(queue.JobConflictError):
                    queue.submit(self.database, request, now=self.now, idempotency_key=key)
                return
            job, new = queue.submit(self.database, request, now=self.now, idempotency_key=key)
            assert not new
            assert job.id == self.jobs[number]["id"]
            return
        job, new = queue.submit(self.database, request, now=self.now, idempotency_key=key)
        assert new
        complete = [worker for worker in likes(wants) if all((worker, text) in self.rows for text in what[0])]
        state = "stored" if complete else "waiting"
        self.jobs.append(
            {
                "id": job.id,
                "state": "done" if complete else "queued",
                "items": dict.fromkeys(what[0], state),
                "wants": wants,
                "priority": priority,
                "most": most,
                "attempts": 0,
                "rest": 0.0,
                "lease": None,
                "until": None,
                "worker": None,
            }
        )
        if key:
            self.keys[key] = (len(self.jobs) - 1, what)

    @rule(worker=st.sampled_from(sorted(OFFERS)))
    def lease(self, worker):
        lease = queue.lease_job(self.database, OFFERS[worker], worker=worker, now=self.now, lease_s=LEASE_S)
        self.expire()
        order = sorted(range(len(self.jobs)), key=lambda n: (-self.jobs[n]["priority"], n))
        for job in (self.jobs[n] for n in order):
            if not self.waits(job) or worker not in needs(job["wants"], job["items"]):
                continue
            if job["worker"] != worker:
                job["items"] = dict.fromkeys(job["items"], "waiting")
            job["worker"] = worker
            for text, state in job["items"].items():
                if state == "waiting" and (worker, text) in self.rows:
                    job["items"][text] = "stored"
            if self.over(job):
                self.settle(job)
                continue
            assert lease is not None
            assert lease.job_id == job["id"]
            assert list(lease.configs) == [t for t, state in job["items"].items() if state == "waiting"]
            job.update(state="leased", lease=lease.lease, until=self.now + LEASE_S)
            job["attempts"] += 1
            assert lease.attempt == job["attempts"]
            self.leases.append((lease.lease, worker))
            return
        assert lease is None

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def heartbeat(self, data):
        lease, _ = data.draw(st.sampled_from(self.leases))
        job = self.holder(lease)
        if job is None or job["state"] == "queued":
            with pytest.raises(queue.LeaseLostError):
                queue.heartbeat(self.database, lease, now=self.now, lease_s=LEASE_S)
            return
        state, _ = queue.heartbeat(self.database, lease, now=self.now, lease_s=LEASE_S)
        assert state == job["state"]
        if state == "leased":
            job["until"] = self.now + LEASE_S

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), broken=st.booleans())
    def post(self, data, broken):
        lease, worker = data.draw(st.sampled_from(self.leases))
        texts = data.draw(st.lists(st.sampled_from(CONFIGS), unique=True, max_size=4))
        failing = texts.pop() if broken and texts else None
        rows = table(OFFERS[worker].environment, texts, {failing: "too large"} if failing else {})
        job = self.holder(lease)
        if job is None or job["state"] == "queued":
            with pytest.raises(queue.LeaseLostError):
                queue.post_rows(self.database, lease, rows, now=self.now, lease_s=LEASE_S)
            return
        posted = queue.post_rows(self.database, lease, rows, now=self.now, lease_s=LEASE_S)
        assert posted.state == job["state"]
        self.store(worker, texts)
        if job["state"] != "leased":
            return
        job["until"] = max(job["until"], self.now + LEASE_S)
        if any(job["items"].get(text, "stored") != "stored" for text in texts):
            job["attempts"] = 1
        for text in texts:
            if text in job["items"]:
                job["items"][text] = "stored"
        if failing and job["items"].get(failing) == "waiting":
            job["items"][failing] = "failed"

    @rule(worker=st.sampled_from(sorted(OFFERS)), texts=st.lists(st.sampled_from(CONFIGS), max_size=3))
    def post_late(self, worker, texts):
        queue.post_late(self.database, table(OFFERS[worker].environment, texts), worker=worker)
        self.store(worker, texts)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), reasons=st.booleans())
    def complete(self, data, reasons):
        lease, _ = data.draw(st.sampled_from(self.leases))
        job = self.holder(lease)
        failures = dict.fromkeys(CONFIGS[:2], "no") if reasons else {}
        if job is None or job["state"] == "queued":
            with pytest.raises(queue.LeaseLostError):
                queue.complete(self.database, lease, now=self.now, failures=failures)
            return
        if job["state"] == "leased":
            left = {t for t, state in job["items"].items() if state == "waiting"} - set(failures)
            if left:
                with pytest.raises(queue.JobConflictError):
                    queue.complete(self.database, lease, now=self.now, failures=failures)
                return
            for text in failures:
                if job["items"].get(text) == "waiting":
                    job["items"][text] = "failed"
            self.settle(job)
        assert queue.complete(self.database, lease, now=self.now, failures=failures).state == job["state"]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def fail(self, data):
        lease, _ = data.draw(st.sampled_from(self.leases))
        job = self.holder(lease)
        if job is None:
            with pytest.raises(queue.LeaseLostError):
                queue.fail(self.database, lease, "broke", now=self.now)
            return
        found = queue.fail(self.database, lease, "broke", now=self.now, rng=random.Random(0))
        if job["state"] == "leased":
            job["state"] = "failed" if job["attempts"] >= job["most"] else "queued"
            assert "broke" in found.error
            if job["state"] == "queued":
                rest = 2.0 ** job["attempts"]
                assert self.now + 0.5 * rest <= found.not_before <= self.now + 1.5 * rest
                job["rest"] = found.not_before
        assert found.state == job["state"]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data):
        lease, _ = data.draw(st.sampled_from(self.leases))
        job = self.holder(lease)
        if job is None:
            with pytest.raises(queue.LeaseLostError):
                queue.give_back(self.database, lease, now=self.now)
            return
        if job["state"] == "leased":
            job.update(state="queued", rest=self.now, attempts=job["attempts"] - 1)
        assert queue.give_back(self.database, lease, now=self.now).state == job["state"]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data):
        job = data.draw(st.sampled_from(self.jobs))
        if job["state"] in ("done", "failed"):
            with pytest.raises(queue.JobConflictError):
                queue.cancel(self.database, job["id"], now=self.now)
            return
        job["state"] = "cancelled"
        assert queue.cancel(self.database, job["id"], now=self.now).state == "cancelled"

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0, 11.0, 100.0]))
    def wait(self, seconds):
        self.now += seconds

    # What must hold

    @invariant()
    def agrees(self):
        with self.database.read() as connection:
            found = connection.execute(select(schema.jobs).order_by(schema.jobs.c.position)).mappings().all()
            items = {}
            for row in connection.execute(select(schema.job_items).order_by(schema.job_items.c.number)):
                items.setdefault(row.job_id, {})[row.config] = row.state
            stored = connection.execute(
                select(schema.environments.c.key, schema.rows.c.key)
                .join_from(schema.rows, schema.environments)
                .where(schema.rows.c.kind.in_(["conv", "op"]))
            ).all()
        assert [row["id"] for row in found] == [job["id"] for job in self.jobs]
        for row, job in zip(found, self.jobs, strict=True):
            seen = {name: row[name] for name in ("state", "attempts", "lease")}
            assert seen == {name: job[name] for name in seen}
            assert items[row["id"]] == job["items"]
            assert row["total"] == len(job["items"])
            if job["state"] not in ("failed", "cancelled"):
                assert row["done"] == sum(state != "waiting" for state in job["items"].values())
            if job["state"] == "leased":
                assert row["lease_until"] == job["until"]
        keys = {OFFERS[worker].environment.key: worker for worker in OFFERS}
        assert {(keys[key], text) for key, text in stored} == self.rows
        assert len(stored) == len(self.rows)


def test_any_sequence_of_requests_does_what_the_oracle_does(database):
    machine = type("OnDatabase", (Machine,), {"database": database})
    examples = 60 if database.is_sqlite else 20
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_pool_of_configurations_is_canonical():
    assert [parse_config(text).text for text in CONFIGS] == list(CONFIGS)
