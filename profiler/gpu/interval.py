"""An interval that another measurement falls into: the spread between builds counts, not that of samples alone.

Samples of one build share its memory addresses and the device's mood, so their interval is too narrow for what
a later run will see. The latency of a row is the median of its builds' medians m_1 … m_B, and its interval is
the wider of two, each scaled for the *difference of two such latencies*, so that it holds what another run
measures with 95 %:

- within: sqrt(2 / B) times the mean interval of the builds' medians (order statistics);
- between: t(d) s sqrt(pi / (B + 1/2)), s the standard deviation of log m_b. The variance of the median of B
  normal values is close to pi / (2 B + 1) times theirs; two of them differ by twice that.

With a handful of builds s is a poor estimate, so it is moderated by that of other configurations of about the
same latency: s^2 = (d_0 s_0^2 + (B - 1) s_b^2) / (d_0 + B - 1), d = d_0 + B - 1, d_0 at most 8 (the idea of
G. K. Smyth, Linear models and empirical Bayes methods, Stat. Appl. Genet. Mol. Biol. 3, 2004). What differs
between processes and not between builds cannot be seen from inside one; ``process_spread`` is the relative
standard deviation that a comparison of processes on the device found, and is added in quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from profiler.sampling import Sampled

__all__ = ["Combined", "SpreadPool", "combine"]

_PRIOR, _LEVEL, _NORMAL = 8.0, 0.975, 1.96


@dataclass
class SpreadPool:
    """Squared deviations of log medians within configurations, by class of latency (factors of four)."""

    _classes: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, medians_us: Sequence[float], *, times: int = 1) -> None:
        """Add the builds of one configuration; ``times=-1`` takes them out again."""
        squares, freedom = _squares(medians_us)
        total, count = self._classes.get(_class(medians_us), (0.0, 0))
        self._classes[_class(medians_us)] = (total + times * squares, count + times * freedom)

    def prior(self, medians_us: Sequence[float]) -> tuple[float, float]:
        """Return (variance, degrees of freedom) of the other configurations of the class; (0, 0) without any."""
        total, count = self._classes.get(_class(medians_us), (0.0, 0))
        return (max(total, 0.0) / count, min(float(count), _PRIOR)) if count > 0 else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Combined:
    """All samples of the builds, the median of their medians, and the interval for another run."""

    values_us: tuple[float, ...]
    median_us: float
    low_us: float
    high_us: float
    stable: bool


def combine(
    builds: Sequence[Sampled], *, pool: SpreadPool | None = None, process_spread: float = 0.0
) -> Combined:
    """Return the row of ``builds`` of one configuration that chose the same kernels.

    ``pool`` must hold other configurations only. ``stable`` says whether each build was sampled as its policy
    asked; the spread between builds does not count there, as sampling on would not lessen it.
    """
    medians = [build.median_us for build in builds]
    median = float(np.median(medians))
    scale = math.sqrt(2.0 / len(builds))
    below = scale * float(np.mean([build.median_us - build.low_us for build in builds]))
    above = scale * float(np.mean([build.high_us - build.median_us for build in builds]))
    between = median * _between(medians, pool)
    process = median * _NORMAL * math.sqrt(2.0) * process_spread
    return Combined(
        values_us=tuple(value for build in builds for value in build.values_us),
        median_us=median,
        low_us=median - math.hypot(max(below, between), process),
        high_us=median + math.hypot(max(above, between), process),
        stable=all(build.stable for build in builds),
    )


def _between(medians_us: Sequence[float], pool: SpreadPool | None) -> float:
    squares, freedom = _squares(medians_us)
    variance, prior = pool.prior(medians_us) if pool is not None else (0.0, 0.0)
    total = freedom + prior
    if total == 0:
        return 0.0
    s = math.sqrt((squares + prior * variance) / total)
    return float(stdtrit(total, _LEVEL)) * s * math.sqrt(math.pi / (len(medians_us) + 0.5))


def _squares(medians_us: Sequence[float]) -> tuple[float, int]:
    logs = np.log(medians_us)
    return float(((logs - logs.mean()) ** 2).sum()), len(logs) - 1


def _class(medians_us: Sequence[float]) -> int:
    return round(math.log(float(np.median(medians_us)), 4))
