"""Measurements as JSON: what the journal keeps and what workers send."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from latency_model.measurement import Candidate, Measurement

__all__ = ["row_from_json", "row_to_json"]

_FIELDS = tuple(field.name for field in dataclasses.fields(Measurement))


def row_to_json(row: Measurement) -> dict[str, Any]:
    """Return ``row`` as a JSON-ready dictionary; ``row_from_json`` reads it back."""
    # Not dataclasses.asdict, which copies every value deeply and takes ten times as long.
    data = {name: getattr(row, name) for name in _FIELDS}
    if row.candidates:
        data["candidates"] = [dataclasses.asdict(candidate) for candidate in row.candidates]
    return data


def row_from_json(data: Mapping[str, Any]) -> Measurement:
    """Return the row that ``row_to_json`` wrote, by this version or an earlier one."""
    # Rows share the names of kernels, methods, flags and runs: one copy of each is kept.
    values = {
        "kernels": tuple((sys.intern(str(name)), float(share)) for name, share in data["kernels"]),
        "candidates": tuple(Candidate(**candidate) for candidate in data.get("candidates", ())),
        "flags": tuple(sys.intern(flag) for flag in data["flags"]),
        "method": sys.intern(data["method"]),
        "run_id": sys.intern(data["run_id"]),
        "note": sys.intern(data.get("note", "")),
    }
    return Measurement(**{**data, **values})
