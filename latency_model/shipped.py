"""Where the tables that ship with Gharial are: beside the packages in a checkout, under share/ when installed."""

from __future__ import annotations

import sysconfig
from pathlib import Path

__all__ = ["shipped_tables"]


def shipped_tables() -> tuple[Path, ...]:
    """Return the latency tables that came with this installation, sorted by name."""
    checkout = Path(__file__).resolve().parent.parent / "tables"
    installed = Path(sysconfig.get_path("data")) / "share" / "gharial" / "tables"
    folder = checkout if checkout.is_dir() else installed
    return tuple(sorted(folder.glob("*.parquet")))
