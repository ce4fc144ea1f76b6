"""The figures of a fit: errors, their bias, and how often intervals hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.fit_report.facts import FitFacts
from latency_model.fit_report.text import counted, percent_text

__all__ = ["Errors", "Figure", "headline", "summary"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Errors:
    """What predictions of ``count`` latencies are worth; parts of 1, None where nothing says.

    An error is predicted / measured - 1. ``mape`` is the mean and ``median_error`` the median of its absolute value,
    ``within_5`` and ``within_10`` the share of rows within 5 and 10 %, ``bias`` its mean, ``sum_error`` the error
    of the sum of all. ``coverage`` is the share of the known intervals that hold the measured latency, ends
    included, and ``interval_width`` the median of their widths over the predictions; infinite ones count as widest.
    """

    count: int
    mape: float | None = None
    median_error: float | None = None
    within_5: float | None = None
    within_10: float | None = None
    bias: float | None = None
    sum_error: float | None = None
    coverage: float | None = None
    interval_width: float | None = None

    @classmethod
    def of(
        cls,
        measured_us: Array,
        predicted_us: Array,
        low_us: Array | None = None,
        high_us: Array | None = None,
    ) -> Errors:
        """Return the figures of arrays of shape (n,); n may be 0."""
        if not len(measured_us):
            return cls(0)
        # Not a quotient minus 1, which makes the error of 105 for 100 more than 5 %.
        error = (predicted_us - measured_us) / measured_us
        size = np.abs(error)
        found = cls(
            len(error),
            mape=float(size.mean()),
            median_error=float(np.median(size)),
            within_5=float((size <= 0.05).mean()),
            within_10=float((size <= 0.1).mean()),
            bias=float(error.mean()),
            sum_error=float(predicted_us.sum() / measured_us.sum() - 1),
        )
        if low_us is None or high_us is None or np.isnan(low_us).all():
            return found
        known = ~np.isnan(low_us)
        held = (low_us <= measured_us) & (measured_us <= high_us)
        widths = np.sort(((high_us - low_us) / predicted_us)[known])
        # Not np.median: the mean of two middle ones warns where one is infinite.
        width = float(widths[len(widths) // 2] + widths[(len(widths) - 1) // 2]) / 2
        return dataclasses.replace(
            found,
            coverage=float(held[known].mean()),
            interval_width=width if np.isfinite(width) else None,
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """One headline figure in words; ``of`` says which predictions it judges, ``note`` explains it."""

    of: str
    name: str
    value: str
    note: str


def summary(facts: FitFacts) -> dict[str, Any]:
    """Return the headline figures, JSON-ready: shares and errors as parts of 1 (see ``Errors``), None if unknown.

    ``rows`` and ``families`` are counts, ``families`` of known kernel families. ``networks`` is None without any, else
    has the same figures of them, with ``families`` and, as ``raw_sum``, those of the uncorrected sums.
    """
    found = dataclasses.asdict(Errors.of(facts.measured_us, facts.predicted_us, facts.low_us, facts.high_us))
    count = found.pop("count")
    networks: dict[str, Any] | None = None
    if facts.networks:
        measured, predicted, low, high, raw = np.array(
            [(n.measured_us, n.predicted_us, n.low_us, n.high_us, n.raw_sum_us) for n in facts.networks]
        ).T
        sums = dataclasses.asdict(Errors.of(measured, raw))
        networks = {
            **dataclasses.asdict(Errors.of(measured, predicted, low, high)),
            "families": len({network.family for network in facts.networks}),
            "raw_sum": {name: sums[name] for name in ("mape", "median_error", "bias", "sum_error")},
        }
    return {
        "rows": count,
        "families": len(set(facts.family) - {""}),
        "confidence": facts.confidence,
        **found,
        "networks": networks,
    }


def headline(figures: Mapping[str, Any]) -> list[Figure]:
    """Return what ``summary`` returned in words, the rows' figures first."""
    count = figures["rows"]
    lines = _lines(figures, f"{counted(count, 'row')}, each predicted without it", figures["confidence"])
    networks = figures["networks"]
    if networks is not None:
        families = counted(networks["families"], "family", "families")
        of = f"{counted(networks['count'], 'network')} of {families}, each predicted without its family"
        lines += _lines(networks, of, figures["confidence"])
        raw = networks["raw_sum"]
        text = f"mean signed error {percent_text(raw['bias'], signed=True)}"
        lines.append(Figure(of, "MAPE of the raw sum", percent_text(raw["mape"]), text))
    return lines


def _lines(figures: Mapping[str, Any], of: str, confidence: float) -> list[Figure]:
    wide = figures["interval_width"]
    width = "no intervals" if figures["coverage"] is None else "most have no upper bound"
    if wide is not None:
        width = f"median width {percent_text(wide)} of the prediction"
    signed = percent_text(figures["bias"], signed=True)
    return [
        Figure(of, "MAPE", percent_text(figures["mape"]), "mean absolute percentage error"),
        Figure(of, "median error", percent_text(figures["median_error"]), "half of the errors are smaller"),
        Figure(of, "within 5 %", percent_text(figures["within_5"]), "share with an error up to 5 %"),
        Figure(of, "within 10 %", percent_text(figures["within_10"]), "share with an error up to 10 %"),
        Figure(
            of,
            "error of the sum",
            percent_text(figures["sum_error"], signed=True),
            f"mean signed error {signed}",
        ),
        Figure(of, f"coverage at {100 * confidence:g} %", percent_text(figures["coverage"]), width),
    ]
