"""The latencies of the rows of a file, in microseconds, with what is known of their spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import RowsError
from latency_model.rows.cells import Numbers, numbers
from latency_model.rows.problems import Problems, counted
from latency_model.rows.row_set import Unit
from latency_model.rows.source import Source

__all__ = ["EXTRAS", "TIMES", "Latencies", "read_latencies", "read_times"]

# In the order in which they are preferred, with the microseconds of one unit.
_LATENCY: dict[str, tuple[float, Unit]] = {
    "latency_us": (1.0, "us"),
    "latency_ms": (1000.0, "ms"),
    "conv_us": (1.0, "us"),
}
_BOUNDS = {side: {f"{side}_us": 1.0, f"{side}_ms": 1000.0} for side in ("low", "high")}
_SPREAD = {
    "p10_us": {"conv_p10_us": 1.0, "p10_us": 1.0, "p10_ms": 1000.0},
    "p90_us": {"conv_p90_us": 1.0, "p90_us": 1.0, "p90_ms": 1000.0},
}
EXTRAS = ("bias_us", "relu_us", "transpose_in_us", "transpose_out_us")
# Columns of a file that write_predictions made: its low and high belong to the prediction.
_PREDICTED = ("predicted_us", "predicted_ms")
TIMES = (
    *_LATENCY,
    *(name for names in (*_BOUNDS.values(), *_SPREAD.values()) for name in names),
    *EXTRAS,
)
# Two latencies of one row agree within this part, or half of the last of three decimals of a millisecond.
_AGREE, _AGREE_US = 1e-3, 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Latencies:
    """Microseconds per row of the file: NaN where bad. The bounds are None unless the file has both."""

    latency_us: Floats
    unit: Unit
    low_us: Floats | None
    high_us: Floats | None


def read_latencies(source: Source, problems: Problems, notes: list[str], *, needed: bool) -> Latencies | None:
    """Return the latencies of ``source``, None when it has no column of them.

    Raises ``RowsError`` for a ``needed`` column whose unit is not known.
    """
    held = {name: column for name, column in source.columns.items() if name in _LATENCY}
    if not held:
        if needed and "latency" in source.names:
            raise RowsError(
                f"{source.path} has a column latency, of an unknown unit; name it latency_us or latency_ms"
            )
        return None
    names = [name for name in _LATENCY if name in held]
    read = {name: numbers(held[name]) for name in names}
    for name in names:
        problems.add(read[name].text, f"{name} is no number")
    values = np.full(source.count, np.nan)
    for name in names:
        scaled = read[name].values * _LATENCY[name][0]
        with np.errstate(invalid="ignore"):
            apart = np.abs(scaled - values) > np.maximum(_AGREE * np.abs(values), _AGREE_US)
        problems.add(apart, f"{' and '.join(names)} disagree")
        values = np.where(np.isnan(values), scaled, values)
    problems.add(np.isnan(values), f"{' or '.join(names)} is empty or NaN")
    problems.add(np.isinf(values), f"{' or '.join(names)} is infinite")
    problems.add(values <= 0, f"{' or '.join(names)} is zero or negative")
    low, high = _bounds(source, values, problems, notes)
    values[problems.bad] = np.nan
    return Latencies(values, _LATENCY[names[0]][1], low, high)


def _bounds(
    source: Source, latency_us: Floats, problems: Problems, notes: list[str]
) -> tuple[Floats | None, Floats | None]:
    given = {side: [n for n in names if n in source.columns] for side, names in _BOUNDS.items()}
    if not given["low"] and not given["high"]:
        return None, None
    if any(name in source.names for name in _PREDICTED):
        notes.append("its columns low and high belong to predictions and were not used")
        return None, None
    if not all(given.values()):
        notes.append(f"column {(given['low'] or given['high'])[0]} not used: the other bound is missing")
        return None, None
    (low_name, *_), (high_name, *_) = given.values()
    sides = {name: numbers(source.columns[name]) for name in (low_name, high_name)}
    low, high = (side.values * (_BOUNDS["low"] | _BOUNDS["high"])[name] for name, side in sides.items())
    for name, side in sides.items():
        problems.add(side.text, f"{name} is no number")
    problems.add(np.isnan(low) != np.isnan(high), f"one of {low_name} and {high_name} is empty")
    # A bound may be the latency itself, rounded in another unit.
    slack = 1 + 1e-9
    problems.add(
        np.isinf(high) | np.isinf(low) | (low > latency_us * slack) | (high * slack < latency_us) | (low < 0),
        f"{low_name} to {high_name} does not hold the latency",
    )
    return np.minimum(low, latency_us), np.maximum(high, latency_us)


def read_times(source: Source, notes: list[str]) -> dict[str, Floats]:
    """Return the quantiles and the times beside the convolution that ``source`` has; NaN where not known."""
    found = {}
    wanted = {**_SPREAD, **{name: {name: 1.0} for name in EXTRAS}}
    for target, names in wanted.items():
        for name, factor in names.items():
            if name not in source.columns or target in found:
                continue
            read = numbers(source.columns[name])
            values, unusable = _times(read)
            if unusable:
                notes.append(f"column {name} not used in {counted(unusable)}, where it is no time")
            found[target] = values * factor
    return found


def _times(read: Numbers) -> tuple[Floats, int]:
    bad = read.text | np.isinf(read.values) | (read.values < 0)
    return np.where(bad, np.nan, read.values), int(bad.sum())
