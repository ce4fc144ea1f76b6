"""Everything that a report shows, computed once for the page and the picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.fit_report.facts import FitFacts, Staircase
from latency_model.fit_report.figures import summary
from latency_model.fit_report.groups import (
    Group,
    by_alignment,
    by_family,
    by_kernel,
    by_network_family,
    by_size,
)
from latency_model.fit_report.stairs import staircases

__all__ = ["Contents", "Points", "finite", "held", "thinned"]

_MOST_POINTS = 5000
_WORST = 20


@dataclass(frozen=True)
class Points:
    """Some of the rows, column by column; ``error`` is predicted / measured - 1."""

    shape: tuple[str, ...]
    family: tuple[str, ...]
    measured_us: tuple[float, ...]
    predicted_us: tuple[float, ...]
    low_us: tuple[float, ...]
    high_us: tuple[float, ...]

    @classmethod
    def of(cls, facts: FitFacts, places: NDArray[np.int64]) -> Points:
        """Return the rows at ``places``."""
        return cls(
            tuple(shape.text for shape in facts.columns.take(places)),
            tuple(facts.family[place] for place in places),
            *(
                tuple(values[places].tolist())
                for values in (facts.measured_us, facts.predicted_us, facts.low_us, facts.high_us)
            ),
        )

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def error(self) -> tuple[float, ...]:
        """The relative errors."""
        return tuple(p / m - 1 for p, m in zip(self.predicted_us, self.measured_us, strict=True))


@dataclass(frozen=True)
class Contents:
    """The figures, groups, staircases and rows of a report.

    ``worst`` are the twenty rows whose prediction is off by the largest factor, either way, the worst first.
    ``points`` are the rows that are drawn, and ``points_note`` says which these are.
    """

    facts: FitFacts
    summary: dict[str, Any]
    size: tuple[Group, ...]
    family: tuple[Group, ...]
    alignment: tuple[Group, ...]
    kernel: tuple[Group, ...]
    staircases: tuple[Staircase, ...]
    worst: Points
    points: Points
    points_note: str
    network_families: tuple[Group, ...]

    @classmethod
    def of(cls, facts: FitFacts) -> Contents:
        """Return what the report of ``facts`` shows; ``InputError`` for a curve of another site."""
        stairs = staircases(facts)
        for curve in facts.curves:
            if curve.site_text not in {found.site_text for found in stairs}:
                raise InputError(
                    f"a curve is of {curve.site_text}, which is not drawn; take sites of staircases()"
                )
        # By the ratio: the relative error of a prediction that is far too low is never beyond -100 %.
        ratio = np.abs(np.log(facts.predicted_us / facts.measured_us))
        worst = np.argsort(-ratio, kind="stable")[:_WORST]
        drawn, note = thinned(facts.measured_us, worst)
        return cls(
            facts,
            summary(facts),
            by_size(facts),
            by_family(facts),
            by_alignment(facts),
            by_kernel(facts),
            stairs,
            Points.of(facts, worst),
            Points.of(facts, drawn),
            note,
            by_network_family(facts),
        )

    def curve(self, stairs: Staircase) -> Staircase | None:
        """Return the final model's curve of this site, if the fit gave one."""
        found = [curve for curve in self.facts.curves if curve.site_text == stairs.site_text]
        if not found:
            return None
        return dataclasses.replace(found[-1], shape=found[-1].shape or stairs.shape)

    def to_json(self) -> dict[str, Any]:
        """Return every number of the report, JSON-ready; what is unknown or infinite is None."""
        data = {
            "title": self.facts.title,
            "summary": self.summary,
            "facts": [list(fact) for fact in self.facts.facts],
            "notes": list(self.facts.notes),
            "groups": {
                name: _groups(getattr(self, name)) for name in ("size", "family", "alignment", "kernel")
            },
            "staircases": [_stairs(stairs) for stairs in self.staircases],
            "curves": [_stairs(curve) for curve in self.facts.curves],
            "worst": {**dataclasses.asdict(self.worst), "error": self.worst.error},
            "networks": [dataclasses.asdict(network) for network in self.facts.networks],
            "network_families": _groups(self.network_families),
            "points": dataclasses.asdict(self.points),
            "points_note": self.points_note,
        }
        cleaned: dict[str, Any] = finite(data)
        return cleaned


def held(measured: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[bool | None]:
    """Return whether each interval holds its latency, ends included; None where no interval is known."""
    ends = zip(measured, low, high, strict=True)
    return [None if math.isnan(lo) else bool(lo <= value <= hi) for value, lo, hi in ends]


def thinned(
    measured_us: NDArray[np.float64], always: NDArray[np.int64], *, most: int = _MOST_POINTS
) -> tuple[NDArray[np.int64], str]:
    """Return the places of at most ``most`` rows in order of latency, those of ``always`` among them, and the rule."""
    count = len(measured_us)
    order = np.argsort(measured_us, kind="stable")
    if count <= most:
        return order, f"all {count:,} rows are drawn"
    other = order[~np.isin(order, always)]
    spaced = other[np.linspace(0, len(other) - 1, most - len(always)).round().astype(np.int64)]
    kept = order[np.isin(order, np.concatenate([always, spaced]))]
    rule = f"the {len(always)} worst and evenly spaced ones in order of measured latency"
    return kept, f"{len(kept):,} of {count:,} rows are drawn: {rule}"


def finite(data: Any) -> Any:
    """Return ``data`` with None for every number that JSON does not have."""
    if isinstance(data, dict):
        return {str(name): finite(value) for name, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [{"label": group.label, **dataclasses.asdict(group.errors)} for group in groups]


def _stairs(stairs: Staircase) -> dict[str, Any]:
    data = dataclasses.asdict(dataclasses.replace(stairs, shape=None))
    data.pop("shape")
    return data
