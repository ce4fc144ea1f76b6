"""Letting go of the models of jobs that ended long ago: a job stays, what was uploaded for it does not."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from latency_model.service.store.database import Database
from latency_model.service.store.jobs.states import FINAL
from latency_model.service.store.jobs.submitting import one_submission
from latency_model.service.store.schema import blobs, jobs

__all__ = ["drop_models"]


def drop_models(database: Database, *, now: float, keep_s: float) -> int:
    """Delete the models that only jobs need which ended ``keep_s`` or longer ago, and return how many."""
    with database.write() as connection:
        # A job that is submitted meanwhile may be for a model that is about to go.
        one_submission(connection)
        ended = (jobs.c.state.in_(FINAL), jobs.c.changed_at <= now - keep_s, jobs.c.blob.is_not(None))
        connection.execute(update(jobs).where(*ended).values(blob=None))
        used = select(jobs.c.blob).where(jobs.c.blob == blobs.c.digest).exists()
        return connection.execute(delete(blobs).where(~used)).rowcount
