"""A server's table for a run: fetched once, and kept with the run, so that a resumed one rests on the same revision."""

from __future__ import annotations

import os
from pathlib import Path

from latency_model.errors import InputError
from latency_model.table import LatencyTable

__all__ = ["keep_table", "served_name", "served_table"]

_FILE = "table.parquet"


def served_name(server: str, environment: str | None) -> str:
    """Return what a request calls a server's table: as it was asked for, so that resuming asks nobody."""
    return f"{server.rstrip('/')}#{environment or ''}"


def served_table(server: str, environment: str | None, out: Path, *, restart: bool = False) -> LatencyTable:
    """Return the table that the run in ``out`` holds, else the one that the server has now.

    Raises ``InputError`` where several processes would fetch it, each perhaps another revision.
    """
    kept = out / _FILE
    if kept.is_file() and not restart:
        return LatencyTable.load(kept)
    if int(os.environ.get("WORLD_SIZE", "1") or 1) > 1:
        raise InputError(
            "several processes would each fetch the table; fetch it before, with gharial tables download, and give "
            "it by --table"
        )
    from latency_model.served import served_table as fetched

    return fetched(server, environment)


def keep_table(table: LatencyTable, out: Path) -> None:
    """Write ``table`` into the folder of the run, unless it is there."""
    if not (out / _FILE).is_file():
        table.save(out / _FILE)
