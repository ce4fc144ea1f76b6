"""Connections that wait for the next request."""

from __future__ import annotations

import threading
from http.client import HTTPResponse

from latency_model.client.connection import Connection, Origin

__all__ = ["Pool"]

_KEPT = 8


class Pool:
    """A few open connections for each origin; threads may share one. ``silence_s`` is that of ``Connection``."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._idle: dict[Origin, list[Connection]] = {}
        self._lock = threading.Lock()

    def take(self, origin: Origin) -> Connection:
        """Return a connection that waits, or one that is still to be opened."""
        with self._lock:
            if kept := self._idle.get(origin):
                return kept.pop()
        return Connection(origin, silence_s=self._silence_s)

    def put_back(self, connection: Connection, response: HTTPResponse) -> None:
        """Keep a connection whose answer was read to its end, close any other."""
        whole = response.isclosed() or response.length == 0
        response.close()
        if whole and not response.will_close:
            with self._lock:
                kept = self._idle.setdefault(connection.origin, [])
                if len(kept) < _KEPT:
                    kept.append(connection)
                    return
        connection.close()

    def close(self) -> None:
        """End the connections that wait."""
        with self._lock:
            kept, self._idle = self._idle, {}
        for connection in (each for some in kept.values() for each in some):
            connection.close()
