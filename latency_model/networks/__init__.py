"""Whole networks: what a runtime launches for one, what that costs beside the convolutions, and the correction."""

from __future__ import annotations

from latency_model.networks.correction import NetworkCorrection, fit_network_correction
from latency_model.networks.glue import GluePrice, GluePrices, GlueSample, samples_of_rows, samples_of_trace
from latency_model.networks.kernels import RUNTIMES, Kernel, kernels_of
from latency_model.networks.read import MeasuredNetwork, family_of, read_networks
from latency_model.networks.spec import network_of_spec
from latency_model.networks.trace import Traced, align, classify

__all__ = [
    "RUNTIMES",
    "GluePrice",
    "GluePrices",
    "GlueSample",
    "Kernel",
    "MeasuredNetwork",
    "NetworkCorrection",
    "Traced",
    "align",
    "classify",
    "family_of",
    "fit_network_correction",
    "kernels_of",
    "network_of_spec",
    "read_networks",
    "samples_of_rows",
    "samples_of_trace",
]
