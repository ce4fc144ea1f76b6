"""The table of a new device from that of another one and few rows of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.errors import ModelError
from latency_model.lookup.keys import fields_of
from latency_model.regression.geometry import Array
from latency_model.regression.growing import Settings
from latency_model.regression.regressor import RowRegressor
from latency_model.rows import RowSet
from latency_model.transfer.device import DeviceTransfer
from latency_model.transfer.fitting import transfer
from latency_model.transfer.processors import processors_of

__all__ = ["TransferredTable", "transfer_table"]

_KNOWN = 2.0 / 3.0  # of the samples that must be rows of the other device for its order to be tried


@dataclass(frozen=True, eq=False)
class TransferredTable:
    """Microseconds of ``columns`` on the new device; ``source`` is "measured", "transferred" or "extrapolated".

    ``low_us`` and ``high_us`` hold with the confidence asked for; of a measured row they are the file's bounds, or
    the latency itself where it has none.
    """

    columns: ConvColumns
    predicted_us: Array
    low_us: Array
    high_us: Array
    source: tuple[str, ...]
    model: DeviceTransfer


def transfer_table(
    source_rows: RowSet,
    samples: RowSet,
    *,
    wanted: ConvColumns | None = None,
    confidence: float = 0.9,
    units: int | None = None,
    settings: Settings | None = None,
) -> TransferredTable:
    """Return what ``wanted`` takes on the device of ``samples``; all of ``source_rows`` when not given.

    A convolution that the samples hold keeps its measured latency. Both row sets count as measured in the order
    of their files; where most samples are also rows of the other device, that device's order is tried too, for the
    drift that a long run may have. ``units`` is found by the name of the device, else from the samples. Raises
    ``ModelError`` for samples of another precision, too few rows, or rows without latencies.
    """
    known, few = _latencies(source_rows), _latencies(samples)
    missing = _precisions(samples.columns) - _precisions(source_rows.columns)
    if missing:
        raise ModelError(
            f"{samples.origin} has rows of {', '.join(sorted(missing))}, {source_rows.origin} has none; measure "
            "both devices in the same precision"
        )
    source = RowRegressor.fit(source_rows.columns, known, kernels=_kernels(source_rows), settings=settings)
    places = [np.linspace(0.0, 1.0, len(samples))]
    elsewhere = _places(samples.columns, source_rows.columns)
    if (elsewhere >= 0).mean() >= _KNOWN:
        last = max(len(source_rows) - 1, 1)
        places.append(np.where(elsewhere >= 0, elsewhere / last, np.nan))
    model = transfer(
        source,
        samples.columns,
        few,
        kernels=_kernels(samples),
        place=places,
        units=units or processors_of(samples.device),
        settings=settings,
    )
    wanted = source_rows.columns if wanted is None else wanted
    predicted, low, high = model.interval(wanted, confidence=confidence)
    names = np.where(model.beyond(wanted), "extrapolated", "transferred").astype(object)
    held = _places(wanted, samples.columns)
    mine = held >= 0
    rows = held[mine]
    names[mine] = "measured"
    predicted[mine] = few[rows]
    for bound, given in ((low, samples.low_us), (high, samples.high_us)):
        bound[mine] = few[rows] if given is None else np.where(np.isnan(given[rows]), few[rows], given[rows])
    return TransferredTable(wanted, predicted, low, high, tuple(names.tolist()), model)


def _latencies(rows: RowSet) -> Array:
    if rows.latency_us is None or np.isnan(rows.latency_us).any():
        raise ModelError(f"{rows.origin} lacks latencies; a transfer needs one in every row")
    return rows.latency_us


def _kernels(rows: RowSet) -> list[str] | None:
    return None if rows.main_kernels is None else [str(name) for name in rows.main_kernels]


def _precisions(columns: ConvColumns) -> set[str]:
    return {columns.kinds[kind].precision for kind in np.unique(columns.kind)}


def _places(columns: ConvColumns, among: ConvColumns) -> NDArray[np.int64]:
    """Return the place of each of ``columns`` in ``among``, -1 for those that are not there."""
    codes = {kind: code for code, kind in enumerate(among.kinds)}

    def keys(of: ConvColumns) -> list[tuple[Any, ...]]:
        return list(zip(*(field.tolist() for field in fields_of(of, codes)), strict=True))

    place = {key: row for row, key in enumerate(keys(among))}
    return np.array([place.get(key, -1) for key in keys(columns)], dtype=np.int64)
