"""A backup as a file: a zip of one Parquet file a table, which either database is restored from.

Beside the tables lies ``backup.json``: the format's version, the revision of the schema, and the rows and the SHA-256
of every file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Column, Connection, Double, LargeBinary, MetaData, Row, Table, func, select
from sqlalchemy.types import Integer

from latency_model.files import write_atomic
from latency_model.service.store.errors import StoreError

__all__ = ["FORMAT_VERSION", "Archive", "open_archive", "write_archive"]

FORMAT_VERSION = 1
_CONTENTS = "backup.json"
_CHUNK = 10_000
# A row with a file in it may be hundreds of megabytes.
_CHUNK_OF_FILES = 1


def write_archive(
    path: Path,
    connection: Connection,
    tables: MetaData,
    revision: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write all tables of a database to ``path``, atomically; return the number of rows of each."""
    counts = {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in tables.sorted_tables
    }
    done = 0

    def write(target: Path) -> None:
        nonlocal done
        contents: dict[str, Any] = {"format_version": FORMAT_VERSION, "revision": revision, "tables": {}}
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
            zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
        ):
            for table in tables.sorted_tables:
                file = Path(folder) / f"{table.name}.parquet"
                with pq.ParquetWriter(file, _schema(table), compression="zstd") as writer:
                    for part in _parts(connection, table):
                        writer.write_table(_columns(table, part))
                        done += len(part)
                        if progress is not None:
                            progress(done, sum(counts.values()))
                contents["tables"][table.name] = {"rows": counts[table.name], "sha256": _digest(file)}
                archive.write(file, file.name)
                file.unlink()
            archive.writestr(_CONTENTS, json.dumps(contents, indent=2))

    write_atomic(path, write)
    return counts


@dataclass(frozen=True)
class Archive:
    """An archive that was unpacked and found whole."""

    folder: Path
    revision: str
    rows: dict[str, int]

    def parts(self, table: Table) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
        """Yield the columns' names and the rows of a table some at a time; none of a table that it lacks."""
        if table.name not in self.rows:
            return
        with pq.ParquetFile(self.folder / f"{table.name}.parquet", buffer_size=1 << 16) as file:
            for batch in file.iter_batches(_chunk(table.columns)):
                yield batch.schema.names, list(zip(*batch.to_pydict().values(), strict=True))


def open_archive(path: Path, folder: Path) -> Archive:
    """Unpack the archive ``path`` into ``folder``; ``StoreError`` when it is damaged, foreign or too new."""
    try:
        with zipfile.ZipFile(path) as archive:
            contents = json.loads(archive.read(_CONTENTS))
            if contents["format_version"] > FORMAT_VERSION:
                raise StoreError(
                    f"{path} was written by a later version of Gharial; update with: pip install -U gharial"
                )
            for name, known in contents["tables"].items():
                file = folder / f"{name}.parquet"
                with archive.open(file.name) as source, file.open("wb") as target:
                    while data := source.read(1 << 20):
                        target.write(data)
                if _digest(file) != known["sha256"]:
                    raise StoreError(f"{path} is damaged: {file.name} is not what was written; take another")
        rows = {name: int(known["rows"]) for name, known in contents["tables"].items()}
        return Archive(folder, str(contents["revision"]), rows)
    except FileNotFoundError as error:
        raise StoreError(f"no backup at {path}; make one with: gharial backup {path}") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError, OSError) as error:
        raise StoreError(f"{path} is not a backup of Gharial's, or is damaged: {error}") from error


def _schema(table: Table) -> pa.Schema:
    return pa.schema([(column.name, _type(column)) for column in table.columns])


def _type(column: Column[Any]) -> pa.DataType:
    if isinstance(column.type, LargeBinary):
        return pa.large_binary()
    if isinstance(column.type, Double):
        return pa.float64()
    return pa.int64() if isinstance(column.type, Integer) else pa.string()


def _chunk(columns: Any) -> int:
    return _CHUNK_OF_FILES if any(isinstance(column.type, LargeBinary) for column in columns) else _CHUNK


def _parts(connection: Connection, table: Table) -> Iterator[Sequence[Row[Any]]]:
    query = select(table).order_by(*table.primary_key.columns)
    size = _chunk(table.columns)
    yield from connection.execution_options(yield_per=size).execute(query).partitions()


def _columns(table: Table, part: Sequence[Row[Any]]) -> pa.Table:
    schema = _schema(table)
    arrays = [
        pa.array(values, field.type) for values, field in zip(zip(*part, strict=True), schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
