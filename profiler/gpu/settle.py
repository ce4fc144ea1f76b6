"""Which of a runtime's searches a row quotes: build again until the choice of kernels is settled.

A library's exhaustive search times its algorithms once or twice and takes the best, so a hiccup of the
device makes it choose another one: on an H100, two builds chose different kernels in 6.9 % of 1,576 rows,
and there the times differ by a median of 59 %. A row therefore rests on several builds: while all agree,
``least`` of them; once two differ, ``most``.

The row quotes the fastest choice that at least two builds made. A search means to find the fastest, so a slow
choice is the accident; a choice that a single build made may be one that a user seldom gets.
``benchmarks/settle_simulation.py`` compares the rules: with the defaults, two runs quote different kernels in
0.0-0.9 % of the rows where hiccups cause the flips. No rule helps where the fast choice itself is a rare
accident, or where the choice depends on the process and not on the build (2-4 % remain).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latency_model.errors import InputError
from latency_model.measurement import Candidate

__all__ = ["SettleRule", "Settled", "settle", "wants_more"]

_WHY = {
    "repeated": "the fastest that at least two builds chose",
    "mode": "the most frequent, of equals the faster",
    "fastest": "the fastest",
    "first": "that of the first build",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleRule:
    """How often to build and what to quote.

    At least ``least`` builds, and ``most`` when they disagree. ``quote``: ``repeated`` is the fastest choice
    that at least two builds made (of single ones the fastest), ``mode`` the most frequent one (of equals the
    faster), ``fastest`` the fastest ever chosen, ``first`` that of the first build.
    """

    least: int = 4
    most: int = 8
    quote: str = "repeated"

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(f"the number of builds must be from 1 to {self.most}, not {self.least}")
        if self.quote not in _WHY:
            raise InputError(f"unknown rule {self.quote!r}; known are {', '.join(_WHY)}")


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome: all candidates, the quoted one first, and a sentence that says why it is quoted."""

    candidates: tuple[Candidate, ...]
    note: str

    @property
    def kernels(self) -> str:
        """What the row quotes."""
        return self.candidates[0].kernels


def wants_more(kernels: Sequence[str], *, rule: SettleRule) -> bool:
    """Whether one more build is needed after builds that chose ``kernels``."""
    return len(kernels) < (rule.least if len(set(kernels)) < 2 else rule.most)


def settle(kernels: Sequence[str], latency_us: Sequence[float], *, rule: SettleRule) -> Settled:
    """Return the candidates of builds that chose ``kernels`` and took ``latency_us``, the quoted one first.

    The latency of a candidate is the median over its builds. Candidates that are not quoted are in order of
    their builds, most first.
    """
    if not kernels or len(kernels) != len(latency_us):
        raise InputError("settling needs one latency for each build, and at least one build")
    times: dict[str, list[float]] = {}
    for name, time_us in zip(kernels, latency_us, strict=True):
        times.setdefault(name, []).append(time_us)
    candidates = [Candidate(name, float(np.median(seen)), len(seen)) for name, seen in times.items()]
    order = sorted(candidates, key=lambda c: (-c.builds, c.latency_us, c.kernels))
    if rule.quote == "first":
        order.sort(key=lambda c: c.kernels != kernels[0])
    elif rule.quote == "fastest":
        order.sort(key=lambda c: c.latency_us > min(other.latency_us for other in candidates))
    elif rule.quote == "repeated":
        quoted = min(order, key=lambda c: (c.builds < 2, c.latency_us))
        order.sort(key=lambda c: c is not quoted)
    return Settled(tuple(order), _note(order, len(kernels), rule))


def _note(order: Sequence[Candidate], builds: int, rule: SettleRule) -> str:
    if builds == 1:
        return "one build"
    if len(order) == 1:
        return f"all {builds} builds chose these kernels"
    return f"{order[0].builds} of {builds} builds chose the quoted kernels: {_WHY[rule.quote]}"
