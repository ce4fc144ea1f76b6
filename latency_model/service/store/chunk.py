"""One transaction's worth of rows into one environment: what is new, later, the same or too late."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.service.store.bulk import add_rows, delete_rows, known_rows
from latency_model.service.store.errors import StoreError
from latency_model.service.store.records import Item, Records
from latency_model.service.store.schema import environments, rows, runs

__all__ = ["Changes", "store_chunk"]

# The column of ``environments`` that counts the rows of a kind.
_COUNTS = {"conv": "convs", "op": "ops", "network": "networks", "failure": "failures"}
_LONGEST_RUN = 64
_Stored = list[tuple[Item, int | None]]


@dataclass(slots=True)
class Changes:
    """What a chunk did; see ``PutReport``. ``counts`` are the rows that each kind gained."""

    revision: int = 0
    new: int = 0
    replaced: int = 0
    identical: int = 0
    older: int = 0
    ended: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))


class _Place(NamedTuple):
    id: int
    revision: int
    counts: Mapping[str, int]


def store_chunk(
    connection: Connection,
    environment: Environment,
    found: Iterable[Item],
    *,
    source: str,
    run_id: str,
    now: float,
) -> Changes:
    """Merge rows into an environment and count what became of each; the caller commits."""
    place = _locked(connection, environment, now)
    changes = Changes(place.revision)
    kinds = _by_kind(found, changes)
    stored: _Stored = []
    for kind in ("conv", "op", "network"):
        if kinds[kind]:
            stored += _later(connection, place, kind, kinds[kind], changes)
    measured = [*kinds["conv"], *kinds["op"]]
    if place.counts["failure"]:
        ended = known_rows(connection, place.id, "failure", measured)
        delete_rows(connection, place.id, "failure", ended)
        changes.ended += len(ended)
        changes.counts["failure"] -= len(ended)
    if kinds["failure"]:
        stored += _failed(connection, place, kinds["failure"], set(measured), changes)
    if stored:
        _note_run(connection, place.id, run_id, source, len(stored), now)
        # In the order of the primary key: neighbours share pages.
        add_rows(connection, place.id, run_id, sorted(stored, key=lambda row: row[0][:2]))
    if stored or changes.ended:
        changes.revision += 1
        values: dict[str, Any] = {
            column: environments.c[column] + changes.counts[kind] for kind, column in _COUNTS.items()
        }
        connection.execute(
            update(environments)
            .where(environments.c.id == place.id)
            .values(revision=changes.revision, changed_at=now, **values)
        )
    return changes


def _locked(connection: Connection, environment: Environment, now: float) -> _Place:
    """Return the environment, made where it is new, and keep other writers of it waiting."""
    text = json.dumps(environment.to_json(), sort_keys=True)
    query = select(environments).where(environments.c.key == environment.key).with_for_update(key_share=True)
    found = connection.execute(query).one_or_none()
    if found is None:
        values = {"key": environment.key, "environment": text, "created_at": now, "changed_at": now}
        insert = _insert(connection, environments).values(**values)
        connection.execute(insert.on_conflict_do_nothing(index_elements=["key"]))
        found = connection.execute(query).one()
    if json.loads(found.environment) != environment.to_json():
        raise StoreError(f"two environments have the key {environment.key}: {text} and {found.environment}")
    counts = {kind: getattr(found, column) for kind, column in _COUNTS.items()}
    return _Place(found.id, found.revision, counts)


def _by_kind(found: Iterable[Item], changes: Changes) -> dict[str, dict[str, Item]]:
    """Return rows by kind and key; of several of one key the one that stays."""
    kinds: dict[str, dict[str, Item]] = {kind: {} for kind in _COUNTS}
    for item in found:
        same = kinds[item.kind]
        known = same.get(item.key)
        changes.older += known is not None
        if known is None or item.measured_at >= known.measured_at:
            same[item.key] = item
    return kinds


def _later(
    connection: Connection, place: _Place, kind: str, found: Mapping[str, Item], changes: Changes
) -> _Stored:
    """Return what is to be added of measured rows; those that it replaces are deleted."""
    known = known_rows(connection, place.id, kind, found) if place.counts[kind] else {}
    records, stored, replaced = Records(), _Stored(), []
    position = _next_position(connection, place) if kind == "network" else None
    for key, item in found.items():
        there = known.get(key)
        if there is None:
            changes.new += 1
            changes.counts[kind] += 1
            stored.append((item, position))
            position = None if position is None else position + 1
        elif item.measured_at < there.measured_at:
            changes.older += 1
        elif item.measured_at == there.measured_at and records.same(kind, item.record, there.record):
            changes.identical += 1
        else:
            replaced.append(key)
            stored.append((item, there.position))
    changes.replaced += len(replaced)
    delete_rows(connection, place.id, kind, replaced)
    return stored


def _failed(
    connection: Connection,
    place: _Place,
    found: Mapping[str, Item],
    rows_of: Collection[str],
    changes: Changes,
) -> _Stored:
    """Return what is to be added of failures: a row, here or there already, has ended them."""
    measured = {*rows_of}
    for kind in ("conv", "op"):
        if place.counts[kind]:
            measured |= known_rows(connection, place.id, kind, found).keys()
    known = known_rows(connection, place.id, "failure", found) if place.counts["failure"] else {}
    stored, replaced = _Stored(), []
    for key, item in found.items():
        if key in measured:
            changes.older += 1
        elif key not in known:
            changes.new += 1
            changes.counts["failure"] += 1
            stored.append((item, None))
        elif known[key].record == item.record:
            changes.identical += 1
        else:
            replaced.append(key)
            stored.append((item, None))
    changes.replaced += len(replaced)
    delete_rows(connection, place.id, "failure", replaced)
    return stored


def _next_position(connection: Connection, place: _Place) -> int:
    last = connection.execute(
        select(func.max(rows.c.position)).where(rows.c.environment_id == place.id, rows.c.kind == "network")
    ).scalar()
    return 0 if last is None else last + 1


def _note_run(
    connection: Connection, environment_id: int, run_id: str, source: str, count: int, now: float
) -> None:
    if not 0 < len(run_id) <= _LONGEST_RUN or "\0" in run_id:
        raise InputError(f"the name of a run has 1 to {_LONGEST_RUN} characters, not {len(run_id)}")
    statement = _insert(connection, runs).values(
        id=run_id,
        environment_id=environment_id,
        source=source.replace("\0", ""),
        created_at=now,
        rows=count,
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"rows": runs.c.rows + count})
    )
    owner = connection.execute(select(runs.c.environment_id).where(runs.c.id == run_id)).scalar_one()
    if owner != environment_id:
        raise InputError(f"the run {run_id!r} is one of another environment; give it a name of its own")


def _insert(connection: Connection, table: Any) -> Any:
    """Return an INSERT that can say what to do on a conflict."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
