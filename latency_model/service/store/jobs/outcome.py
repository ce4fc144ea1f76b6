"""What becomes of a job's items, and of the job when none waits any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, bindparam, func, select, update

from latency_model.service.store.jobs.holding import set_job
from latency_model.service.store.schema import job_items

__all__ = ["clean", "count_over", "mark_failed", "mark_stored", "settle"]

_AT_ONCE = 500
_LONGEST = 2000  # characters of a reason


def mark_stored(connection: Connection, job_id: str, items: Iterable[str]) -> int:
    """Note that ``items`` have rows; return how many of them are items of the job that had none before."""
    texts, changed = list(items), 0
    for start in range(0, len(texts), _AT_ONCE):
        here = (job_items.c.job_id == job_id, job_items.c.config.in_(texts[start : start + _AT_ONCE]))
        change = update(job_items).where(*here, job_items.c.state != "stored")
        changed += connection.execute(change.values(state="stored", error=None)).rowcount
    return changed


def mark_failed(connection: Connection, job_id: str, reasons: Mapping[str, str]) -> None:
    """Note why items that still wait could not be timed."""
    if not reasons:
        return
    change = (
        update(job_items)
        .where(
            job_items.c.job_id == job_id,
            job_items.c.config == bindparam("item"),
            job_items.c.state == "waiting",
        )
        .values(state="failed", error=bindparam("why"))
    )
    connection.execute(change, [{"item": item, "why": clean(why)} for item, why in reasons.items()])


def clean(reason: str) -> str:
    """Return a reason as the database can keep it: without what no text column holds, and not too long."""
    return reason.replace("\0", " ").encode("utf-8", "replace").decode()[:_LONGEST]


def count_over(connection: Connection, job_id: str) -> tuple[int, int]:
    """Return how many items of a job are stored, and how many failed."""
    counted = (
        select(job_items.c.state, func.count())
        .where(job_items.c.job_id == job_id)
        .group_by(job_items.c.state)
    )
    counts = {row[0]: row[1] for row in connection.execute(counted)}
    return counts.get("stored", 0), counts.get("failed", 0)


def settle(connection: Connection, job_id: str, *, now: float) -> None:
    """End a job of which no item waits: as done, or as failed when not one of its items has a row."""
    stored, failed = count_over(connection, job_id)
    if stored:
        set_job(connection, job_id, now=now, state="done", done=stored + failed, error=None)
        return
    first = select(job_items.c.config, job_items.c.error).where(
        job_items.c.job_id == job_id, job_items.c.state == "failed"
    )
    config, why = connection.execute(first.order_by(job_items.c.number).limit(1)).one()
    error = f"none of its {failed} configurations could be timed; {config}: {why}"
    set_job(connection, job_id, now=now, state="failed", done=failed, error=clean(error))
