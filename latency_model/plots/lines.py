"""Staircases: the latency of one site over one channel count, a line for each of some values of the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from latency_model.errors import InputError, TableError
from latency_model.plots.points import Point, SitePoints
from latency_model.plots.style import aligned_to

__all__ = ["Line", "Staircase", "staircase"]

_MOST_LINES = 5
_HOLE = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One staircase; ``counts`` ascend and every sequence is parallel to them.

    ``aligned`` tells whether a count is a multiple of what tensor cores want; where the measured counts are
    all unaligned or the device is a CPU, every count is. ``envelope_us`` is the least latency of this count
    and all larger ones of the line, which padding with zero channels reaches.
    """

    label: str
    table: int
    colour: int
    counts: tuple[int, ...]
    points: tuple[Point, ...]
    aligned: tuple[bool, ...]
    envelope_us: tuple[float, ...]

    @property
    def changes(self) -> list[float]:
        """Where the kernel changes: halfway between two neighbouring counts whose kernels differ."""
        pairs = [(c, p.kernel) for c, p, ok in zip(self.counts, self.points, self.aligned, strict=True) if ok]
        return [
            (before[0] + after[0]) / 2
            for before, after in pairwise(pairs)
            if before[1] and after[1] and before[1] != after[1]
        ]

    def runs(self, *, aligned: bool) -> list[list[int]]:
        """Return the places of the aligned or the other points, in runs that have no large hole.

        Where counts are missing nothing says what is between two points, so no line should join them: a hole
        is a distance of more than three times the usual one (the median) of the line.
        """
        places = [place for place, flag in enumerate(self.aligned) if flag == aligned]
        gaps = [self.counts[b] - self.counts[a] for a, b in pairwise(places)]
        most = _HOLE * sorted(gaps)[len(gaps) // 2] if gaps else 0
        runs: list[list[int]] = []
        for before, place in zip([None, *places], places, strict=False):
            if before is None or self.counts[place] - self.counts[before] > most:
                runs.append([])
            runs[-1].append(place)
        return runs


@dataclass(frozen=True, slots=True)
class Staircase:
    """Lines to draw, the axis' label, the alignment, and what was left out."""

    lines: tuple[Line, ...]
    axis: str
    alignment: int
    note: str


def staircase(found: SitePoints, *, over: str = "out", at: Sequence[int] = ()) -> Staircase:
    """Return the staircases of a site over its ``out`` or ``in`` channels, with the other count at each of ``at``.

    By default the other count takes up to five values that have the most points. Raises ``InputError`` for
    another ``over``, ``TableError`` for a value of ``at`` that no row has.
    """
    if over not in ("out", "in"):
        raise InputError(f"cannot draw over {over!r}; give out or in")
    other = "input" if over == "out" else "output"
    alignment = aligned_to(found.site.precision)
    if found.environments[0].kind == "cpu":
        alignment = 1
    if found.site.depthwise:
        lines = [
            _line(_named(found, place, "depthwise"), place, place, points, "in", alignment)
            for place, points in enumerate(found.tables)
            if points
        ]
        return Staircase(tuple(lines), "channels", alignment, "")
    groups: list[dict[int, list[Point]]] = []
    sizes: dict[int, int] = defaultdict(int)
    for points in found.tables:
        group = defaultdict(list)
        for point in points:
            group[point.inputs if over == "out" else point.outputs].append(point)
        for count, members in group.items():
            sizes[count] += len(members)
        groups.append(group)
    chosen = list(at) or _spread(sizes, max(1, _MOST_LINES // len(found.tables)))
    if missing := [count for count in chosen if count not in sizes]:
        raise TableError(
            f"no row of this site has {missing[0]} {other} channels; near it are "
            f"{', '.join(map(str, sorted(sizes, key=lambda c: abs(c - missing[0]))[:3]))}"
        )
    lines = [
        _line(_named(found, place, f"{count} {other} channels"), place, colour, group[count], over, alignment)
        for colour, count in enumerate(sorted(chosen, reverse=True))
        for place, group in enumerate(groups)
        if count in group
    ]
    left = len(sizes) - len(set(chosen))
    note = f"{left} more {other} counts were measured" if left else ""
    return Staircase(tuple(lines), f"{'output' if over == 'out' else 'input'} channels", alignment, note)


def _named(found: SitePoints, place: int, text: str) -> str:
    return f"{'ABCDEFGH'[place]}: {text}" if len(found.tables) > 1 else text


def _spread(sizes: dict[int, int], most: int) -> list[int]:
    """Return up to ``most`` counts evenly from the smallest to the largest of those with many points."""
    enough = max(sizes.values()) / 2
    counts = sorted(count for count, size in sizes.items() if size >= enough)
    if len(counts) <= most:
        return counts
    if most == 1:
        return counts[-1:]
    return sorted({counts[round(i * (len(counts) - 1) / (most - 1))] for i in range(most)})


def _line(label: str, table: int, colour: int, points: Sequence[Point], over: str, alignment: int) -> Line:
    ordered = sorted(points, key=lambda point: point.outputs if over == "out" else point.inputs)
    counts = tuple(point.outputs if over == "out" else point.inputs for point in ordered)
    aligned = tuple(count % alignment == 0 for count in counts)
    if not any(aligned):
        aligned = (True,) * len(counts)
    envelope: list[float] = []
    for point in reversed(ordered):
        envelope.append(min([point.row.latency_us, *envelope[-1:]]))
    return Line(label, table, colour, counts, tuple(ordered), aligned, tuple(reversed(envelope)))
