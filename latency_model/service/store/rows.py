"""Rows into the database and out of it; ``putting`` and ``reading`` hold the code."""

from __future__ import annotations

from latency_model.service.store.putting import PutReport, put, put_file, put_rows
from latency_model.service.store.reading import (
    EnvironmentInfo,
    Latencies,
    environment,
    environments,
    latencies,
    read,
    save_table,
    snapshot,
    stream,
)

__all__ = [
    "EnvironmentInfo",
    "Latencies",
    "PutReport",
    "environment",
    "environments",
    "latencies",
    "put",
    "put_file",
    "put_rows",
    "read",
    "save_table",
    "snapshot",
    "stream",
]
