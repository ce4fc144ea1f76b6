"""When to stop timing: warm-up by convergence, then samples until the median is known well enough.

The interval of the median is the order-statistic (sign test) interval: it assumes nothing about the
distribution of the times, so no sample has to be thrown away as an outlier. See David and Nagaraja, Order
Statistics, 3rd ed., section 7.1.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement

__all__ = ["Policy", "Sampled", "collect", "interval_ranks", "measurement", "summarise", "warm_up"]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long to sample: to a relative or absolute width of the interval, or to a cap.

    Both widths are of the whole 95 % interval of the median, which is looked at from ``min_samples`` on. The
    caps are ``max_samples`` and ``max_seconds``, but ``least_samples`` are taken whatever they cost.
    """

    relative: float = 0.005
    absolute_us: float = 0.1
    min_samples: int = 21
    least_samples: int = 7
    max_samples: int = 4000
    max_seconds: float = 0.15
    warm_up_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Sampled:
    """Samples in the order they were drawn, their median, and its 95 % interval, in microseconds."""

    values_us: tuple[float, ...]
    median_us: float
    low_us: float
    high_us: float
    stable: bool

    @property
    def width_us(self) -> float:
        """Width of the interval of the median."""
        return self.high_us - self.low_us


@functools.lru_cache(maxsize=4096)
def interval_ranks(n: int) -> tuple[int, int] | None:
    """Return the 0-based ranks that bound the median of ``n`` samples at 95 %; None when ``n`` is too small.

    The ranks are the narrowest symmetric ones: the median of any continuous distribution lies between them
    with probability of at least 0.95. Six samples are the fewest that can do that.
    """
    tail, total, scale = 0, 0.0, -n * math.log(2.0)
    for below in range(n // 2):
        log_term = math.lgamma(n + 1) - math.lgamma(below + 1) - math.lgamma(n - below + 1) + scale
        total += math.exp(log_term)
        if total > (1.0 - CONFIDENCE) / 2:
            break
        tail = below + 1
    return (tail - 1, n - tail) if tail else None


def summarise(values_us: Sequence[float], *, policy: Policy) -> Sampled:
    """Return the median of ``values_us``, its interval, and whether that is as narrow as ``policy`` asks."""
    ordered = np.sort(np.asarray(values_us, dtype=np.float64))
    median = float(np.median(ordered))
    ranks = interval_ranks(len(ordered))
    low, high = ranks if ranks is not None else (0, len(ordered) - 1)
    low_us, high_us = float(ordered[low]), float(ordered[high])
    wanted = max(policy.relative * abs(median), policy.absolute_us)
    stable = ranks is not None and high_us - low_us <= wanted
    return Sampled(tuple(values_us), median, low_us, high_us, stable)


def warm_up(draw: Callable[[], float], *, policy: Policy, block: int = 5, tolerance: float = 0.02) -> int:
    """Draw until two successive blocks have medians within ``tolerance``; return the number of draws.

    Gives up silently at ``policy.warm_up_seconds``: the sampling that follows says whether it was stable.
    """
    start, draws, before = time.perf_counter(), 0, math.inf
    while True:
        seen: list[float] = []
        for _ in range(block):
            seen.append(draw())
            draws += 1
            if time.perf_counter() - start > policy.warm_up_seconds:
                return draws
        now = float(np.median(seen))
        if abs(now - before) <= tolerance * abs(now):
            return draws
        before = now


def collect(draw: Callable[[], float], *, policy: Policy) -> Sampled:
    """Draw samples (microseconds) until their median is known as well as ``policy`` asks, or a cap is met."""
    start, values, look = time.perf_counter(), [], policy.min_samples
    while True:
        values.append(draw())
        late = time.perf_counter() - start >= policy.max_seconds and len(values) >= policy.least_samples
        if len(values) < look and not late:
            continue
        sampled = summarise(values, policy=policy)
        if sampled.stable or late or len(values) >= policy.max_samples:
            return sampled
        # Look rarely: sorting at every sample would cost more than drawing it.
        look = min(len(values) + max(5, len(values) // 5), policy.max_samples)


def measurement(
    sampled: Sampled,
    *,
    method: str,
    run_id: str,
    minus: Sampled | None = None,
    flags: Sequence[str] = (),
) -> Measurement:
    """Return ``sampled`` as a row, less the median of ``minus`` (an overhead measured on its own).

    The interval is widened by that of ``minus``. Raises ``MeasurementError`` when nothing positive is left.
    """
    values = np.asarray(sampled.values_us)
    offset, below, above = (minus.median_us, minus.low_us, minus.high_us) if minus else (0.0, 0.0, 0.0)
    latency = sampled.median_us - offset
    if not latency > 0.0:
        raise MeasurementError(
            f"the time cannot be told from the overhead of the sink ({sampled.median_us:.3f} us against "
            f"{offset:.3f} us); the machine is busy or the convolution too small to time"
        )
    p5, p25, p75, p95 = (float(q) - offset for q in np.quantile(values, (0.05, 0.25, 0.75, 0.95)))
    return Measurement(
        latency_us=latency,
        low_us=sampled.low_us - above,
        high_us=sampled.high_us - below,
        p5_us=p5,
        p25_us=p25,
        p75_us=p75,
        p95_us=p95,
        min_us=float(values.min()) - offset,
        samples=len(values),
        method=method,
        flags=tuple(flags) if sampled.stable else (*flags, "unstable"),
        run_id=run_id,
        measured_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
