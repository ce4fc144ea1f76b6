"""The rows of an environment as CSV, Parquet or JSON, made while they are sent.

Columns and values are those of ``gharial tables export``, the order is the store's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latency_model.environment import Environment
from latency_model.exports import COLUMNS, record, write_json_rows
from latency_model.service.store.database import Database
from latency_model.service.store.rows import stream
from latency_model.table import LatencyTable
from latency_model.table_file import read_columns

__all__ = ["exported_csv", "exported_json", "exported_parquet"]

_BATCH = 10_000
_PART = 500


def _records(database: Database, key: str) -> Iterator[dict[str, Any]]:
    for config, row in stream(database, key):
        yield record(config, row)


def exported_csv(database: Database, key: str) -> Iterator[bytes]:
    """Yield the lines of a CSV file, some hundred at a time."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    rows = _records(database, key)
    while batch := list(islice(rows, _PART)):
        for row in batch:
            for name in ("kernels", "candidates"):
                row[name] = json.dumps(row[name]) if row[name] else "[]"
        writer.writerows(batch)
        yield _taken(text)
    if rest := _taken(text):
        yield rest


def exported_parquet(database: Database, key: str, environment: Environment) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file, a row group at a time."""
    metadata = {b"gharial.exported_from": json.dumps(environment.to_json()).encode()}
    schema = pa.schema(list(COLUMNS.items()), metadata=metadata)
    sink = _Sink()
    rows = _records(database, key)
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            yield sink.take()
    yield sink.take()


def exported_json(database: Database, key: str, table: Path) -> Iterator[bytes]:
    """Yield a JSON document: the environment, a row a line, networks and failures as in the file ``table``."""
    environment, columns = read_columns(table)
    kept = columns.filter(pc.is_in(columns["kind"], value_set=pa.array(["network", "failure"])))
    text = io.StringIO()
    write_json_rows(text, LatencyTable.from_columns(environment, kept), iter(()))
    before, after = text.getvalue().split('"rows": []', 1)
    yield f'{before}"rows": ['.encode()
    separator = "\n"
    rows = _records(database, key)
    while batch := list(islice(rows, _PART)):
        lines = [json.dumps(row, allow_nan=False) for row in batch]
        yield (separator + ",\n".join(lines)).encode()
        separator = ",\n"
    yield f"]{after}".encode()


def _taken(text: io.StringIO) -> bytes:
    found = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return found


class _Sink(io.RawIOBase):
    """A file that is only written to, and forgets what was taken from it."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """Return what was written since the last time."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found
