"""Which configurations are still to be measured, who is to blame for a death, and when to give up on one."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from latency_model.ops import Config

__all__ = ["Work"]

_TRIES = 2


class Work:
    """A queue of configurations, each tried twice at most.

    One whose outcome is an error goes on alone, once. When a worker dies, the one that it was timing alone is
    to blame and is tried once more; of a pack nobody knows which it was, so that each is tried alone, without
    blame. A worker that was lost (with its machine) blames what it timed only from the second time on.
    """

    def __init__(self, configs: Iterable[Config]) -> None:
        self._queue = deque(configs)
        self._alone: deque[Config] = deque()
        self._failures: Counter[Config] = Counter()
        self._losses: Counter[Config] = Counter()

    def __len__(self) -> int:
        return len(self._queue) + len(self._alone)

    def take(self, at_once: int, *, workers: int = 1) -> tuple[Config, ...]:
        """Return the next configurations for one of ``workers``; near the end fewer, so that all have some."""
        if self._alone:
            return (self._alone.popleft(),)
        count = min(at_once, math.ceil(len(self._queue) / workers))
        return tuple(self._queue.popleft() for _ in range(count))

    def failed(self, config: Config) -> bool:
        """Count a failure; return whether it was the last, else ``config`` is queued again, alone."""
        self._failures[config] += 1
        if self._failures[config] >= _TRIES:
            return True
        self._alone.append(config)
        return False

    def died(self, task: Sequence[Config], pending: Sequence[Config], *, lost: bool) -> list[Config]:
        """Queue again what a worker's death left ``pending`` of ``task``; return what is given up instead."""
        if lost:
            self._losses.update(pending)
            first = [config for config in pending if self._losses[config] == 1]
            self._queue.extendleft(reversed(first))
            pending = [config for config in pending if self._losses[config] > 1]
        if len(task) > 1:
            self._alone.extend(pending)
            return []
        return [config for config in pending if self.failed(config)]
