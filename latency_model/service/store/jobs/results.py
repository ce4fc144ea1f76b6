"""What a worker brings back under its lease: rows, the end of the job, or the reason why it could not.

The lease is the right to change the *job*; it says nothing of the rows. A latency does not become wrong because
its worker was late, so whoever has lost a lease is refused (``LeaseLostError``, nothing changed) and may post the same
rows as late ones, which touch no job: the store keeps of two readings the later one, and the next worker that takes
the job is not asked for what is there by then.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from latency_model.errors import InputError
from latency_model.service.store.database import Database
from latency_model.service.store.jobs.errors import JobConflictError, LeaseLostError
from latency_model.service.store.jobs.holding import held, set_job
from latency_model.service.store.jobs.outcome import clean, count_over, mark_failed, mark_stored, settle
from latency_model.service.store.jobs.reading import job_of
from latency_model.service.store.jobs.requests import NETWORK
from latency_model.service.store.jobs.states import Job, rest_s
from latency_model.service.store.rows import PutReport, put_rows
from latency_model.service.store.schema import blobs, environments, job_items, jobs
from latency_model.table import LatencyTable

__all__ = ["Posted", "complete", "fail", "give_back", "model_of", "post_late", "post_rows"]


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of posted rows: in the store, and in the job, whose state tells the worker to go on or to stop."""

    rows: PutReport
    state: str
    total: int
    done: int


def post_rows(database: Database, lease: str, table: LatencyTable, *, now: float, lease_s: float) -> Posted:
    """Store rows that were measured for a job, together with what they mean for it; prolongs the lease.

    Twice the same rows change nothing. Of a job that was cancelled, or has ended otherwise, rows are stored and
    the job stays as it is. Raises ``LeaseLostError``, and ``InputError`` for rows of an environment other than the one
    that the lease was given for.
    """
    with database.write() as connection:
        job = held(connection, lease)
        if job["state"] == "queued":
            raise LeaseLostError("this lease was given back; post what is left as late rows")
        key = connection.scalar(select(environments.c.key).where(environments.c.id == job["environment_id"]))
        if key != table.environment.key:
            raise InputError(
                f"the rows are of the environment {table.environment.key} but the lease is for {key}; lease "
                "again with the right offer, and post these as late rows"
            )
        report = put_rows(
            connection, table, source=f"worker {job['worker']}, job {job['id']}", run_id=_run_of(lease)
        )
        if job["state"] != "leased":
            return Posted(report, job["state"], job["total"], job["done"])
        new = _note(connection, job, table)
        stored, failed = count_over(connection, job["id"])
        # Who makes progress starts counting its attempts anew, with the present one.
        attempts = 1 if new else job["attempts"]
        set_job(
            connection,
            job["id"],
            now=now,
            lease_until=max(job["lease_until"], now + lease_s),
            done=stored + failed,
            attempts=attempts,
        )
        return Posted(report, "leased", job["total"], stored + failed)


def _note(connection: Connection, job: RowMapping, table: LatencyTable) -> int:
    items = [config.text for config in table.rows]
    items += [config.text for config in table.ops]
    items += [NETWORK + network.name for network in table.networks]
    new = mark_stored(connection, job["id"], items)
    mark_failed(connection, job["id"], {config.text: why for config, why in table.failures.items()})
    return new


def post_late(database: Database, table: LatencyTable, *, worker: str) -> PutReport:
    """Store rows whose lease is over; no job is touched."""
    with database.write() as connection:
        return put_rows(connection, table, source=f"worker {clean(worker)}, late")


def complete(database: Database, lease: str, *, now: float, failures: Mapping[str, str] | None = None) -> Job:
    """End a job all of whose items are stored or failed; ``failures`` adds reasons, by the text of the item.

    Again for the same lease it returns the job as it is. Raises ``LeaseLostError``, and ``JobConflictError``
    while items have neither a row nor a reason.
    """
    with database.write() as connection:
        job = held(connection, lease)
        if job["state"] == "queued":
            raise LeaseLostError("this lease was given back, so it cannot complete the job")
        if job["state"] == "leased":
            mark_failed(connection, job["id"], failures or {})
            waiting = select(job_items.c.config).where(
                job_items.c.job_id == job["id"], job_items.c.state == "waiting"
            )
            left = connection.scalar(waiting.order_by(job_items.c.number).limit(1))
            if left is not None:
                raise JobConflictError(
                    f"the job {job['id']} is not complete: {left} has neither a row nor a reason why it failed"
                )
            settle(connection, job["id"], now=now)
        return _now(connection, job["id"])


def fail(database: Database, lease: str, reason: str, *, now: float, rng: random.Random | None = None) -> Job:
    """End an attempt: the job rests (see ``rest_s``) and is queued again, after the last attempt it has failed.

    Rows that were posted stay. Again for the same lease it returns the job as it is. Raises ``LeaseLostError``.
    """
    with database.write() as connection:
        job = held(connection, lease)
        if job["state"] == "leased":
            reason = clean(reason)
            if job["attempts"] >= job["max_attempts"]:
                why = f"attempt {job['attempts']} of {job['max_attempts']}: {reason}"
                set_job(connection, job["id"], now=now, state="failed", error=why)
            else:
                rest = rest_s(job["attempts"], rng or random.Random())
                set_job(connection, job["id"], now=now, state="queued", error=reason, not_before=now + rest)
        return _now(connection, job["id"])


def give_back(database: Database, lease: str, *, now: float) -> Job:
    """Queue a job again at once, for a worker that ends in order: the attempt does not count. As ``fail`` else."""
    with database.write() as connection:
        job = held(connection, lease)
        if job["state"] == "leased":
            set_job(
                connection,
                job["id"],
                now=now,
                state="queued",
                attempts=max(0, job["attempts"] - 1),
                not_before=now,
            )
        return _now(connection, job["id"])


def model_of(database: Database, lease: str) -> bytes:
    """Return the ONNX file of the job that ``lease`` holds.

    Raises ``LeaseLostError``, and ``InputError`` for a job without a model.
    """
    with database.read() as connection:
        job_id = lease.partition(".")[0]
        row = connection.execute(select(jobs.c.lease, jobs.c.blob).where(jobs.c.id == job_id)).first()
        if row is None or row.lease != lease:
            raise LeaseLostError(
                "this lease is over: another worker has the job now, or it never was a lease"
            )
        if row.blob is None:
            raise InputError(f"the job {job_id} has no model; its configurations are all there is to measure")
        return bytes(connection.scalar(select(blobs.c.bytes).where(blobs.c.digest == row.blob)) or b"")


def _run_of(lease: str) -> str:
    """Return the name of the run of a lease, from which the lease cannot be guessed."""
    return f"{lease.partition('.')[0]}-{hashlib.sha256(lease.encode()).hexdigest()[:12]}"


def _now(connection: Connection, job_id: str) -> Job:
    return job_of(connection, connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one())
