"""Does the device still run as fast as when the run began? One configuration, the sentinel, says so."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config
from latency_model.shapes import ConvShape
from profiler.journal import Journal

__all__ = ["DRIFT", "Watch", "middling_first"]

DRIFT = 0.05
DRIFT_US = 0.3  # smaller moves are within what the median of a tiny shape does anyway
_READINGS = 2  # a moment's disturbance of the sentinel is not drift: it must be off twice


@dataclass
class Watch:
    """The sentinel of one worker: when it is due, its readings, and what they say of the rows since the last.

    The first row that the worker makes doubles as the first reading, so that a short run costs nothing more.
    """

    journal: Journal
    worker: str
    every_s: float
    checked: float = field(default_factory=time.monotonic)
    readings: list[float] = field(default_factory=list)
    _rows: int = 0

    @property
    def sentinel(self) -> Config | None:
        """The configuration that is measured again and again, None before the first row."""
        known = self.journal.contents.sentinels.get(self.worker)
        return None if known is None else known[0]

    def due(self, *, last: bool = False) -> bool:
        """Whether the sentinel should be read now; at the end (``last``) whenever there are new rows."""
        if self.sentinel is None or not self._rows:
            return False
        return last or time.monotonic() - self.checked >= self.every_s

    def saw(self, config: Config, row: Measurement) -> None:
        """Take notice of a row that is in the journal."""
        self._rows += 1
        if self.sentinel is None:
            self.journal.add_sentinel(config, row.latency_us, drift=False, worker=self.worker)

    def read(self, outcome: Measurement | MeasurementError | str) -> tuple[bool, str]:
        """Take a reading of the sentinel into account; return whether the check is over, and what to tell."""
        sentinel, first_us = self.journal.contents.sentinels[self.worker]
        if not isinstance(outcome, Measurement):
            self._over()
            return True, f"the sentinel {sentinel} could not be measured again: {outcome}"
        self.readings.append(outcome.latency_us)
        if len(self.readings) < _READINGS:
            return False, ""
        now_us = min(self.readings, key=lambda latency_us: abs(latency_us - first_us))
        drift = abs(now_us - first_us) > max(DRIFT * first_us, DRIFT_US)
        rows = len(self.journal.contents.open_segments.get(self.worker, ()))
        self.journal.add_sentinel(sentinel, now_us, drift=drift, worker=self.worker)
        self._over()
        where = f" {self.worker}" if self.worker else ""
        return True, (
            f"the device{where} drifted: {sentinel} took {first_us:.1f} us at first and {now_us:.1f} us now; "
            f"{rows} rows are flagged 'drift'"
            if drift
            else ""
        )

    def _over(self) -> None:
        self.readings.clear()
        self._rows = 0
        self.checked = time.monotonic()


def middling_first(todo: list[Config], count: int) -> list[Config]:
    """Return ``todo`` with ``count`` convolutions of middling work first: they become the sentinels."""
    work = sorted((c for c in todo if isinstance(c, ConvShape)), key=lambda shape: shape.macs)
    start = max(0, min(len(work) // 2, len(work) - count))
    middle = work[start : start + count]
    chosen = set(middle)
    return [*middle, *(config for config in todo if config not in chosen)]
