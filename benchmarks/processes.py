"""Commands that are killed on purpose: started again whenever they end, with what they leave behind in view."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Process", "alive", "children"]


@dataclass
class Process:
    """A command that is started again whenever it ends."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    running: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    exits: list[int] = field(default_factory=list)

    def start(self) -> None:
        self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [sys.executable, "-m", "gharial", *self.command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment,
            )

    def kill(self, target: str) -> bool:
        """Send SIGKILL to the process, one of its children, or its whole group; False without such a one."""
        process = self.running
        assert process is not None
        if process.poll() is not None:
            return False
        if target == "child":
            started = children(process.pid)
            if not started:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(started[0], signal.SIGKILL)
            return True
        os.killpg(process.pid, signal.SIGKILL) if target == "group" else process.kill()
        process.wait()
        return True

    def check(self) -> None:
        """Start it again if it has ended by itself, and remember that it did."""
        if self.running is not None and (code := self.running.poll()) is not None:
            self.exits.append(code)
            self.start()

    def end(self) -> int:
        assert self.running is not None
        self.running.terminate()
        return self.running.wait(timeout=60)


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` started and that have not ended; none where it has ended itself."""
    try:
        text = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []
    return [int(word) for word in text.split()]


def alive(pid: int) -> bool:
    """Return whether the process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
