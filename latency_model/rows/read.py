"""Read a plain file of convolutions and latencies: every row checked, equal ones joined, nothing silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import RowsError
from latency_model.rows.cells import words
from latency_model.rows.duplicates import group, merge
from latency_model.rows.equal_rows import interval, report_equal, widest
from latency_model.rows.geometry import GEOMETRY, Geometry
from latency_model.rows.latencies import EXTRAS, TIMES, read_latencies, read_times
from latency_model.rows.problems import Problems, counted
from latency_model.rows.row_set import Defaults, RowSet
from latency_model.rows.source import Source, read_source

__all__ = ["AGREE", "read_rows"]

# Equal rows may differ by this part: 5 % of repeated measurements of one kernel on a GPU differ by more.
AGREE = 0.10
_KERNELS = ("kernel_name", "conv_kernel_names", "main_kernel")
_OTHER = (*_KERNELS, "device", "kind")
# What runs beside the convolution in the session that the H100 probe traces, which is of half precision, NHWC.
_TRACED = set(EXTRAS)
_TABLE_KINDS = {"conv", "op", "network", "failure"}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def read_rows(
    path: Path | str,
    *,
    latency: Literal["needed", "optional"] = "needed",
    on_bad: Literal["error", "drop"] = "error",
    agree: float = AGREE,
    defaults: Defaults | None = None,
) -> RowSet:
    """Return the convolutions of a ``.parquet``, ``.csv`` or ``.csv.gz`` file, each once, in order of first sight.

    Columns: ``batch, in_channels, out_channels, height, kernel_size``; where there, ``width`` (else square),
    ``stride`` (1), ``padding`` (kernel_size // 2), ``dilation`` (1), ``groups`` (1), ``precision``, ``layout``,
    ``pattern`` (else of ``defaults``), and those of the second axis as in ``gharial tables export``; the latency
    as ``latency_us``, ``latency_ms`` or ``conv_us``; ``low_…`` and ``high_…``, kernel names, ``device``. Other
    columns are ignored. A file with the probe's ``bias_us``, ``relu_us``, ``transpose_in_us`` and ``transpose_out_us``
    is taken for fp16, nhwc.

    A row that describes no convolution, or has no positive finite latency, is an error, or with ``on_bad="drop"``
    left out with a note. Equal rows are joined to their median; where they differ by more than the part
    ``agree`` that is an error, or with ``"drop"`` a note and a wide interval. With ``latency="optional"``
    latencies may be missing, and a bad one or one that differs only makes a note. Row numbers count from 1
    without the header. Raises ``RowsError``.
    """
    if latency not in ("needed", "optional") or on_bad not in ("error", "drop"):
        raise RowsError(
            f"latency is needed or optional and on_bad error or drop, not {latency!r}, {on_bad!r}"
        )
    source = read_source(Path(path), {*GEOMETRY, *TIMES, *_OTHER})
    needed, drop = latency == "needed", on_bad == "drop"
    notes: list[str] = []
    out = _not_convolutions(source, notes)
    if defaults is None:
        traced = set(source.names) >= _TRACED
        defaults = Defaults(precision="fp16", layout="nhwc") if traced else Defaults()
    device = _device(source)
    shapes, times = Problems(source.count), Problems(source.count)
    shapes.bad |= out
    geometry = Geometry(source, defaults, shapes)
    if geometry.assumed:
        notes.append(f"assumed, as the file does not say: {', '.join(geometry.assumed)}")
    times.bad |= shapes.bad
    given = read_latencies(source, times, notes, needed=needed)
    if given is None and needed:
        raise RowsError(
            f"{source.path} has no column latency_us or latency_ms, only {', '.join(source.names)}; add one"
        )
    _report(source, shapes, times, needed=needed, drop=drop, notes=notes)
    good = np.flatnonzero(~(times.bad if needed else shapes.bad))
    if not len(good):
        raise RowsError(f"{source.path} has no row left of {source.count}; correct its rows")
    first, within = group([column[good] for column in geometry.keys])
    latencies = np.full(source.count, np.nan) if given is None else given.latency_us
    merged = merge(within, latencies[good])
    report_equal(source, good, within, merged, agree=agree, fatal=needed and not drop, notes=notes)
    place = np.full(source.count, -1, dtype=np.int64)
    place[good] = within
    typical = good[merged.typical]
    spread = read_times(source, notes)
    low, high = interval(given, merged, good, within)
    return RowSet(
        origin=source.path,
        columns=geometry.columns(good[first]),
        place=place,
        unit=defaults.unit if given is None else given.unit,
        latency_us=None if given is None else merged.median,
        low_us=low,
        high_us=high,
        p10_us=widest(spread.pop("p10_us", None), good, within, np.fmin),
        p90_us=widest(spread.pop("p90_us", None), good, within, np.fmax),
        kernel_names=_kernel_names(source, typical),
        extras={name: values[typical] for name, values in spread.items()},
        device=device,
        notes=tuple(notes),
    )


def _not_convolutions(source: Source, notes: list[str]) -> NDArray[np.bool_]:
    """Return which rows are of other operators, as an export of a latency table has them."""
    if "kind" in source.columns:
        read = words(source.columns["kind"])
        if set(read.words) <= _TABLE_KINDS and (read.codes >= 0).all():
            other = np.array([word != "conv" for word in read.words], dtype=bool)[read.codes]
            if other.any():
                notes.append(f"{counted(int(other.sum()))} left out, of other operators by the column kind")
            return other
    return np.zeros(source.count, dtype=bool)


def _device(source: Source) -> str | None:
    if "device" not in source.columns:
        return None
    found = [word for word in words(source.columns["device"]).words if word]
    if len(found) > 1:
        raise RowsError(
            f"{source.path} has rows of {len(found)} devices ({', '.join(found[:3])}); split it, one file for each"
        )
    return found[0] if found else None


def _report(
    source: Source, shapes: Problems, times: Problems, *, needed: bool, drop: bool, notes: list[str]
) -> None:
    """Raise for bad rows, or note them."""
    fatal = [problems.text for problems in ((shapes, times) if needed else (shapes,)) if problems]
    if fatal and not drop:
        raise RowsError(
            f"{source.path}: {', '.join(fatal)}; correct them, or leave such rows out with --on-bad drop "
            '(in Python on_bad="drop")'
        )
    notes.extend(f"left out: {text}" for text in fatal)
    if not needed and times:
        notes.append(f"no latency to compare with: {times.text}")


def _kernel_names(source: Source, typical: Ints) -> NDArray[Any] | None:
    for name in _KERNELS:
        if name in source.columns:
            read = words(source.columns[name])
            return np.array([*read.words, ""], dtype=object)[read.codes[typical]]
    return None
