"""How a worker waits for a server that is away: longer and longer, never in step with other workers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from profiler.remote.server import AwayError

__all__ = ["Patience"]

_FIRST_S, _LONGEST_S = 0.2, 30.0

_T = TypeVar("_T")


class Patience:
    """Asks again until there is an answer, or until ``stop`` is set and ``grace_s`` have passed since.

    ``tell`` is told once when the server is away, and once when it is back.
    """

    def __init__(
        self,
        stop: threading.Event,
        tell: Callable[[str], None],
        *,
        grace_s: float = 10.0,
        seed: int | None = None,
    ) -> None:
        self._stop, self._tell, self._grace_s = stop, tell, grace_s
        self._rng = random.Random(seed)
        self._stopped: float | None = None

    def ask(self, request: Callable[[], _T]) -> _T:
        """Return the answer to ``request``; raises ``AwayError`` only when it is time to end."""
        waited, attempt = False, 0
        while True:
            try:
                answer = request()
            except AwayError as away:
                if self._over():
                    raise
                if not waited:
                    self._tell(f"{away}; trying again until it does")
                waited = True
                self._rest(max(away.later_s, self._delay_s(attempt)))
                attempt += 1
                continue
            if waited:
                self._tell("the server answers again")
            return answer

    def _delay_s(self, attempt: int) -> float:
        return min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempt, 20)) * self._rng.uniform(0.5, 1.5)

    def _over(self) -> bool:
        if not self._stop.is_set():
            return False
        if self._stopped is None:
            self._stopped = time.monotonic()
        return time.monotonic() - self._stopped >= self._grace_s

    def _rest(self, seconds: float) -> None:
        if self._stop.is_set():
            time.sleep(min(seconds, 0.5))
        else:
            self._stop.wait(seconds)
