"""Rows out of the database: what there is, a whole table, or a part at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, case, func, select

from latency_model.environment import Environment
from latency_model.measurement import Measurement, NetworkRow
from latency_model.ops import Config, OpShape
from latency_model.service.store.database import Database
from latency_model.service.store.errors import UnknownEnvironmentError
from latency_model.service.store.records import LONGEST_KEY, Records, config_of
from latency_model.service.store.schema import environments as _environments
from latency_model.service.store.schema import rows
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.table_columns import no_collection
from latency_model.table_file import write_columns

__all__ = [
    "EnvironmentInfo",
    "Latencies",
    "environment",
    "environments",
    "latencies",
    "read",
    "save_table",
    "snapshot",
    "stream",
]

_CHUNK = 10_000
# The record of a row whose key is not the whole text of its configuration, else null.
_LONG_RECORD = case((func.length(rows.c.key) > LONGEST_KEY, rows.c.record))


@dataclass(frozen=True, slots=True)
class EnvironmentInfo:
    """An environment in the database. ``revision`` grows with every change of its rows; the counts are of them.

    Times are seconds since the epoch.
    """

    id: int
    key: str
    environment: Environment
    revision: int
    convs: int
    ops: int
    networks: int
    failures: int
    created_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """Some convolutions or operators, as columns: the texts of the configurations and microseconds."""

    kind: str
    configs: Sequence[str]
    latency_us: Sequence[float]
    low_us: Sequence[float]
    high_us: Sequence[float]


def environments(database: Database) -> list[EnvironmentInfo]:
    """Return every environment, in the order in which they came."""
    with database.read() as connection:
        return [_info(row) for row in connection.execute(select(_environments).order_by(_environments.c.id))]


def environment(database: Database, key: str) -> EnvironmentInfo:
    """Return the environment of a key; ``UnknownEnvironmentError`` when there is none."""
    with database.read() as connection:
        return _of_key(connection, key)


def read(database: Database, key: str) -> LatencyTable:
    """Return all rows of an environment; ``UnknownEnvironmentError`` when there is none of this key."""
    return snapshot(database, key)[1]


def snapshot(database: Database, key: str) -> tuple[EnvironmentInfo, LatencyTable]:
    """Return an environment and all its rows, both of one moment."""
    with database.read() as connection:
        info = _of_key(connection, key)
        with no_collection():
            tables = [_table(info, part) for part in _parts(connection, info.id, _CHUNK)]
    convs: dict[ConvShape, Measurement] = {}
    ops: dict[OpShape, Measurement] = {}
    failures: dict[Config, str] = {}
    networks: list[NetworkRow] = []
    for table in tables:
        convs.update(table.rows)
        ops.update(table.ops)
        failures.update(table.failures)
        networks += table.networks
    return info, LatencyTable(info.environment, convs, tuple(networks), failures, ops)


def stream(
    database: Database, key: str, *, kinds: Sequence[str] = ("conv", "op"), chunk: int = _CHUNK
) -> Iterator[tuple[Config, Measurement]]:
    """Yield the rows of an environment as they were at one moment, ``chunk`` of them in memory at a time.

    Convolutions come before operators, each in the order of their keys (of their texts, by character).
    """
    with database.read() as connection:
        info = _of_key(connection, key)
        records = Records()
        measured: dict[str, Callable[[str, str], tuple[Config, Measurement]]] = {
            "conv": records.conv,
            "op": records.op,
        }
        for kind in kinds:
            for part in _parts(connection, info.id, chunk, kind):
                yield from (measured[row.kind](row.key, row.record) for row in part)


@contextmanager
def latencies(
    database: Database, key: str, *, kinds: Sequence[str] = ("conv", "op"), chunk: int = 50_000
) -> Iterator[tuple[EnvironmentInfo, Iterator[Latencies]]]:
    """Yield an environment and an iterator over its latencies a part at a time, all of one moment.

    Quicker by far than ``stream``: nothing but the texts and three numbers is read.
    """
    with database.read() as connection:
        info = _of_key(connection, key)
        yield info, _latencies(connection, info.id, kinds, chunk)


def _latencies(
    connection: Connection, environment_id: int, kinds: Sequence[str], chunk: int
) -> Iterator[Latencies]:
    columns = (rows.c.key, rows.c.latency_us, rows.c.low_us, rows.c.high_us, _LONG_RECORD)
    for kind in kinds:
        for part in _parts(connection, environment_id, chunk, kind, columns):
            keys, *numbers, records = zip(*part, strict=True)
            configs = [
                key if record is None else config_of(key, record)
                for key, record in zip(keys, records, strict=True)
            ]
            yield Latencies(kind, configs, *numbers)


def save_table(database: Database, key: str, path: Path | str, *, chunk: int = _CHUNK) -> EnvironmentInfo:
    """Write an environment's rows as the file that ``LatencyTable.load`` reads, without holding all of them.

    Return what was written.
    """
    with database.read() as connection:
        info = _of_key(connection, key)
        parts = (_table(info, part).to_columns() for part in _parts(connection, info.id, chunk))
        write_columns(Path(path), info.environment, parts)
    return info


def _info(row: Row[Any]) -> EnvironmentInfo:
    values = {**row._mapping, "environment": Environment.from_json(json.loads(row.environment))}
    return EnvironmentInfo(**values)


def _of_key(connection: Connection, key: str) -> EnvironmentInfo:
    row = connection.execute(select(_environments).where(_environments.c.key == key)).one_or_none()
    if row is None:
        raise UnknownEnvironmentError(f"there is no environment {key!r} in the database")
    return _info(row)


def _parts(
    connection: Connection,
    environment_id: int,
    chunk: int,
    kind: str | None = None,
    columns: Sequence[Any] = (rows.c.kind, rows.c.key, rows.c.record),
) -> Iterator[Sequence[Row[Any]]]:
    """Yield the rows of an environment, or of one kind, by kind and key, ``chunk`` at a time; networks as they came."""
    query = select(*columns).where(rows.c.environment_id == environment_id)
    if kind is None:
        for each in ("conv", "op", "network", "failure"):
            yield from _parts(connection, environment_id, chunk, each, columns)
        return
    order = rows.c.position if kind == "network" else rows.c.key
    query = query.where(rows.c.kind == kind).order_by(order)
    yield from connection.execution_options(yield_per=chunk).execute(query).partitions()


def _table(info: EnvironmentInfo, part: Sequence[Row[Any]]) -> LatencyTable:
    """Return some rows of an environment, all of one kind, as a table."""
    records, kind = Records(), part[0].kind
    if kind == "network":
        return LatencyTable(info.environment, networks=tuple(records.network(row.record) for row in part))
    if kind == "failure":
        failures = dict(records.failure(row.key, row.record) for row in part)
        return LatencyTable(info.environment, failures=failures)
    if kind == "op":
        return LatencyTable(info.environment, ops=dict(records.op(row.key, row.record) for row in part))
    return LatencyTable(info.environment, dict(records.conv(row.key, row.record) for row in part))
