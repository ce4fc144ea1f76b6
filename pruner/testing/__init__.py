"""The conformance suite of pruning methods, and the networks that it runs them on; needs pytest."""

from __future__ import annotations

from pruner.testing.networks import NETWORKS, images
from pruner.testing.suite import MethodSuite, problem_of, setting_of

__all__ = ["NETWORKS", "MethodSuite", "images", "problem_of", "setting_of"]
