"""From rows to whole networks: corrections that are a share of each operator, their fit, and how they are judged."""

from __future__ import annotations

from latency_model.corrections.fit import fit_terms
from latency_model.corrections.moved import PARTS, Caches, part_of, weight_bytes
from latency_model.corrections.seam import OperatorCorrection, correction_from_json
from latency_model.corrections.terms import TermsCorrection
from latency_model.corrections.timed import (
    TimedNetwork,
    leave_families_out,
    leave_networks_out,
    predicted_us,
)

__all__ = [
    "PARTS",
    "Caches",
    "OperatorCorrection",
    "TermsCorrection",
    "TimedNetwork",
    "correction_from_json",
    "fit_terms",
    "leave_families_out",
    "leave_networks_out",
    "part_of",
    "predicted_us",
    "weight_bytes",
]
