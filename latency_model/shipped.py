"""Tables by name: those that ship with Gharial, beside the packages in a checkout, under share/ when installed."""

from __future__ import annotations

import difflib
import sysconfig
from pathlib import Path

from latency_model.errors import TableError

__all__ = ["find_table", "shipped_tables"]


def shipped_tables() -> tuple[Path, ...]:
    """Return the latency tables that came with this installation, sorted by name."""
    checkout = Path(__file__).resolve().parent.parent / "tables"
    installed = Path(sysconfig.get_path("data")) / "share" / "gharial" / "tables"
    folder = checkout if checkout.is_dir() else installed
    return tuple(sorted(folder.glob("*.parquet")))


def find_table(text: str | Path) -> Path:
    """Return the table that a user means: a path that exists, or the file stem of a table that ships.

    Raises ``TableError`` when it is neither.
    """
    path = Path(text)
    if path.exists():
        return path
    known = {table.stem: table for table in shipped_tables()}
    if str(text) in known:
        return known[str(text)]
    close = difflib.get_close_matches(str(text), known, n=2, cutoff=0.5)
    hint = f", did you mean {' or '.join(close)}?" if close else ""
    raise TableError(
        f"no latency table at {path}{hint}; make one with: gharial profile MODEL --out {path}, or give one of "
        "those that gharial tables list shows"
    )
