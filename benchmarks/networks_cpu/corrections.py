"""The corrections that evaluate.py compares: the plain sum, a slope and an offset, and terms.

Terms are what the latency model uses where rows are timed with warm caches (``latency_model.corrections``); the
others are what it is judged against.
"""

from __future__ import annotations

from collections.abc import Sequence

from latency_model.correction import Correction, fit_correction
from latency_model.corrections import TimedNetwork, fit_terms
from latency_model.corrections.timed import Fit

__all__ = ["FITS"]


def _raw(networks: Sequence[TimedNetwork]) -> Correction:
    return Correction(networks=len(networks))


def _slope_and_offset(networks: Sequence[TimedNetwork]) -> Correction:
    return fit_correction([n.sum_us for n in networks], [n.measured_us for n in networks])


FITS: dict[str, Fit] = {"raw sum": _raw, "slope and offset": _slope_and_offset, "terms": fit_terms}
