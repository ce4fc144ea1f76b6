"""A worker of a Gharial server: takes jobs over HTTP, measures them here, and brings the rows back."""

from __future__ import annotations

from typing import Any

__all__ = ["RemoteWorker", "Server"]


def __getattr__(name: str) -> Any:
    if name == "Server":
        from profiler.remote.server import Server

        return Server
    if name == "RemoteWorker":
        from profiler.remote.worker import RemoteWorker

        return RemoteWorker
    raise AttributeError(f"module 'profiler.remote' has no attribute {name!r}")
