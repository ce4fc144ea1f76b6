"""Submitting a job: once for each idempotency key, and not at all to a worker where everything is measured."""

from __future__ import annotations

import json
import re
import secrets

from sqlalchemy import Connection, func, insert, select, text

from latency_model.errors import InputError
from latency_model.service.store.database import Database
from latency_model.service.store.jobs.errors import JobConflictError
from latency_model.service.store.jobs.measured import complete_environment
from latency_model.service.store.jobs.reading import job_of
from latency_model.service.store.jobs.requests import JobRequest, Model
from latency_model.service.store.jobs.states import Job
from latency_model.service.store.schema import blobs, job_items, jobs

__all__ = ["one_submission", "submit"]

_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_LOCK = 0x676A6F62  # any number that nothing else in the database locks


def submit(
    database: Database,
    request: JobRequest,
    *,
    now: float,
    idempotency_key: str | None = None,
    created_by: str | None = None,
) -> tuple[Job, bool]:
    """Put a job into the queue and return it, and whether it is new.

    With an ``idempotency_key`` that the same ``created_by`` used before, the job of then is returned if the
    request was the same; ``JobConflictError`` if not. A job of which some wanted environment has all rows is done at
    once. Raises ``InputError`` for a key that is not 1 to 128 printable ASCII characters.
    """
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InputError("an idempotency key is 1 to 128 printable ASCII characters without spaces")
    key = None if idempotency_key is None else f"{created_by or ''}/{idempotency_key}"
    digest = request.digest
    with database.write() as connection:
        one_submission(connection)
        if key is not None:
            before = connection.execute(select(jobs).where(jobs.c.idempotency_key == key)).mappings().first()
            if before is not None:
                if before["request_digest"] != digest:
                    raise JobConflictError(
                        f"the idempotency key {idempotency_key} was used for another request (job "
                        f"{before['id']}); take another key"
                    )
                return job_of(connection, before), False
        if request.model is not None:
            _keep(connection, request.model, now)
        job_id = _insert(connection, request, key=key, digest=digest, created_by=created_by, now=now)
        row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one()
        return job_of(connection, row), True


def one_submission(connection: Connection) -> None:
    """Let whoever calls this wait for each other, so that positions and idempotency keys are taken once."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
    # A SQLite transaction that writes is the only one anyway.


def _keep(connection: Connection, model: Model, now: float) -> None:
    if connection.scalar(select(blobs.c.digest).where(blobs.c.digest == model.digest)) is None:
        connection.execute(insert(blobs).values(digest=model.digest, bytes=model.data, created_at=now))


def _insert(
    connection: Connection,
    request: JobRequest,
    *,
    key: str | None,
    digest: str,
    created_by: str | None,
    now: float,
) -> str:
    job_id = secrets.token_hex(8)
    environment_id = complete_environment(connection, request.wants, request.items)
    last = connection.scalar(select(func.max(jobs.c.position)))
    connection.execute(
        insert(jobs).values(
            id=job_id,
            position=(last or 0) + 1,
            idempotency_key=key,
            request_digest=digest,
            kind=request.kind,
            wants=json.dumps(request.wants.to_json()),
            request=json.dumps(request.about),
            blob=None if request.model is None else request.model.digest,
            priority=request.priority,
            state="queued" if environment_id is None else "done",
            max_attempts=request.max_attempts,
            environment_id=environment_id,
            total=len(request.items),
            done=0 if environment_id is None else len(request.items),
            created_by=created_by,
            created_at=now,
            changed_at=now,
        )
    )
    state = "waiting" if environment_id is None else "stored"
    connection.execute(
        insert(job_items),
        [
            {"job_id": job_id, "number": number, "config": item, "state": state}
            for number, item in enumerate(request.items)
        ],
    )
    return job_id
