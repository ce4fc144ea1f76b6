"""Errors by size, kernel family, alignment and kernel: every row in one group of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.fit_report.facts import FitFacts
from latency_model.fit_report.figures import Errors
from latency_model.fit_report.text import us_text

__all__ = ["Group", "by_alignment", "by_family", "by_kernel", "by_network_family", "by_size"]

Ints = NDArray[np.int64]

_MOST_FAMILIES = 12
_MOST_KERNELS = 12
_LEAST_PART = 5
_WIDEST = 64


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the rows, and what their predictions are worth."""

    label: str
    errors: Errors


def by_size(facts: FitFacts) -> tuple[Group, ...]:
    """Return the groups of rows by measured latency: ten of nearly equal count, fewer of fewer than 50 rows.

    Equal latencies stay in one group.
    """
    measured = facts.measured_us
    if not len(measured):
        return ()
    parts = min(10, max(1, len(measured) // _LEAST_PART))
    starts = [len(measured) * part // parts for part in range(1, parts)]
    edges = np.unique(np.sort(measured)[starts])
    groups = []
    place = np.searchsorted(edges, measured, side="right")
    for part in np.unique(place):
        of = measured[place == part]
        ends = list(dict.fromkeys(us_text(float(end)) for end in (of.min(), of.max())))
        groups.append(Group(" to ".join(ends), _errors(facts, place == part)))
    return tuple(groups)


def by_family(facts: FitFacts) -> tuple[Group, ...]:
    """Return the groups of rows by kernel family, the largest first, the rare ones as one; () if none is known."""
    if not any(facts.family):
        return ()
    return _named(facts, [name or "unknown" for name in facts.family], _MOST_FAMILIES, "families")


def by_alignment(facts: FitFacts) -> tuple[Group, ...]:
    """Return the groups of rows by the largest power of two, up to 64, that divides both channel counts."""
    both = facts.columns.in_channels | facts.columns.out_channels | _WIDEST
    # The lowest bit that is set in either count is the power of two that divides both.
    power = both & -both
    return tuple(
        Group(f"{p} or more" if p == _WIDEST else str(p), _errors(facts, power == p))
        for p in np.unique(power).tolist()
    )


def by_kernel(facts: FitFacts) -> tuple[Group, ...]:
    """Return the groups of rows by kernel size and kind of grouping, the largest first, the rare ones as one."""
    return _named(facts, _kernels(facts.columns), _MOST_KERNELS, "kernel sizes")


def by_network_family(facts: FitFacts) -> tuple[Group, ...]:
    """Return the groups of networks by family, in alphabetical order."""
    groups = []
    for family in sorted({network.family for network in facts.networks}):
        of = [n for n in facts.networks if n.family == family]
        columns = np.array([(n.measured_us, n.predicted_us, n.low_us, n.high_us) for n in of]).T
        groups.append(Group(family or "unknown", Errors.of(*columns)))
    return tuple(groups)


def _kernels(columns: ConvColumns) -> list[str]:
    sizes = [f"{kind.kernel[0]}x{kind.kernel[1]}" for kind in columns.kinds]
    grouped = columns.groups > 1
    style = np.where(grouped & (columns.groups == columns.in_channels), 2, grouped.astype(np.int64))
    words = ("", " grouped", " depthwise")
    return [sizes[kind] + words[how] for kind, how in zip(columns.kind.tolist(), style.tolist(), strict=True)]


def _named(facts: FitFacts, names: list[str], most: int, rest: str) -> tuple[Group, ...]:
    counts = Counter(names)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    # One that is left over may as well be shown by its name.
    shown = ranked if len(ranked) <= most + 1 else ranked[:most]
    places = {name: place for place, name in enumerate(shown)}
    place = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    groups = [Group(name, _errors(facts, place == at)) for name, at in places.items()]
    if len(shown) < len(ranked):
        groups.append(Group(f"{len(ranked) - len(shown)} other {rest}", _errors(facts, place == -1)))
    return tuple(groups)


def _errors(facts: FitFacts, chosen: NDArray[np.bool_]) -> Errors:
    return Errors.of(
        facts.measured_us[chosen], facts.predicted_us[chosen], facts.low_us[chosen], facts.high_us[chosen]
    )
