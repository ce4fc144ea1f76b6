"""Who holds a job: the lease is the job's id and a secret, so that what it opens is found by the primary key."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from latency_model.service.store.jobs.errors import LeaseLostError
from latency_model.service.store.schema import jobs

__all__ = ["Lease", "held", "locked", "new_lease", "set_job"]


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker holds until ``until``: what it measures, and nothing that others have measured since.

    ``configs`` are texts. ``network`` is set when the whole model is to be timed too: the bytes of its ONNX file
    are in the blob ``blob``, its name, batch and precision in ``request``.
    """

    lease: str
    until: float
    job_id: str
    kind: str
    attempt: int
    configs: tuple[str, ...]
    network: bool
    blob: str | None
    request: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {name: getattr(self, name) for name in self.__slots__} | {"configs": list(self.configs)}


def new_lease(job_id: str) -> str:
    """Return a lease that nobody can guess."""
    return f"{job_id}.{secrets.token_urlsafe(24)}"


def locked(connection: Connection, job_id: str, *, skip: bool = False) -> RowMapping | None:
    """Return the row of a job, locked until the transaction ends; None when there is none, or it is taken (``skip``).

    SQLite has no locks of rows: there the whole transaction is the only one that writes.
    """
    query = select(jobs).where(jobs.c.id == job_id).with_for_update(skip_locked=skip)
    return connection.execute(query).mappings().first()


def held(connection: Connection, lease: str) -> RowMapping:
    """Return the locked row of the job that ``lease`` was the last one of; ``LeaseLostError`` when it is not.

    The job may have ended since, or be queued again: the caller looks at its state.
    """
    row = locked(connection, lease.partition(".")[0])
    if row is None or row["lease"] is None or not hmac.compare_digest(row["lease"].encode(), lease.encode()):
        raise LeaseLostError(
            "this lease is over: another worker has the job now, or it never was a lease; nothing was changed, "
            "and what was measured can be posted as late rows"
        )
    return row


def set_job(connection: Connection, job_id: str, *, now: float, **values: Any) -> None:
    """Change columns of a job, and when it changed."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(changed_at=now, **values))
