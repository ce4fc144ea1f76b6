"""From the builds of one configuration to its row in a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config
from profiler.gpu.builds import BuildResult
from profiler.gpu.check import tolerance
from profiler.gpu.interval import SpreadPool, combine
from profiler.gpu.program import GpuState
from profiler.gpu.settle import SettleRule, settle, wants_more

__all__ = ["RowBuilder", "state_flags"]


def state_flags(states: Sequence[GpuState]) -> tuple[str, ...]:
    """Return the flags that the states of a device while it measured give a row."""
    reasons = sorted({reason for state in states for reason in state.throttle})
    shared = any(state.others for state in states)
    return (*(f"throttled:{reason}" for reason in reasons), *(("shared-device",) if shared else ()))


@dataclass
class RowBuilder:
    """Collects the builds of ``config`` until they are settled, or one build fails."""

    config: Config
    rule: SettleRule
    results: list[BuildResult] = field(default_factory=list)
    failure: MeasurementError | None = None

    @property
    def method(self) -> str | None:
        """By which method it is measured; None before the first build."""
        return self.results[0].method if self.results else None

    @property
    def keys(self) -> list[str]:
        """What each build chose."""
        return [result.reading.key for result in self.results]

    @property
    def medians_us(self) -> list[float]:
        """What each build took."""
        return [result.reading.sampled.median_us for result in self.results]

    @property
    def done(self) -> bool:
        """Whether no more builds are wanted."""
        return self.failure is not None or not wants_more(self.keys, rule=self.rule)

    def is_new(self, key: str) -> bool:
        """Whether no build has chosen these kernels before."""
        return key not in self.keys

    def add(self, outcome: BuildResult | MeasurementError) -> None:
        """Take one more build into account."""
        if isinstance(outcome, BuildResult):
            self.results.append(outcome)
        else:
            self.failure = outcome

    @property
    def quoted(self) -> list[BuildResult]:
        """The builds that chose what the row quotes."""
        settled = settle(self.keys, self.medians_us, rule=self.rule)
        return [result for result in self.results if result.reading.key == settled.kernels]

    @property
    def quoted_us(self) -> list[float]:
        """The medians of the builds that the row quotes."""
        return [result.reading.sampled.median_us for result in self.quoted]

    def row(self, *, pool: SpreadPool, process_spread: float, run_id: str) -> Measurement:
        """Return the row; ``MeasurementError`` when not a single build could be measured."""
        if not self.results:
            raise self.failure or MeasurementError(f"no build was measured: {self.config}")
        settled = settle(self.keys, self.medians_us, rule=self.rule)
        quoted = self.quoted
        readings = [result.reading for result in quoted]
        combined = combine([r.sampled for r in readings], pool=pool, process_spread=process_spread)
        if not combined.median_us > 0:
            raise MeasurementError(f"the kernels take no time that can be measured: {self.config}")
        p5, p25, p75, p95 = (float(q) for q in np.quantile(combined.values_us, (0.05, 0.25, 0.75, 0.95)))
        error = max((r.error for r in quoted if r.error is not None), default=None)
        states = [result.state for result in quoted]
        boundaries = [r.boundary_us for r in readings if r.boundary_us is not None]
        return Measurement(
            latency_us=combined.median_us,
            low_us=combined.low_us,
            high_us=combined.high_us,
            p5_us=p5,
            p25_us=p25,
            p75_us=p75,
            p95_us=p95,
            min_us=min(combined.values_us),
            samples=len(combined.values_us),
            method=quoted[0].method,
            kernels=readings[0].kernels,
            cold_us=next((r.cold_us for r in quoted if r.cold_us is not None), None),
            boundary_us=float(np.median(boundaries)) if boundaries else None,
            error=error,
            candidates=settled.candidates if settled.kernels else (),
            sm_clock_mhz=_median(states, lambda state: state.sm_clock_mhz),
            temperature_c=_median(states, lambda state: state.temperature_c),
            power_w=_median(states, lambda state: state.power_w),
            note=self._note(settled.note),
            flags=self._flags(stable=combined.stable, error=error),
            run_id=run_id,
            measured_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def _flags(self, *, stable: bool, error: float | None) -> tuple[str, ...]:
        own = {flag for result in self.quoted for flag in result.reading.flags}
        flags = [*sorted(own), *state_flags([result.state for result in self.quoted])]
        if not stable:
            flags.append("unstable")
        if error is not None and error > tolerance(self.config.precision):
            flags.append("wrong-output")
        return tuple(flags)

    def _note(self, why: str) -> str:
        parts = [why] if self.results[0].reading.key else ["the names of the kernels are not known"]
        if self.failure is not None:
            parts.append(f"build {len(self.results) + 1} failed: {self.failure}")
        if (among := self.results[0].among) > 1:
            parts.append(f"run among {among - 1} other configurations")
        return "; ".join(parts)


def _median(states: Sequence[GpuState], value: Callable[[GpuState], float | None]) -> float | None:
    known = [v for v in map(value, states) if v is not None]
    return statistics.median(known) if known else None
