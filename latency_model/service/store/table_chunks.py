"""A table's file a part at a time: as many tables of one environment, each with some of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from latency_model.environment import Environment
from latency_model.table import LatencyTable
from latency_model.table_file import open_columns

__all__ = ["table_chunks"]


def table_chunks(path: Path, size: int) -> tuple[Environment, int, Iterator[LatencyTable]]:
    """Return the environment of a table, its number of rows, and its rows in tables of at most ``size``.

    Raises ``TableError`` as ``LatencyTable.load`` does, for damage inside the file when its part is reached.
    """
    with open_columns(path) as (environment, file):
        return environment, file.metadata.num_rows, _chunks(path, size)


def _chunks(path: Path, size: int) -> Iterator[LatencyTable]:
    # A file may be one group of all its rows, a column of which is most of the memory that it needs.
    with open_columns(path, buffer_size=1 << 16) as (environment, file):
        for batch in file.iter_batches(size):
            yield LatencyTable.from_columns(environment, pa.Table.from_batches([batch]))
