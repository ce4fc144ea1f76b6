"""The worker: leases a job, measures it in isolated processes a stretch at a time, brings back each stretch."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

from profiler.remote.delivery import Delivery
from profiler.remote.outbox import Outbox
from profiler.remote.patience import Patience
from profiler.remote.server import AwayError, Leased, Server
from profiler.remote.work import Work
from profiler.spec import BackendSpec
from profiler.workers import TIME_LIMIT_S, Workers, open_workers

__all__ = ["RemoteWorker"]

_POLL_S = (0.5, 5.0)  # between questions for a job, from the first to the longest


class RemoteWorker:
    """Measures for ``server`` on the device of ``spec`` until ``stop`` is set, with ``once`` until no job waits.

    Rows are in ``folder`` from the moment they are measured until the server has them: a worker that is killed
    and started again with the same folder sends them. After ``stop`` the configuration that is being measured is
    finished, what there is is sent, and the job is given back. ``tell`` is told sentences for the user.
    """

    def __init__(
        self,
        server: Server,
        spec: BackendSpec,
        folder: Path,
        *,
        stop: threading.Event | None = None,
        once: bool = False,
        time_limit_s: float = TIME_LIMIT_S,
        stretch_s: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._server, self._spec, self._folder = server, spec, folder
        self._stop, self._once = stop or threading.Event(), once
        self._time_limit_s, self._stretch_s = time_limit_s, stretch_s
        self._tell = tell or (lambda _: None)
        self._patience = Patience(self._stop, self._tell)

    def run(self) -> int:
        """Work, and return how many jobs were completed.

        Raises ``InputError`` when the device cannot be opened or the token is refused, ``GharialError`` when the
        device is lost: the job has then failed, with that as the reason.
        """
        completed = 0
        with Outbox(self._folder, tell=self._tell) as outbox:
            delivery = Delivery(self._server, outbox, self._patience, tell=self._tell)
            try:
                delivery.earlier()
                while not self._stop.is_set():
                    # Opened anew after an interruption: it may still be busy with what nobody wants any more.
                    with open_workers([self._spec], time_limit_s=self._time_limit_s) as workers:
                        while (lease := self._next(workers)) is not None:
                            done = self._work(workers, outbox, delivery, lease).run()
                            completed += done == "done"
                            if done == "interrupted":
                                break
                        else:
                            break
            except AwayError as away:
                if not self._stop.is_set():
                    raise
                self._tell(f"{away}; what is not sent stays in {self._folder} for the next worker")
        return completed

    def _work(self, workers: Workers, outbox: Outbox, delivery: Delivery, lease: Leased) -> Work:
        return Work(
            lease=lease,
            server=self._server,
            workers=workers,
            outbox=outbox,
            delivery=delivery,
            patience=self._patience,
            stop=self._stop,
            stretch_s=self._stretch_s,
            tell=self._tell,
        )

    def _next(self, workers: Workers) -> Leased | None:
        """Return the next job, None when it is time to end."""
        wait_s, longest_s = _POLL_S
        while not self._stop.is_set():
            lease = self._patience.ask(lambda: self._server.lease(workers.description))
            if lease is not None or self._once:
                return lease
            self._stop.wait(wait_s * random.uniform(0.75, 1.25))
            wait_s = min(longest_s, wait_s * 1.5)
        return None
