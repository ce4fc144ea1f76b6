"""Plain rows as a latency table: what a latency model is fitted on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from latency_model.environment import Environment
from latency_model.errors import RowsError
from latency_model.measurement import Measurement
from latency_model.rows.kernels import split_kernels
from latency_model.rows.row_set import RowSet
from latency_model.table import LatencyTable
from latency_model.table_columns import no_collection

__all__ = ["to_table"]

Floats = NDArray[np.float64]


def to_table(rows: RowSet, *, environment: Environment | None = None) -> LatencyTable:
    """Return a table of the rows of method ``given``, of an unknown runtime unless ``environment`` is given.

    The interval is ``low_us`` to ``high_us`` where known, else the spread ``p10_us`` to ``p90_us``, which is wider
    than the interval of a median, else the latency itself. ``p10_us`` and ``p90_us`` stand for the quantiles
    of 5 and 95 % too, and the median for those between. Transposes are the boundary. Shares of several
    kernels are equal, the main one first: they are not known. Raises ``RowsError`` when a row has no latency.
    """
    latency = rows.latency_us
    if latency is None or np.isnan(latency).any():
        raise RowsError(f"{rows.origin} has convolutions without a latency; a table needs one for each")
    if environment is None:
        environment = Environment(rows.device or "unknown device", "unknown", "unknown", "")
    p10, p90 = _known(rows.p10_us, latency), _known(rows.p90_us, latency)
    low, high = _known(rows.low_us, p10), _known(rows.high_us, p90)
    columns = (latency, np.minimum(low, latency), np.maximum(high, latency))
    spread = (np.minimum(p10, latency), np.maximum(p90, latency))
    with no_collection():
        measured = [
            Measurement(
                latency_us=value,
                low_us=lower,
                high_us=upper,
                p5_us=least,
                p25_us=value,
                p75_us=value,
                p95_us=most,
                min_us=least,
                samples=1,
                method="given",
                kernels=kernels,
                boundary_us=boundary,
            )
            for value, lower, upper, least, most, kernels, boundary in zip(
                *(column.tolist() for column in (*columns, *spread)),
                _kernels(rows),
                _boundary(rows),
                strict=True,
            )
        ]
        return LatencyTable(environment, dict(zip(rows.columns, measured, strict=True)))


def _known(values: Floats | None, otherwise: Floats) -> Floats:
    return otherwise if values is None else np.where(np.isnan(values), otherwise, values)


def _kernels(rows: RowSet) -> Iterable[tuple[tuple[str, float], ...]]:
    if rows.kernel_names is None:
        return [()] * len(rows)
    texts = rows.kernel_names.tolist()
    found = {text: split_kernels(text) for text in set(texts)}
    shares = {text: tuple((name, 1 / len(names)) for name in names) for text, names in found.items()}
    return [shares[text] for text in texts]


def _boundary(rows: RowSet) -> list[float | None]:
    ends = [rows.extras[name] for name in ("transpose_in_us", "transpose_out_us") if name in rows.extras]
    if len(ends) < 2:
        return [None] * len(rows)
    return [None if np.isnan(value) else value for value in (ends[0] + ends[1]).tolist()]
