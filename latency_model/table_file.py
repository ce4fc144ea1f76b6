"""The file of a latency table: Parquet with the environment and the format's version in its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.files import write_atomic
from latency_model.table_columns import MEASURED

__all__ = [
    "FORMAT_VERSION",
    "SCHEMA",
    "damaged",
    "is_latency_table",
    "open_columns",
    "read_columns",
    "write_columns",
]

# Version 2 added the operators and the columns from cold_us to note; tables of version 1 are read as well.
FORMAT_VERSION = 2
_ARROW = b"ARROW1"
_ENVIRONMENT_KEY = b"gharial.environment"
_VERSION_KEY = b"gharial.format_version"

# `kind` is conv, op, network or failure; `config` is the text form of the shape, or the network's name.
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("config", pa.string()),
        *MEASURED,
        ("shapes", pa.list_(pa.string())),
        ("failure", pa.string()),
    ]
)


def write_columns(path: Path, environment: Environment, parts: Iterable[pa.Table]) -> None:
    """Write rows, tables of columns of ``SCHEMA``, to ``path`` one part after the other, atomically."""
    metadata = {
        _ENVIRONMENT_KEY: json.dumps(environment.to_json()).encode(),
        _VERSION_KEY: str(FORMAT_VERSION).encode(),
    }
    schema = SCHEMA.with_metadata(metadata)

    def write(target: Path) -> None:
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for columns in parts:
                writer.write_table(columns.cast(schema))

    write_atomic(path, write)


def is_latency_table(path: Path | str) -> bool:
    """Whether ``path`` is a Parquet file that ``write_columns`` of any version wrote; never raises.

    False as well for what is missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            return _VERSION_KEY in (file.schema_arrow.metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_columns(path: Path) -> tuple[Environment, pa.Table]:
    """Return the environment and the rows of a table as they stand in the file.

    Raises ``TableError`` when it is missing, damaged, no latency table, or of a later version. A table of
    version 1 lacks the columns that version 2 added.
    """
    with open_columns(path) as (environment, file):
        return environment, file.read()


@contextmanager
def open_columns(path: Path, *, buffer_size: int = 0) -> Iterator[tuple[Environment, pq.ParquetFile]]:
    """Yield the environment of a table and its open file; any failure to read it is a ``TableError``.

    With a ``buffer_size`` in bytes the file is read a buffer at a time, not a column at a time.
    """
    if path.is_dir():
        raise TableError(f"{path} is a folder, not a latency table; give the path of a file")
    if not path.is_file():
        raise TableError(f"no latency table at {path}; make one with: gharial profile MODEL --out {path}")
    try:
        with path.open("rb") as stream:
            arrow = stream.read(len(_ARROW)) == _ARROW
        if arrow:
            raise TableError(
                f"{path} is a lookup table or another Arrow file, not a latency table; "
                "give the .parquet that it was made from"
            )
        with pq.ParquetFile(path, buffer_size=buffer_size) as file:
            # The metadata first: what is no table of ours, or a later one, need not be read.
            metadata = file.schema_arrow.metadata or {}
            if _VERSION_KEY not in metadata:
                raise TableError(
                    f"{path} is a Parquet file but not a latency table; give the --out of gharial profile"
                )
            if int(metadata[_VERSION_KEY]) > FORMAT_VERSION:
                raise TableError(
                    f"{path} was written by a later version of Gharial; update with: pip install -U gharial"
                )
            yield Environment.from_json(json.loads(metadata[_ENVIRONMENT_KEY])), file
    except TableError:
        raise
    except Exception as error:  # pyarrow raises its own types for truncation, bad magic bytes and columns
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> TableError:
    """Return the error for a file whose content makes no sense."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TableError(f"{path} is damaged ({reason}); measure it again with gharial profile")
