"""Rows into the database: merged as ``LatencyTable.merge`` merges, a chunk a transaction, safe to repeat."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from latency_model.environment import Environment
from latency_model.service.store.chunk import Changes, store_chunk
from latency_model.service.store.database import Database
from latency_model.service.store.records import Item, items
from latency_model.service.store.table_chunks import table_chunks
from latency_model.table import LatencyTable
from latency_model.table_columns import no_collection

__all__ = ["PutReport", "put", "put_file", "put_rows"]

_CHUNK = 10_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PutReport:
    """What a put did, in convolutions, operators, networks and failures.

    ``older`` lost to what is there: to a row measured later, or, a failure, to any row of its configuration.
    ``ended`` failures are gone because a row came. ``revision`` is that of the environment afterwards.
    """

    key: str
    revision: int
    new: int = 0
    replaced: int = 0
    identical: int = 0
    older: int = 0
    ended: int = 0

    @property
    def changed(self) -> bool:
        """Whether the environment has other rows than before."""
        return bool(self.new or self.replaced or self.ended)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def put(
    database: Database,
    table: LatencyTable,
    *,
    source: str,
    run_id: str | None = None,
    chunk: int = _CHUNK,
    progress: Progress | None = None,
) -> PutReport:
    """Merge ``table`` into the rows of its environment, which is made where it is new.

    Of two rows the later ``measured_at`` stays, of equally late ones that of ``table``; a row ends a failure.
    Each ``chunk`` of rows is a transaction of its own: whoever is stopped on the way and puts the same table
    again ends with what one whole put makes. ``source`` says where the rows come from; ``run_id`` names the
    run, by default a new one.
    """
    total = len(table.rows) + len(table.ops) + len(table.networks) + len(table.failures)
    return _put(database, table.environment, _cut(items(table), chunk), total, source, run_id, progress)


def put_file(
    database: Database,
    path: Path | str,
    *,
    source: str | None = None,
    run_id: str | None = None,
    chunk: int = _CHUNK,
    progress: Progress | None = None,
) -> PutReport:
    """Do as ``put`` does with the table in the file ``path``, without holding all of it.

    Raises ``TableError`` when it is missing or damaged: what came before the damage is stored then.
    """
    path = Path(path)
    found, total, tables = table_chunks(path, chunk)
    chunks = (list(items(table)) for table in tables)
    return _put(database, found, chunks, total, source or path.name, run_id, progress)


def put_rows(
    connection: Connection, table: LatencyTable, *, source: str, run_id: str | None = None
) -> PutReport:
    """Do as ``put`` does inside the transaction of ``connection``, which ``Database.write`` gave.

    The environment stays locked until that transaction ends.
    """
    changes = store_chunk(
        connection,
        table.environment,
        items(table),
        source=source,
        run_id=_run(run_id),
        now=time.time(),
    )
    return _report(table.environment.key, changes)


def _put(
    database: Database,
    environment: Environment,
    chunks: Iterable[list[Item]],
    total: int,
    source: str,
    run_id: str | None,
    progress: Progress | None,
) -> PutReport:
    run, done, report = _run(run_id), 0, None
    rest = iter(chunks)
    while True:
        # Made outside the transaction: other writers get in between.
        with no_collection():
            chunk = next(rest, None)
        if chunk is None and report is not None:
            return report
        with database.write() as connection:
            changes = store_chunk(
                connection, environment, chunk or [], source=source, run_id=run, now=time.time()
            )
        report = _report(environment.key, changes, report)
        done += len(chunk or [])
        if progress is not None:
            progress(done, total)


def _report(key: str, changes: Changes, before: PutReport | None = None) -> PutReport:
    before = before or PutReport(key, 0)
    return replace(
        before,
        revision=changes.revision,
        **{
            name: getattr(before, name) + getattr(changes, name)
            for name in ("new", "replaced", "identical", "older", "ended")
        },
    )


def _run(run_id: str | None) -> str:
    return uuid.uuid4().hex if run_id is None else run_id


def _cut(found: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while chunk := list(islice(found, size)):
        yield chunk
