"""Write predictions, one for each row of the file that was asked about, in its order."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from latency_model.errors import RowsError
from latency_model.files import write_atomic
from latency_model.rows.row_set import RowSet
from latency_model.rows.source import suffix_of

__all__ = ["write_predictions"]

Floats = NDArray[np.float64]


def write_predictions(
    path: Path | str,
    *,
    rows: RowSet,
    predicted_us: Floats,
    low_us: Floats,
    high_us: Floats,
    source: Sequence[str] | None = None,
) -> None:
    """Write ``predicted_ms, low_ms, high_ms`` (``_us`` when ``rows.unit`` is that), and ``source`` if given.

    The values are of shape (m,), one per convolution of ``rows``; the file has one row per row of theirs, in its
    order. A row that was left out stays empty, and its source is ``left out``. CSV (nine significant digits) or
    Parquet by the ending of ``path``, atomically. Raises ``RowsError`` for another ending, values that are not
    one per convolution, or one that is not finite.
    """
    path = Path(path)
    suffix = suffix_of(path)
    scale = 1e-3 if rows.unit == "ms" else 1.0
    columns: dict[str, Any] = {}
    for name, values in (("predicted", predicted_us), ("low", low_us), ("high", high_us)):
        if not np.isfinite(values).all():
            raise RowsError(
                f"{name} holds values that are not finite; predict every row before writing {path}"
            )
        columns[f"{name}_{rows.unit}"] = rows.in_file_order(values) * scale
    if source is not None:
        if len(source) != len(rows):
            raise RowsError(
                f"{len(source)} sources do not belong to {len(rows)} convolutions; give one for each"
            )
        words = np.array([*source, "left out"], dtype=object)
        columns["source"] = words[rows.place]
    write = {".parquet": _parquet, ".csv": _csv, ".csv.gz": _csv_gz}[suffix]
    write_atomic(path, lambda target: write(target, columns))


def _parquet(path: Path, columns: dict[str, Any]) -> None:
    table = {
        name: pa.array(values, pa.string() if name == "source" else pa.float64(), from_pandas=True)
        for name, values in columns.items()
    }
    pq.write_table(pa.table(table), path, compression="zstd")


def _csv(path: Path, columns: dict[str, Any]) -> None:
    path.write_bytes(_csv_text(columns))


def _csv_gz(path: Path, columns: dict[str, Any]) -> None:
    # No time in the head of the file: equal predictions make equal files.
    path.write_bytes(gzip.compress(_csv_text(columns), mtime=0))


def _csv_text(columns: dict[str, Any]) -> bytes:
    texts = [
        values.tolist() if name == "source" else ["" if np.isnan(v) else f"{v:.9g}" for v in values.tolist()]
        for name, values in columns.items()
    ]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*texts, strict=True))
    return buffer.getvalue().encode()
