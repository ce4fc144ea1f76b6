"""Did the thread have its processor while a row was measured? The counters before and after say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from profiler.cpu_counters import Counters, Usage

__all__ = ["FLAGS", "Conditions"]

FLAGS = ("preempted", "throttled")
WAITED = 0.05  # share of a measurement without a processor from which it counts as preempted
STOLEN = 0.02  # share of all processors' time from which the hypervisor's other guests count


class Conditions:
    """A context manager around a measurement in the calling thread; ``usage`` and ``flags`` hold afterwards."""

    def __init__(self, *, read: Callable[[], Counters] = Counters.read) -> None:
        self._read = read
        self._before: Counters | None = None
        self.usage: Usage | None = None

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            self.usage = self._read().since(self._before)

    @property
    def flags(self) -> tuple[str, ...]:
        """``preempted`` and ``throttled`` where they apply; empty before the measurement has ended."""
        if self.usage is None:
            return ()
        preempted = self.usage.waited > WAITED or (self.usage.stolen or 0.0) > STOLEN
        throttled = (self.usage.throttled_us or 0.0) > 0.0
        return ("preempted",) * preempted + ("throttled",) * throttled
