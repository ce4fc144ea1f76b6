"""Two tables row by row: which convolutions became faster or slower, beyond the noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latency_model.measurement import Measurement
from latency_model.shapes import ConvShape

__all__ = ["VERDICTS", "RowDifference", "compare"]

VERDICTS = ("SAME", "FASTER", "SLOWER", "UNCLEAR")
# Intervals that overlap settle nothing unless they are at most this wide, relative to the latency.
_NARROW = 0.1


@dataclass(frozen=True, slots=True)
class RowDifference:
    """One configuration in two tables; ``ratio`` is the second latency over the first."""

    shape: ConvShape
    first_us: float
    second_us: float
    ratio: float
    verdict: str


def compare(
    first: Mapping[ConvShape, Measurement], second: Mapping[ConvShape, Measurement]
) -> list[RowDifference]:
    """Return a verdict on each configuration that both have, in the order of their shapes.

    FASTER and SLOWER: the 95 % intervals do not overlap, and the second is below or above. SAME: they
    overlap and neither is wider than a tenth of its latency. UNCLEAR: they overlap but one is wide.
    """
    found = []
    for shape in sorted(set(first) & set(second)):
        a, b = first[shape], second[shape]
        if b.high_us < a.low_us:
            verdict = "FASTER"
        elif b.low_us > a.high_us:
            verdict = "SLOWER"
        else:
            wide = any(row.high_us - row.low_us > _NARROW * row.latency_us for row in (a, b))
            verdict = "UNCLEAR" if wide else "SAME"
        found.append(RowDifference(shape, a.latency_us, b.latency_us, b.latency_us / a.latency_us, verdict))
    return found
