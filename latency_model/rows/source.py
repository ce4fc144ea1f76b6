"""A file of plain rows as Arrow columns: Parquet, or CSV with a header, which may be compressed (.csv.gz)."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from latency_model.errors import RowsError
from latency_model.table_file import is_latency_table

__all__ = ["SUFFIXES", "Source", "read_source", "suffix_of"]

SUFFIXES = (".parquet", ".csv", ".csv.gz")
# What an empty cell of a CSV file looks like.
_EMPTY = ["", "NA", "N/A", "#N/A", "null", "NULL", "None", "nan", "NaN", "NAN", "-nan", "-NaN"]


@dataclass(frozen=True)
class Source:
    """The columns of a file that were asked for and are there; ``names`` are all that it has."""

    path: Path
    count: int
    names: tuple[str, ...]
    columns: dict[str, Any]


def suffix_of(path: Path) -> str:
    """Return which of ``SUFFIXES`` the name of ``path`` ends in; ``RowsError`` for another ending."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise RowsError(f"{path} is no file of rows by its name; its ending must be {', '.join(SUFFIXES)}")


def read_source(path: Path, wanted: Collection[str]) -> Source:
    """Read those of the ``wanted`` columns that the file has; a CSV file's are text.

    Raises ``RowsError`` when the file is missing, damaged, without rows, or a latency table.
    """
    suffix = suffix_of(path)
    if path.is_dir():
        raise RowsError(f"{path} is a folder, not a file of rows; give the path of a file")
    if not path.is_file():
        raise RowsError(f"no such file: {path}; give a .parquet or .csv file of rows")
    try:
        source = _parquet(path, wanted) if suffix == ".parquet" else _csv(path, wanted)
    except RowsError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeError, csv.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RowsError(
            f"cannot read rows from {path} ({reason.rstrip('.')}); write the file anew"
        ) from error
    if not source.count:
        raise RowsError(f"{path} has no rows; give a file with at least one")
    return source


def _parquet(path: Path, wanted: Collection[str]) -> Source:
    with pq.ParquetFile(path) as file:
        if is_latency_table(path):
            raise RowsError(f"{path} is a latency table, not a file of rows; it is used as a table as it is")
        plain = file.schema_arrow.names
        names = _unique(path, [name.strip() for name in plain])
        places = [place for place, name in enumerate(names) if name in wanted]
        table = file.read(columns=[plain[place] for place in places])
        count = file.metadata.num_rows
    return Source(path, count, names, {names[p]: table.column(plain[p]) for p in places})


def _csv(path: Path, wanted: Collection[str]) -> Source:
    names, lines = _header(path)
    held = [name for name in names if name in wanted]
    table = pacsv.read_csv(
        path,
        # One thread: errors then name the line.
        read_options=pacsv.ReadOptions(use_threads=False, skip_rows=lines, column_names=list(names)),
        convert_options=pacsv.ConvertOptions(
            # At least one column, or the count of rows is lost.
            include_columns=held or [names[0]],
            column_types=dict.fromkeys(names, pa.string()),
            null_values=_EMPTY,
            strings_can_be_null=True,
        ),
    )
    return Source(path, table.num_rows, names, {name: table.column(name) for name in held})


def _header(path: Path) -> tuple[tuple[str, ...], int]:
    """Return the names of a CSV file's columns, and the lines up to the end of its header."""
    opened = gzip.open if suffix_of(path) == ".csv.gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                return _unique(path, [cell.strip() for cell in cells]), reader.line_num
    raise RowsError(f"{path} is empty; give a file with a header and at least one row")


def _unique(path: Path, names: list[str]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise RowsError(f"{path} has {names.count(name)} columns named {name!r}; leave one")
    return tuple(names)
