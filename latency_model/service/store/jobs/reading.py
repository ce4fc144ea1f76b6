"""What there is to know of jobs: one with its failures, many in order of their age, how many in each state."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from latency_model.errors import InputError
from latency_model.service.store.database import Database
from latency_model.service.store.jobs.errors import UnknownJobError
from latency_model.service.store.jobs.states import STATES, Job
from latency_model.service.store.schema import environments, job_items, jobs

__all__ = ["count_jobs", "get_job", "job_items_of", "job_of", "list_jobs", "unknown"]

_FAILURES = 1000


def get_job(database: Database, job_id: str) -> Job:
    """Return a job with the reasons of up to 1,000 configurations that failed; ``UnknownJobError`` without one."""
    with database.read() as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
        if row is None:
            raise unknown(job_id)
        failed = (
            select(job_items.c.config, job_items.c.error)
            .where(job_items.c.job_id == job_id, job_items.c.state == "failed")
            .order_by(job_items.c.number)
            .limit(_FAILURES)
        )
        return job_of(
            connection, row, failures={config: why or "" for config, why in connection.execute(failed)}
        )


def list_jobs(
    database: Database, *, state: str | None = None, limit: int = 100, before: str | None = None
) -> list[Job]:
    """Return up to ``limit`` jobs, the latest first, all or those in ``state``.

    ``before`` is the last job of the page before. Their failures are left out. Raises ``InputError`` for a state
    that there is not, ``UnknownJobError`` for ``before``.
    """
    if state is not None and state not in STATES:
        raise InputError(f"a job is {', '.join(STATES)}, never {state!r}")
    query = select(jobs, environments.c.key.label("environment_key")).outerjoin(environments)
    if state is not None:
        query = query.where(jobs.c.state == state)
    with database.read() as connection:
        if before is not None:
            position = connection.scalar(select(jobs.c.position).where(jobs.c.id == before))
            if position is None:
                raise unknown(before)
            query = query.where(jobs.c.position < position)
        found = connection.execute(query.order_by(jobs.c.position.desc()).limit(limit)).mappings()
        return [Job.of(row, environment=row["environment_key"]) for row in found]


def job_items_of(database: Database, job_id: str) -> list[dict[str, Any]]:
    """Return what has become of each item of a job, in order; empty for a job that there is not."""
    query = select(job_items.c.config, job_items.c.state, job_items.c.error).where(
        job_items.c.job_id == job_id
    )
    with database.read() as connection:
        return [dict(row) for row in connection.execute(query.order_by(job_items.c.number)).mappings()]


def count_jobs(database: Database) -> dict[str, int]:
    """Return how many jobs are in each state."""
    with database.read() as connection:
        counted = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
    return dict.fromkeys(STATES, 0) | {row[0]: row[1] for row in counted}


def job_of(connection: Connection, row: RowMapping, *, failures: dict[str, str] | None = None) -> Job:
    """Return the job of a row of the table ``jobs``."""
    key = None
    if row["environment_id"] is not None:
        key = connection.scalar(select(environments.c.key).where(environments.c.id == row["environment_id"]))
    return Job.of(row, environment=key, failures=failures)


def unknown(job_id: str) -> UnknownJobError:
    """Return the error for a job that there is not."""
    return UnknownJobError(f"there is no job {job_id[:40]!r}; GET /v1/jobs lists those that there are")
