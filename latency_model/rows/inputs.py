"""Latency tables and files of plain rows, in any mixture, as tables: what `gharial fit` is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from latency_model.errors import RowsError
from latency_model.rows.problems import counted
from latency_model.rows.read import AGREE, read_rows
from latency_model.rows.row_set import RowSet
from latency_model.rows.to_table import to_table
from latency_model.table import LatencyTable
from latency_model.table_file import is_latency_table

__all__ = ["holds_rows", "load_tables"]


def holds_rows(path: Path) -> bool:
    """Whether ``path`` is a CSV file, or a Parquet file that is no latency table; its columns are not looked at."""
    if not path.is_file():
        return False
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return True
    try:
        pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return False
    return not is_latency_table(path)


def load_tables(
    paths: Sequence[Path], *, on_bad: Literal["error", "drop"] = "error", device: str | None = None
) -> tuple[list[LatencyTable], list[RowSet], list[str]]:
    """Return a table for each of ``paths``, the rows of those that are plain, and what to know of them.

    Convolutions that several plain files have must agree like equal rows of one file; with
    ``on_bad="drop"`` they need not. The file given last counts. ``device`` names that of plain
    rows. Raises ``RowsError`` and ``TableError``.
    """
    tables: list[LatencyTable] = []
    plain: list[tuple[RowSet, LatencyTable]] = []
    notes: list[str] = []
    for path in paths:
        if not holds_rows(path):
            tables.append(LatencyTable.load(path))
            continue
        rows = read_rows(path, on_bad=on_bad)
        rows = rows if device is None else rows.of_device(device)
        table = to_table(rows)
        notes.extend(f"{path}: {note}" for note in rows.notes)
        for earlier, other in plain:
            notes.extend(_common(earlier.origin, other, path, table, fatal=on_bad == "error"))
        tables.append(table)
        plain.append((rows, table))
    if device is not None and not plain:
        raise RowsError("latency tables name their device themselves; leave --device out")
    return tables, [rows for rows, _ in plain], notes


def _common(
    earlier: Path, first: LatencyTable, path: Path, second: LatencyTable, *, fatal: bool
) -> list[str]:
    """Return a note on the convolutions of both files; raise where they are too far apart."""
    ratios = {
        shape: row.latency_us / first[shape].latency_us for shape, row in second.items() if shape in first
    }
    if not ratios:
        return []
    far = [shape for shape, ratio in ratios.items() if max(ratio, 1 / ratio) - 1 > AGREE]
    if far and fatal:
        raise RowsError(
            f"{counted(len(far), 'convolution')} of both {earlier} and {path} differ by more than {AGREE:.0%}, "
            f"like {far[0]}; give one of the files, or let the last one count with --on-bad drop"
        )
    return [
        f"{path}: {counted(len(ratios), 'convolution')} also in {earlier}, whose rows are not used"
        + (f"; {len(far)} differ by more than {AGREE:.0%}" if far else "")
    ]
