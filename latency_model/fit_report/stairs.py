"""The sites of which most output counts were measured, as staircases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.fit_report.facts import FitFacts, Staircase
from latency_model.plots.style import COLOURS, aligned_to, site_title
from latency_model.shapes import ConvShape

__all__ = ["LEAST_COUNTS", "StairLine", "stair_lines", "staircases"]

# Two points are a line.
LEAST_COUNTS = 3


def staircases(facts: FitFacts, *, most: int = 6) -> tuple[Staircase, ...]:
    """Return the ``most`` sites with the most different output counts, at least three each; their points out of fold.

    A site is everything but the output channels; one of depthwise convolutions leaves the input channels open too.
    Of sites with equally many counts the one whose row comes first is first.
    """
    if not len(facts):
        return ()
    columns = facts.columns
    depthwise = (columns.groups > 1) & (columns.groups == columns.in_channels)
    keys = np.column_stack(
        [
            columns.kind,
            columns.batch,
            columns.height,
            columns.width,
            np.where(depthwise, -1, columns.in_channels),
            np.where(depthwise, -1, columns.groups),
            np.where(depthwise, columns.out_channels // columns.in_channels, -1),
        ]
    )
    _, first, site = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    site = site.ravel()  # NumPy 2.0 alone gives it a second axis
    different = np.unique(np.column_stack([site, columns.out_channels]), axis=0)[:, 0]
    counts = np.bincount(different, minlength=len(first))
    ranked = np.lexsort((first, -counts))[:most]
    return tuple(_staircase(facts, np.flatnonzero(site == s)) for s in ranked if counts[s] >= LEAST_COUNTS)


def _staircase(facts: FitFacts, places: NDArray[np.int64]) -> Staircase:
    places = places[np.argsort(facts.columns.out_channels[places], kind="stable")]
    shape = next(iter(facts.columns.take(places[-1:])))
    return Staircase(
        _text(shape),
        facts.columns.out_channels[places].tolist(),
        facts.measured_us[places].tolist(),
        facts.predicted_us[places].tolist(),
        facts.low_us[places].tolist(),
        facts.high_us[places].tolist(),
        shape,
    )


@dataclass(frozen=True, slots=True)
class StairLine:
    """What one line joins of a staircase; ``suffix`` names it in a legend, empty where it is the only one."""

    stairs: Staircase
    aligned: bool
    suffix: str

    @property
    def colour(self) -> str:
        """The colour of the line."""
        return COLOURS[5] if self.aligned else COLOURS[3]

    @property
    def known(self) -> list[int]:
        """The places with an interval whose two ends are finite."""
        ends = zip(self.stairs.low_us, self.stairs.high_us, strict=True)
        return [place for place, (low, high) in enumerate(ends) if math.isfinite(low) and math.isfinite(high)]


def stair_lines(stairs: Staircase) -> tuple[StairLine, ...]:
    """Return the counts that suit tensor cores and the others as two lines, or one line of all.

    The two kinds of counts are two stairs: one line through both would only go up and down between them. They stay
    together where either has fewer than three counts, or the precision is unknown.
    """
    step = aligned_to(stairs.shape.precision) if stairs.shape else 1
    aligned = [count % step == 0 for count in stairs.counts]
    if min(sum(aligned), len(aligned) - sum(aligned)) < LEAST_COUNTS:
        return (StairLine(stairs, True, ""),)
    return tuple(
        StairLine(
            _taken(stairs, [place for place, found in enumerate(aligned) if found is wanted]), wanted, text
        )
        for wanted, text in ((True, f", multiples of {step}"), (False, ", others"))
    )


def _taken(stairs: Staircase, places: Sequence[int]) -> Staircase:
    names = ("counts", "measured_us", "predicted_us", "low_us", "high_us")
    columns: dict[str, Any] = {name: [getattr(stairs, name)[place] for place in places] for name in names}
    return dataclasses.replace(stairs, **columns)


def _text(shape: ConvShape) -> str:
    """Return the site in words, other words for every other site."""
    parts = [site_title(shape)]
    if shape.depthwise:
        if shape.out_channels != shape.in_channels:
            parts.append(f"{shape.out_channels // shape.in_channels} outputs per channel")
    else:
        parts.insert(0, f"{shape.in_channels} input channels")
    usual = tuple(d * (k - 1) // 2 for k, d in zip(shape.kernel, shape.dilation, strict=True)) * 2
    if shape.padding != usual:
        parts.append(f"padding {','.join(map(str, shape.padding))}")
    return ", ".join(parts)
