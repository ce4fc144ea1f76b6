"""What a fit tells its report: rows and networks, measured and predicted, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.conformal.scores import check_confidence
from latency_model.errors import InputError
from latency_model.shapes import ConvShape

__all__ = ["FitFacts", "NetworkFact", "Staircase"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NetworkFact:
    """One network, end to end; ``predicted_us`` is by a model that saw no network of its ``family``.

    ``low_us`` and ``high_us`` are NaN where no interval is known; ``high_us`` may be infinite. ``raw_sum_us`` is
    the sum of its kernels before the correction. Raises ``InputError`` for latencies that are not positive.
    """

    name: str
    family: str
    measured_us: float
    predicted_us: float
    low_us: float
    high_us: float
    raw_sum_us: float

    def __post_init__(self) -> None:
        for field in ("measured_us", "predicted_us", "low_us", "high_us", "raw_sum_us"):
            object.__setattr__(self, field, float(getattr(self, field)))
        for field in ("measured_us", "predicted_us", "raw_sum_us"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"{field} of the network {self.name} is {value}; a report needs a positive latency"
                )
        _check_intervals(np.array([self.low_us]), np.array([self.high_us]), f"the network {self.name}")


@dataclass(frozen=True, slots=True)
class Staircase:
    """The latencies of one site over its output channels: ``counts`` ascend, every sequence is parallel to them.

    ``measured_us`` is NaN where a count was not measured. ``shape`` is any convolution of the site, for ``at``.
    Raises ``InputError`` for counts that descend and for other lengths.
    """

    site_text: str
    counts: Sequence[int]
    measured_us: Sequence[float]
    predicted_us: Sequence[float]
    low_us: Sequence[float]
    high_us: Sequence[float]
    shape: ConvShape | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        for field in ("measured_us", "predicted_us", "low_us", "high_us"):
            values = tuple(float(value) for value in getattr(self, field))
            if len(values) != len(self.counts):
                raise InputError(
                    f"the staircase {self.site_text} has {len(self.counts)} counts and {len(values)} of {field}"
                )
            object.__setattr__(self, field, values)
        if any(after < before for before, after in pairwise(self.counts)):
            raise InputError(f"the counts of the staircase {self.site_text} must not descend; sort them")
        if not all(math.isfinite(value) for value in self.predicted_us):
            raise InputError(f"the staircase {self.site_text} has a prediction that is not finite")

    def at(self, counts: Sequence[int]) -> ConvColumns:
        """Return the convolutions of this site at ``counts`` output channels, for a curve that joins the points.

        The channels of a depthwise site change on both sides. Raises ``InputError`` without a ``shape``, and for
        counts that its groups do not divide.
        """
        if self.shape is None:
            raise InputError(f"the staircase {self.site_text} has no shape; give it one of its convolutions")
        shape = self.shape
        ratio = shape.out_channels // shape.in_channels if shape.depthwise else 0
        pairs = [(count // ratio if ratio else shape.in_channels, count) for count in counts]
        return ConvColumns.of([shape.with_channels(*pair) for pair in pairs])


@dataclass(frozen=True, eq=False)
class FitFacts:
    """The rows of a fit, arrays of shape (n,), and its measured networks.

    ``predicted_us`` is out of fold: by models that did not see the row. ``low_us`` and ``high_us`` bound a row at
    ``confidence``, NaN where no interval is known; ``high_us`` may be infinite. ``family`` names each row's kernel
    family, "" where it is unknown. ``notes`` say what was assumed or left out, ``facts`` are names and values for the
    table at the top. ``curves`` are predictions of the final model over the counts of some of ``staircases(facts)``,
    matched by ``site_text``. Raises ``InputError`` for other lengths and for latencies that are not positive.
    """

    title: str
    columns: ConvColumns
    measured_us: Array
    predicted_us: Array
    low_us: Array
    high_us: Array
    confidence: float
    family: Sequence[str]
    networks: Sequence[NetworkFact] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    curves: Sequence[Staircase] = ()

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        for field in ("measured_us", "predicted_us", "low_us", "high_us"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), dtype=np.float64))
        object.__setattr__(self, "family", tuple(str(name) for name in self.family))
        for field in ("measured_us", "predicted_us", "low_us", "high_us", "family"):
            if len(getattr(self, field)) != len(self.columns):
                raise InputError(
                    f"a report of {len(self.columns)} rows has {len(getattr(self, field))} of {field}; give one per row"
                )
        for field in ("measured_us", "predicted_us"):
            values = getattr(self, field)
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise InputError(f"{field} of a report must be positive and finite in every row")
        _check_intervals(self.low_us, self.high_us, "a row")

    def __len__(self) -> int:
        return len(self.columns)


def _check_intervals(low: Array, high: Array, where: str) -> None:
    unknown = np.isnan(low) & np.isnan(high)
    if not (unknown | ((low >= 0) & (low <= high) & np.isfinite(low))).all():
        raise InputError(
            f"the interval of {where} has its ends exchanged or one end missing; give low <= high"
        )
