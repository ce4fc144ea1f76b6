"""Giving jobs to workers: the most urgent one that the worker can do, to exactly one worker at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, or_, select, update

from latency_model.service.store.database import Database
from latency_model.service.store.jobs.environments import id_of
from latency_model.service.store.jobs.errors import LeaseLostError
from latency_model.service.store.jobs.holding import Lease, held, locked, new_lease, set_job
from latency_model.service.store.jobs.measured import measured
from latency_model.service.store.jobs.outcome import mark_failed, mark_stored, settle
from latency_model.service.store.jobs.requests import NETWORK
from latency_model.service.store.jobs.wants import Offer, Wants
from latency_model.service.store.schema import job_items, jobs

__all__ = ["heartbeat", "lease_job", "sweep"]

_PAGE = 200


def lease_job(database: Database, offer: Offer, *, worker: str, now: float, lease_s: float) -> Lease | None:
    """Give ``worker`` the job that comes first among those that its ``offer`` satisfies, None without one.

    First come higher priorities, then older jobs; a job whose lease has expired counts as waiting. Configurations
    of which the worker's environment has rows by now are not measured again, and a job of which it has all is done
    without a worker. A worker of another environment than the one before begins anew: a job is measured in one.
    """
    passed: set[str] = set()
    while True:
        with database.write() as connection:
            _sweep(connection, now)
            job = _first(connection, offer, now, passed)
            if job is None:
                return None
            if (lease := _take(connection, job, offer, worker=worker, now=now, lease_s=lease_s)) is not None:
                return lease
        passed.add(job["id"])  # it is done without a worker: look for another, in a transaction of its own


def sweep(database: Database, *, now: float) -> int:
    """End the jobs whose last attempt has expired, and return how many; ``lease_job`` does so as well."""
    with database.write() as connection:
        return _sweep(connection, now)


def heartbeat(database: Database, lease: str, *, now: float, lease_s: float) -> tuple[str, float]:
    """Prolong a lease; return the state of its job, and until when it is held.

    ``cancelled`` as the state tells the worker to stop. A lease that is late but that nobody took over is held
    again. Raises ``LeaseLostError`` when another worker has the job.
    """
    with database.write() as connection:
        job = held(connection, lease)
        if job["state"] == "queued":
            raise LeaseLostError("this lease was given back; ask for another one")
        if job["state"] == "leased":
            set_job(connection, job["id"], now=now, lease_until=now + lease_s)
            return "leased", now + lease_s
        return str(job["state"]), now


def _waiting(now: float) -> ColumnElement[bool]:
    return or_(
        and_(jobs.c.state == "queued", jobs.c.not_before <= now),
        and_(jobs.c.state == "leased", jobs.c.lease_until <= now),
    )


def _waits(job: RowMapping, now: float) -> bool:
    """Do as the query of ``_waiting`` for a row that is at hand."""
    if job["state"] == "queued":
        return bool(job["not_before"] <= now)
    return bool(job["state"] == "leased" and job["lease_until"] <= now)


def _sweep(connection: Connection, now: float) -> int:
    query = (
        select(jobs.c.id, jobs.c.worker, jobs.c.attempts)
        .where(jobs.c.state == "leased", jobs.c.lease_until <= now, jobs.c.attempts >= jobs.c.max_attempts)
        .order_by(jobs.c.id)
        .with_for_update(skip_locked=True)
    )
    expired = connection.execute(query).all()
    for job_id, worker, attempts in expired:
        why = (
            f"its worker stopped answering in each of {attempts} attempts without a new row, "
            f"the last one was {worker}"
        )
        set_job(connection, job_id, now=now, state="failed", error=why)
    return len(expired)


def _first(connection: Connection, offer: Offer, now: float, passed: set[str]) -> RowMapping | None:
    """Return the locked row of the first job that the offer satisfies and nobody else is about to take."""
    accepted: dict[str, bool] = {}
    for job_id, wants in _candidates(connection, now):
        if wants not in accepted:
            accepted[wants] = Wants.from_json(json.loads(wants)).accepts(offer)
        if not accepted[wants] or job_id in passed:
            continue
        job = locked(connection, job_id, skip=True)
        # Between the list and the lock another worker may have taken it.
        if job is not None and _waits(job, now):
            return job
    return None


def _candidates(connection: Connection, now: float) -> Iterator[tuple[str, str]]:
    """Yield the ids and wants of the jobs that wait, in their order, a page at a time."""
    order = (jobs.c.priority.desc(), jobs.c.position)
    query = select(jobs.c.id, jobs.c.wants, jobs.c.priority, jobs.c.position).where(_waiting(now))
    page = connection.execute(query.order_by(*order).limit(_PAGE)).all()
    while page:
        for job_id, wants, _, _ in page:
            yield job_id, wants
        _, _, priority, position = page[-1]
        later = or_(jobs.c.priority < priority, and_(jobs.c.priority == priority, jobs.c.position > position))
        page = connection.execute(query.where(later).order_by(*order).limit(_PAGE)).all()


def _take(
    connection: Connection, job: RowMapping, offer: Offer, *, worker: str, now: float, lease_s: float
) -> Lease | None:
    """Lease a locked job; None when there is nothing left to measure, so that it is done."""
    job_id = job["id"]
    environment_id = id_of(connection, offer.environment)
    if job["environment_id"] != environment_id:
        connection.execute(
            update(job_items).where(job_items.c.job_id == job_id).values(state="waiting", error=None)
        )
    items = _left(connection, job_id)
    if known := measured(connection, environment_id, items):
        mark_stored(connection, job_id, known)
    if not offer.times_ops:
        ops = [item for item in items if item.startswith("op ") and item not in known]
        why = f"the runtime {offer.environment.runtime} times no operators but convolutions"
        mark_failed(connection, job_id, dict.fromkeys(ops, why))
    left = _left(connection, job_id)
    set_job(connection, job_id, now=now, environment_id=environment_id, worker=worker)
    if not left:
        settle(connection, job_id, now=now)
        return None
    lease = Lease(
        lease=new_lease(job_id),
        until=now + lease_s,
        job_id=job_id,
        kind=job["kind"],
        attempt=job["attempts"] + 1,
        configs=tuple(item for item in left if not item.startswith(NETWORK)),
        network=any(item.startswith(NETWORK) for item in left),
        blob=job["blob"],
        request=json.loads(job["request"]),
    )
    set_job(
        connection,
        job_id,
        now=now,
        state="leased",
        attempts=lease.attempt,
        lease=lease.lease,
        lease_until=lease.until,
        done=job["total"] - len(left),
    )
    return lease


def _left(connection: Connection, job_id: str) -> list[str]:
    query = select(job_items.c.config).where(job_items.c.job_id == job_id, job_items.c.state == "waiting")
    return list(connection.scalars(query.order_by(job_items.c.number)))
