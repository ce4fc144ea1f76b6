"""Many rows at once, in the words of each database: read by key, removed by key, added."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from latency_model.service.store.records import Item

__all__ = ["Known", "add_lines", "add_rows", "delete_rows", "known_rows"]

_COLUMNS = (
    *("environment_id", "kind", "key", "latency_us", "low_us", "high_us", "measured_at", "record"),
    *("position", "run_id"),
)
_KEYS = {"sqlite": "key IN (SELECT value FROM json_each(?))", "postgresql": "key = ANY(%s)"}
_OF_KIND = {"sqlite": "environment_id = ? AND kind = ?", "postgresql": "environment_id = %s AND kind = %s"}


class Known(NamedTuple):
    """What is compared of a row that is there."""

    measured_at: str
    position: int | None
    record: str


def known_rows(
    connection: Connection, environment_id: int, kind: str, keys: Collection[str]
) -> dict[str, Known]:
    """Return those rows of a kind whose keys are among ``keys``."""
    if not keys:
        return {}
    name = connection.dialect.name
    found = connection.exec_driver_sql(
        f"SELECT key, measured_at, position, record FROM rows WHERE {_OF_KIND[name]} AND {_KEYS[name]}",
        (environment_id, kind, _list(name, keys)),
    )
    return {key: Known(measured_at, position, record) for key, measured_at, position, record in found}


def delete_rows(connection: Connection, environment_id: int, kind: str, keys: Collection[str]) -> None:
    """Delete rows of a kind by their keys."""
    if keys:
        name = connection.dialect.name
        connection.exec_driver_sql(
            f"DELETE FROM rows WHERE {_OF_KIND[name]} AND {_KEYS[name]}",
            (environment_id, kind, _list(name, keys)),
        )


def add_rows(
    connection: Connection, environment_id: int, run_id: str, found: Sequence[tuple[Item, int | None]]
) -> None:
    """Insert rows with their positions; their keys must be free."""
    lines = [(environment_id, *item, position, run_id) for item, position in found]
    add_lines(connection, "rows", _COLUMNS, lines)


def add_lines(
    connection: Connection, table: str, columns: Sequence[str], lines: Sequence[tuple[Any, ...]]
) -> None:
    """Insert ``lines``, the values of ``columns``, into a table."""
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({places})", list(lines))
        return
    raw: Any = connection.connection.driver_connection
    with raw.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for line in lines:
            copy.write_row(line)


def _list(dialect: str, keys: Collection[str]) -> Any:
    return json.dumps(list(keys)) if dialect == "sqlite" else list(keys)
