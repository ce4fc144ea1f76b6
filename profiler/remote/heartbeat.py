"""Keeping a lease while its rows are measured, and learning that there is no longer one to keep."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from profiler.remote.server import AwayError, OverError, RefusedError, Server

__all__ = ["Heartbeat"]


class Heartbeat:
    """A thread that prolongs ``lease`` three times in ``lease_s``; a context manager.

    ``over`` is empty as long as there is something to measure, then the state of the job (``cancelled``), or
    ``lost`` when another worker has it. A server that is away changes nothing: nobody can take the job from it.
    """

    def __init__(self, server: Server, lease: str, lease_s: float) -> None:
        self._server, self._lease, self._every_s = server, lease, lease_s / 3.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.over = ""

    def _beat(self) -> None:
        wait_s = self._every_s
        while not self._end.wait(wait_s):
            wait_s = self._every_s
            try:
                state = self._server.heartbeat(self._lease)
            except AwayError as away:
                wait_s = max(away.later_s, min(self._every_s, 1.0))
                continue
            except (OverError, RefusedError):
                state = "lost"
            if state != "leased" and not self._end.is_set():
                self.over = state
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        # It may wait for a server that is away; it only reads, so it can be left alone.
        self._thread.join(timeout=1.0)
