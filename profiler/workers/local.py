"""Worker processes on this machine, one for each device, and a fresh one for each that dies."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from latency_model import errors
from latency_model.errors import InputError, MeasurementError
from profiler.rows import row_from_json
from profiler.spec import BackendSpec
from profiler.workers.base import TIME_LIMIT_S, Description, Died, Done, Event, Ready, Row, Task, same
from profiler.workers.process import Inbox, WorkerProcess

__all__ = ["LocalWorkers"]

_GRACE_S = 5.0
_STARTS = 3  # one that cannot be opened so many times in a row cannot be opened


class LocalWorkers:
    """One process for each of ``specs``. Nothing that happens in one of them happens to the caller.

    A process that dies, or is silent for too long, is replaced by a fresh one. Leaving the context normally
    lets each process close its back end; leaving it by an error or Ctrl-C kills them at once. They also end
    by themselves when the caller does, even by SIGKILL.
    """

    description: Description

    def __init__(self, specs: Sequence[BackendSpec], *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.names = tuple(spec.device for spec in specs)
        self._specs, self._time_limit_s = tuple(specs), time_limit_s
        self._inbox: Inbox = queue.SimpleQueue()
        self._processes: list[WorkerProcess] = []
        self._failed_starts = [0] * len(self._specs)

    def __enter__(self) -> Self:
        try:
            for index in range(len(self._specs)):
                self._processes.append(self._start(index, 0))
            described: dict[int, Description] = {}
            while len(described) < len(self._specs):
                for event in self._messages(None):
                    if isinstance(event, tuple):
                        described[event[0]] = event[1]
            self.description = same(self.names, [described[index] for index in range(len(self._specs))])
        except BaseException:
            self._end(grace_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(grace_s=_GRACE_S if kind is None else 0.0)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers, in order."""
        return tuple(process.pid for process in self._processes)

    def submit(self, worker: int, task: Task) -> None:
        """Send ``task`` to a worker that waits for one."""
        self._processes[worker].give(task)

    def renew(self) -> None:
        """Give every worker a process of its own anew; none of them may have a task."""
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.end(grace_s=_GRACE_S)
        self._processes = [self._start(i, before.start + 1) for i, before in enumerate(self._processes)]
        while not all(process.ready for process in self._processes):
            for event in self._messages(None):
                if isinstance(event, tuple):
                    same((self.names[event[0]],) * 2, (self.description, event[1]))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return all that the workers have sent since the last call, waiting for the first if need be."""
        events: list[Event] = []
        for event in self._messages(seconds):
            if isinstance(event, tuple):
                worker, described = event
                same((self.names[worker],) * 2, (self.description, described))
                events.append(Ready(worker))
            else:
                events.append(event)
        return events

    def _start(self, index: int, start: int) -> WorkerProcess:
        return WorkerProcess(self._specs[index], index, start, self._inbox, time_limit_s=self._time_limit_s)

    def _messages(self, seconds: float | None) -> list[Event | tuple[int, Description]]:
        """Return what arrives within ``seconds`` (None: as long as it takes), and kill who is silent."""
        found: list[Event | tuple[int, Description]] = []
        until = None if seconds is None else time.monotonic() + seconds
        while not found:
            ends = [process.deadline for process in self._processes if process.busy]
            now = time.monotonic()
            wake = min([now + 1.0, *ends, *([] if until is None else [until])])
            try:
                arrived = [self._inbox.get(timeout=max(0.0, wake - now))]
                while not self._inbox.empty():
                    arrived.append(self._inbox.get())
            except queue.Empty:
                self._kill_silent()
                if until is not None and time.monotonic() >= until:
                    break
                continue
            for worker, start, message in arrived:
                if start == self._processes[worker].start:
                    found += self._event(worker, message)
        return found

    def _kill_silent(self) -> None:
        for process in self._processes:
            if process.busy and time.monotonic() >= process.deadline:
                process.hung = True
                what = " without a result (see --time-limit)" if process.ready else ""
                process.kill(f"was stopped after {process.limit_s:.0f} s{what}")
                process.deadline = float("inf")

    def _event(self, worker: int, message: dict[str, Any] | None) -> list[Event | tuple[int, Description]]:
        process = self._processes[worker]
        if message is None:
            return self._died(worker)
        process.touch()
        kind = message["kind"]
        if kind == "ready":
            process.ready = True
            return [(worker, Description.from_json(message))]
        if kind == "refused":
            raise getattr(errors, message["error"], InputError)(message["text"])
        if kind == "broken":
            process.fault = f"gave up after {message['text']}"
            return []
        if kind == "done":
            process.task = None
            if "failed" in message:
                return [Done(worker, MeasurementError(message["failed"]))]
            return [Done(worker, tuple(map(row_from_json, message.get("networks", ()))))]
        config = process.pending.pop(message["config"])
        outcome = row_from_json(message["row"]) if kind == "row" else MeasurementError(message["text"])
        return [Row(worker, config, outcome)]

    def _died(self, worker: int) -> list[Event | tuple[int, Description]]:
        """Replace a process that is gone, and say why it is if it was ready before."""
        process = self._processes[worker]
        reason = process.reason()
        self._failed_starts[worker] = 0 if process.ready else self._failed_starts[worker] + 1
        if self._failed_starts[worker] >= (1 if process.hung else _STARTS):
            raise InputError(
                f"the worker process for {self.names[worker]} {reason} while it opened the back end "
                f"{self._specs[worker].runtime} (try {self._failed_starts[worker]}); --in-process shows the "
                "error itself"
            )
        process.end(grace_s=0.0)
        self._processes[worker] = self._start(worker, process.start + 1)
        return [Died(worker, reason)] if process.ready or process.task is not None else []

    def _end(self, *, grace_s: float) -> None:
        for process in self._processes:
            process.hang_up() if grace_s else process.kill()
        for process in self._processes:
            process.end(grace_s=grace_s)
        self._processes = []
