"""Cancelling a job, whoever holds it."""

from __future__ import annotations

from latency_model.service.store.database import Database
from latency_model.service.store.jobs.errors import JobConflictError
from latency_model.service.store.jobs.holding import locked, set_job
from latency_model.service.store.jobs.reading import job_of, unknown
from latency_model.service.store.jobs.states import Job

__all__ = ["cancel"]


def cancel(database: Database, job_id: str, *, now: float) -> Job:
    """Cancel a job and return it; again, it is returned as it is.

    A worker that holds it learns so at its next heartbeat or post, and what it has measured is stored. Raises
    ``UnknownJobError``, and ``JobConflictError`` for a job that is done or has failed.
    """
    with database.write() as connection:
        row = locked(connection, job_id)
        if row is None:
            raise unknown(job_id)
        if row["state"] in ("done", "failed"):
            raise JobConflictError(f"the job {job_id} is {row['state']} already, so it cannot be cancelled")
        if row["state"] != "cancelled":
            set_job(connection, job_id, now=now, state="cancelled")
        row = locked(connection, job_id)
        assert row is not None
        return job_of(connection, row)
