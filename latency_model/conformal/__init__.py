"""Intervals that cover as often as they say: for rows, for networks of known and unseen families, for sums."""

from latency_model.conformal.families import FamilyConformal
from latency_model.conformal.folds import cv_plus
from latency_model.conformal.networks import NetworkIntervals
from latency_model.conformal.rows import Conformal, size_class
from latency_model.conformal.scores import Scores
from latency_model.conformal.sums import row_correlation, sum_interval

__all__ = [
    "Conformal",
    "FamilyConformal",
    "NetworkIntervals",
    "Scores",
    "cv_plus",
    "row_correlation",
    "size_class",
    "sum_interval",
]
