"""Gator's published half-width timings: files of its repository, and the multipliers that follow from them.

E. Passov, E. David, N. S. Netanyahu, arXiv 2205.15404: ResNet-50 with one hyper-edge after the other at half width,
timed in several sweeps. A file has one line for each network, ``edge, cost %, ms``, edge 0 being the whole network, and
the sweeps one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError

__all__ = ["HalfWidthTimings", "read_timings"]

Array = NDArray[np.float64]
_FAR = 1.5  # standard deviations from the mean of an edge's sweeps: left out


@dataclass(frozen=True)
class HalfWidthTimings:
    """``ms`` of shape (sweeps, edges + 1), ``cost_percent`` of shape (edges + 1,); place 0 is the whole network."""

    ms: Array
    cost_percent: Array

    @property
    def mean_ms(self) -> Array:
        """The mean over sweeps without those that are 1.5 standard deviations or more from the mean, (edges + 1,)."""
        centre, spread = self.ms.mean(axis=0), self.ms.std(axis=0)
        near = np.abs(self.ms - centre) < _FAR * np.where(spread > 0, spread, 1.0)
        found: Array = np.where(near, self.ms, 0.0).sum(axis=0) / near.sum(axis=0)
        return found

    @property
    def reductions(self) -> Array:
        """Share of the latency that goes with half of each edge, (edges,)."""
        mean = self.mean_ms
        found: Array = 1.0 - mean[1:] / mean[0]
        return found

    @property
    def multipliers(self) -> Array:
        """``reductions`` over the shares of the cost that go, (edges,)."""
        found: Array = self.reductions / (1.0 - self.cost_percent[1:] / self.cost_percent[0])
        return found


def read_timings(path: Path | str) -> HalfWidthTimings:
    """Return the timings in ``path``; ``InputError`` for a file that is not whole sweeps of the same edges."""
    try:
        lines = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read half-width timings from {path}: {error}") from error
    edges = int(lines[:, 0].max()) + 1 if lines.shape[1] == 3 and len(lines) else 0
    sweeps = len(lines) // edges if edges else 0
    if not sweeps or not np.array_equal(lines[:, 0], np.tile(np.arange(edges), sweeps)):
        raise InputError(f"{path} is not sweeps of edge, cost in percent and milliseconds; correct the file")
    return HalfWidthTimings(lines[:, 2].reshape(sweeps, edges), lines[:edges, 1])
