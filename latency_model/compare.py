"""Two tables row by row: what became faster or slower, beyond the noise and beyond the clock.

How often does the rule cry wolf? Two medians with 95 % intervals of equal width that do *not* differ have
intervals that do not overlap in ``2 (1 - Phi(1.96 * 2 / sqrt 2))`` = 0.56 % of the cases, so about 56 of 10,000
unchanged rows come out FASTER or SLOWER (up to 5 % of them where one interval is far wider than the other; less
with a threshold). ``TableDifference.expected_by_chance`` adds these up for the rows at hand, and ``stands`` marks
the verdicts that hold for all rows at once: their chance times the number of rows is at most 5 % (Bonferroni).
Both take the intervals at their word: if medians vary more between runs than the intervals say, so do alarms.

The idea to confirm a difference in time by one in cycles is that of ``nvbench-compare-robust`` (NVIDIA/nvbench).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from latency_model.measurement import Measurement
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.table_columns import in_order

__all__ = ["REASONS", "VERDICTS", "RowDifference", "TableDifference", "compare", "compare_tables"]

VERDICTS = ("SAME", "FASTER", "SLOWER", "UNCLEAR")
REASONS = {
    "clock": "the difference in time is not one in cycles: the clock made it",
    "wide": "the intervals overlap, but allow for a difference of 10 %",
    "method": "measured by other methods, which may differ by as much",
    "drift": "the device changed speed while one of the two was measured",
    "shared-device": "another program was on the device",
    "throttled": "the clock was held back, and is not known on both sides",
    "threshold": "the difference is below the threshold",
    "one-clock": "judged by time alone: only one side has a clock",
}
# Intervals that overlap settle that two rows are the same if no difference beyond this one fits into them.
_SAME_WITHIN = 0.1
# Kernel traces and graph increments of one convolution were seen to differ by up to 45 %.
_METHODS_WITHIN = 0.5
_Z95 = 1.959963984540054
_ALL_ROWS = 0.05


@dataclass(frozen=True, slots=True)
class RowDifference:
    """One configuration in two tables; ``ratio`` is the second latency over the first.

    ``cycles_ratio`` is the same in SM cycles, None where a clock is unknown. ``kernel_changed`` is None where
    the kernels are unknown. ``reason`` is a key of ``REASONS`` or empty. ``chance`` is how often an unchanged
    row would differ by as much (normal approximation), and ``stands`` whether a FASTER or SLOWER holds for all
    rows compared at once. ``false_alarm`` is how often an unchanged row with such intervals gets one of the two.
    """

    kind: str
    config: str
    first_us: float
    second_us: float
    ratio: float
    cycles_ratio: float | None
    kernel_changed: bool | None
    verdict: str
    reason: str
    chance: float
    false_alarm: float
    stands: bool = False


@dataclass(frozen=True)
class TableDifference:
    """All rows of two tables, compared; counts of those that only one has."""

    rows: tuple[RowDifference, ...]
    environment: tuple[str, ...]
    only_first: int
    only_second: int

    @property
    def counts(self) -> dict[str, int]:
        """Rows by verdict, every verdict present."""
        found = Counter(row.verdict for row in self.rows)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def reasons(self) -> dict[str, int]:
        """Rows by reason, without those that need none."""
        found = Counter(row.reason for row in self.rows)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    @property
    def geometric_mean(self) -> float | None:
        """The geometric mean of the ratios of convolutions and operators, None without any."""
        logs = [math.log(row.ratio) for row in self.rows if row.kind != "network"]
        return math.exp(math.fsum(logs) / len(logs)) if logs else None

    @property
    def kernels_changed(self) -> int:
        """Rows that ran other kernels."""
        return sum(row.kernel_changed is True for row in self.rows)

    @property
    def expected_by_chance(self) -> float:
        """How many FASTER and SLOWER to expect of these rows if nothing had changed."""
        return math.fsum(row.false_alarm for row in self.rows)

    def summary(self) -> dict[str, Any]:
        """Return the counts and means as a JSON-ready dictionary."""
        standing = Counter(row.verdict for row in self.rows if row.stands)
        return {
            "summary": self.counts,
            "stands_for_all_rows": {verdict: standing[verdict] for verdict in ("FASTER", "SLOWER")},
            "reasons": self.reasons,
            "geometric_mean_ratio": self.geometric_mean,
            "kernels_changed": self.kernels_changed,
            "expected_by_chance": self.expected_by_chance,
            "only_in_first": self.only_first,
            "only_in_second": self.only_second,
            "environment_differences": list(self.environment),
        }


_Key = TypeVar("_Key", ConvShape, OpShape)


def compare(
    first: Mapping[_Key, Measurement], second: Mapping[_Key, Measurement], *, threshold: float = 0.0
) -> list[RowDifference]:
    """Return a verdict on each configuration that both have, in the order of their shapes.

    FASTER and SLOWER: the 95 % intervals do not overlap, the medians differ by more than ``threshold`` (0.01:
    by a factor of 1.01), and where both rows have an SM clock the intervals in cycles (latency times clock) do
    not overlap either, in the same direction. SAME: they overlap and leave no room for a difference of 10 %,
    or the difference is below the threshold. UNCLEAR: everything else, with the reason.
    """
    pairs = (
        ("op" if isinstance(config, OpShape) else "conv", config.text, first[config], second[config])
        for config in in_order(set(first) & set(second))
    )
    return _compared(pairs, threshold)


def compare_tables(first: LatencyTable, second: LatencyTable, *, threshold: float = 0.0) -> TableDifference:
    """Compare the convolutions, operators and networks of two tables; see ``compare`` for the rule."""
    pairs: list[tuple[str, str, Measurement, Measurement]] = []
    only = [0, 0]
    networks = [{(n.name, n.shapes): n.measurement for n in table.networks} for table in (first, second)]
    for a, b in ((first.rows, second.rows), (first.ops, second.ops), networks):
        common = a.keys() & b.keys()
        only[0] += len(a) - len(common)
        only[1] += len(b) - len(common)
    for shape in in_order(first.rows.keys() & second.rows.keys()):
        pairs.append(("conv", shape.text, first.rows[shape], second.rows[shape]))
    for op in in_order(first.ops.keys() & second.ops.keys()):
        pairs.append(("op", op.text, first.ops[op], second.ops[op]))
    for key in sorted(networks[0].keys() & networks[1].keys()):
        pairs.append(("network", key[0], networks[0][key], networks[1][key]))
    environment = tuple(first.environment.differences(second.environment))
    return TableDifference(tuple(_compared(pairs, threshold)), environment, only[0], only[1])


def _compared(
    pairs: Iterable[tuple[str, str, Measurement, Measurement]], threshold: float
) -> list[RowDifference]:
    rows = [_row(kind, text, a, b, threshold) for kind, text, a, b in pairs]
    limit = _ALL_ROWS / max(1, len(rows))
    return [
        dataclasses.replace(row, stands=True)
        if row.verdict in ("FASTER", "SLOWER") and row.chance <= limit
        else row
        for row in rows
    ]


def _row(kind: str, text: str, a: Measurement, b: Measurement, threshold: float) -> RowDifference:
    ratio = b.latency_us / a.latency_us
    cycles = None
    if a.sm_clock_mhz and b.sm_clock_mhz:
        cycles = ratio * b.sm_clock_mhz / a.sm_clock_mhz
    verdict, reason = _verdict(a, b, threshold)
    names = [{name for name, _ in row.kernels} for row in (a, b)]
    chance, false_alarm = _chances(a, b, math.log1p(threshold))
    return RowDifference(
        kind,
        text,
        a.latency_us,
        b.latency_us,
        ratio,
        cycles,
        names[0] != names[1] if all(names) else None,
        verdict,
        reason,
        chance,
        false_alarm,
    )


def _direction(a: Sequence[float], b: Sequence[float]) -> int:
    """Return -1 when interval ``b`` lies below ``a``, 1 when above, 0 when they overlap."""
    return -1 if b[1] < a[0] else int(b[0] > a[1])


def _verdict(a: Measurement, b: Measurement, threshold: float) -> tuple[str, str]:
    times = [(row.low_us, row.high_us) for row in (a, b)]
    clocks = (a.sm_clock_mhz, b.sm_clock_mhz)
    effect = abs(math.log(b.latency_us / a.latency_us))
    direction = _direction(*times)
    if direction == 0:
        room = max(_room(a, b), _room(b, a))
        return ("SAME", "") if room <= math.log1p(max(_SAME_WITHIN, threshold)) else ("UNCLEAR", "wide")
    if effect <= math.log1p(threshold):
        return "SAME", "threshold"
    if a.method != b.method and effect < math.log1p(_METHODS_WITHIN):
        return "UNCLEAR", "method"
    flags = {*a.flags, *b.flags}
    for flag in ("drift", "shared-device"):
        if flag in flags:
            return "UNCLEAR", flag
    reason = ""
    if clocks[0] and clocks[1]:
        cycles = [
            (low * clock, high * clock) for (low, high), clock in zip(times, clocks, strict=True) if clock
        ]
        if _direction(*cycles) != direction:
            return "UNCLEAR", "clock"
    elif any(flag.partition(":")[0] == "throttled" for flag in flags):
        return "UNCLEAR", "throttled"
    elif clocks[0] or clocks[1]:
        reason = "one-clock"
    return ("FASTER" if direction < 0 else "SLOWER"), reason


def _room(a: Measurement, b: Measurement) -> float:
    """Return the largest log ratio of ``b`` over ``a`` that both intervals allow."""
    return math.log(b.high_us / a.low_us) if a.low_us > 0 else math.inf


def _chances(a: Measurement, b: Measurement, log_threshold: float) -> tuple[float, float]:
    """Return how often unchanged medians differ by as much as these, and how often the rule cries wolf.

    The errors of the two are taken as normal with the standard deviations that their 95 % intervals imply.
    """
    halves = [(row.high_us - row.low_us) / 2 for row in (a, b)]
    spread = math.hypot(*halves) / _Z95
    if spread == 0:
        return float(a.latency_us == b.latency_us), 0.0
    needed = max(sum(halves), math.expm1(log_threshold) * min(a.latency_us, b.latency_us))
    difference = abs(b.latency_us - a.latency_us)
    return math.erfc(difference / spread / math.sqrt(2)), math.erfc(needed / spread / math.sqrt(2))
