"""One worker process seen from its parent: start it, feed it, say how it died."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, BinaryIO

from latency_model.ops import Config
from profiler.spec import BackendSpec
from profiler.workers.base import Task
from profiler.workers.frames import read_frame, write_frame

__all__ = ["Inbox", "WorkerProcess"]

# (worker, which start of it, message); None as the message is the end of its pipe.
Inbox = queue.SimpleQueue[tuple[int, int, dict[str, Any] | None]]
_COMMAND = "from profiler.workers.child import main; main()"
_TAIL = 4096
OPEN_S = 120.0  # to import a runtime and wake a device, whatever the limit of a configuration is


class WorkerProcess:
    """A child process with a pipe each way. What it sends goes to ``inbox``, marked with ``index`` and ``start``.

    ``task`` is what it is doing, ``pending`` which configurations of it have no outcome yet.
    """

    def __init__(
        self, spec: BackendSpec, index: int, start: int, inbox: Inbox, *, time_limit_s: float
    ) -> None:
        self.start, self._time_limit_s = start, time_limit_s
        self.task: Task | None = None
        self.pending: dict[str, Config] = {}
        self.fault = ""
        self.ready = self.hung = False
        # A file and not a pipe: nobody has to empty it, and its end is there when the process is not.
        self._errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(part or os.curdir for part in sys.path)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.touch()
        self._reader = threading.Thread(target=self._read, args=(index, inbox), daemon=True)
        self._reader.start()
        self._send({"spec": spec.to_json(), "parent": os.getpid()})

    def _read(self, index: int, inbox: Inbox) -> None:
        try:
            while (frame := read_frame(self._stdout)) is not None:
                inbox.put((index, self.start, frame[0]))
        finally:
            inbox.put((index, self.start, None))

    def _send(self, data: dict[str, Any], models: tuple[bytes, ...] = ()) -> None:
        # When it is gone the reader says so, with the state in which it left its task.
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._stdin, data, models)

    def give(self, task: Task) -> None:
        """Send a task and start the clock."""
        self.task = task
        self.pending = {config.text: config for config in task.configs}
        self.touch()
        self._send({"run_id": task.run_id, "configs": list(self.pending)}, task.models)

    def touch(self) -> None:
        """Start the clock anew: the worker has shown that it lives."""
        self.deadline = time.monotonic() + self.limit_s

    @property
    def limit_s(self) -> float:
        """How long the process may be silent in what it does now."""
        if not self.ready:
            return max(self._time_limit_s, OPEN_S)
        return self._time_limit_s if self.task is None else self.task.limit_s(self._time_limit_s)

    @property
    def busy(self) -> bool:
        """Whether something is awaited of it: that it opens its back end, or a task's outcomes."""
        return not self.ready or self.task is not None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self, fault: str = "") -> None:
        """End the process at once; ``fault`` is then the reason of its death."""
        self.fault = self.fault or fault
        self._process.kill()

    def reason(self) -> str:
        """Return how the process died, as the end of the sentence "the worker process …"."""
        code = self._process.wait()
        said = self._last_words()
        if self.fault:
            return self.fault
        if code < 0:
            number = -code
            name = signal.Signals(number).name if number in signal.valid_signals() else "unknown"
            how = f"was killed by signal {number} ({name})"
            if number == signal.SIGKILL:
                how += ", as the system does when memory runs out,"
        else:
            how = f"ended with exit code {code}"
        return how + (f" saying {said!r}" if said else "")

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _TAIL))
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")

    def hang_up(self) -> None:
        """Close the pipe: an idle process frees its device and ends."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def end(self, *, grace_s: float) -> None:
        """Hang up, give the process ``grace_s`` to end by itself, then kill it, and reap it."""
        self.hang_up()
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        # A process that the runtime started may still hold the pipe; the reader is a daemon and may stay.
        self._reader.join(timeout=1.0)
        if not self._reader.is_alive():
            self._stdout.close()
