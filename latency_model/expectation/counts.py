"""The number of open channels under independent gates: its distribution where it matters, and its gradient.

The number X of open gates is Poisson-binomial, with the characteristic function ``prod_j (1 + p_j (e^it - 1))``.
A discrete Fourier transform of it is the distribution: Y. Hong, "On computing the distribution function for the
Poisson binomial distribution", Computational Statistics & Data Analysis 59 (2013) 41-51, who takes as many
frequencies as there are counts. Two bounds leave few of them:

* Bennett's inequality: outside a window of some ``8 sigma`` around the mean the probabilities sum to less than
  ``tail``. A transform of the window's length folds what is outside into it, and nothing else.
* ``|phi(t)| <= exp(-sigma^2 (1 - cos t))``: frequencies beyond some ``8 / sigma`` contribute nothing.

With half-angles, ``1 + p (e^it - 1) = e^(it/2) (c + i u s)``, where ``c = cos(t/2)``, ``s = sin(t/2)``,
``u = 2p - 1``, and its squared size is ``D = 1 - 4 p (1-p) s^2``. The length of a transform is odd, so t never is
pi and D never 0: the gradient, ``d phi / dp_j = phi 2s (u_j s + i c) / D_j``, needs no distribution of the other
gates. A sum of groups (concat), each counted ``times`` times, has the product of their functions at ``times t``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["CountDistributions", "Windows", "bennett_reach", "half_angles", "waves"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _Block:
    """The groups of a batch that count ``times`` times, and where their gates are."""

    times: int
    gates: slice | Indices
    starts: Indices
    ends: Indices
    member: Array | None  # [axes, groups of the block] of 0 and 1; None if it is the identity


@dataclass(frozen=True)
class _Batch:
    """Axes whose windows have the same length, and all that one pass over their gates makes."""

    blocks: tuple[_Block, ...]
    spreads: tuple[Array, ...]  # D of each block, [frequencies, gates]
    real: Array
    imaginary: Array  # phi of each axis, [axes, frequencies]
    slopes: Array


class Windows:
    """Distributions of counts: of axis ``a`` the probabilities ``pmf[a]`` of the counts from ``low[a]`` on.

    ``slope[a]``, zero at first, is for the caller's derivative with respect to ``pmf[a]``; ``gradient`` carries
    it to the gates.
    """

    def __init__(self, low: list[int], tilt: Array) -> None:
        axes = len(low)
        self.low = low
        self.pmf: list[Array] = [np.empty(0)] * axes
        self.slope: list[Array] = [np.empty(0)] * axes
        self._batches: list[_Batch] = []
        self._tilt = tilt

    def gradient(self) -> Array:
        """Return the derivative with respect to each keep probability."""
        total = np.zeros(len(self._tilt))
        for batch in self._batches:
            length, frequencies = batch.slopes.shape[1], batch.real.shape[1]
            cosines, sines = waves(length)
            ahead = batch.slopes @ cosines[:frequencies].T
            back = batch.slopes @ sines[:frequencies].T
            real = ahead * batch.real + back * batch.imaginary
            imaginary = ahead * batch.imaginary - back * batch.real
            for block, spread in zip(batch.blocks, batch.spreads, strict=True):
                cosine, sine, _ = half_angles(length, block.times)
                cosine, sine = cosine[:frequencies], sine[:frequencies]
                parts = (real, imaginary)
                if block.member is not None:
                    parts = (block.member.T @ real, block.member.T @ imaginary)
                weights = np.stack((parts[0] * (sine * sine), parts[1] * (-sine * cosine)), axis=1)
                weights *= 4 / length
                inverse = 1 / spread
                sums = np.empty((2, inverse.shape[1]))
                for weight, start, end in zip(weights, block.starts, block.ends, strict=True):
                    np.matmul(weight, inverse[:, start:end], out=sums[:, start:end])
                total[block.gates] += self._tilt[block.gates] * sums[0] + sums[1]
        return total


class CountDistributions:
    """Distributions of sums of gate counts, many at once, each within a window that misses less than ``tail``.

    ``sizes`` are the numbers of gates of the groups, whose keep probabilities follow each other in one array.
    An axis maps groups, by their place, to how many times each of their open gates counts.
    """

    def __init__(self, sizes: Sequence[int], axes: Sequence[Mapping[int, int]], *, tail: float) -> None:
        self._sizes = np.array(sizes, dtype=np.int64)
        self._ends = np.cumsum(self._sizes)
        self._starts = self._ends - self._sizes
        self._axes = [dict(axis) for axis in axes]
        self._times = np.zeros((len(axes), len(sizes)))
        for row, axis in enumerate(self._axes):
            for group, times in axis.items():
                self._times[row, group] = times
        self._squares = self._times**2
        self._totals = (self._times @ self._sizes).astype(np.int64)
        self._largest = self._times.max(axis=1, initial=1.0)
        self._cut = -math.log(tail) + 3.0
        self._reach = bennett_reach(-math.log(tail / 2))
        self._lengths = _odd_lengths(int(self._totals.max(initial=0)) + 1)
        self._layouts: dict[tuple[int, bytes], tuple[_Block, ...]] = {}

    def windows(self, keep: Array) -> Windows:
        """Return the distributions for the keep probabilities of all gates, which must be from 0 to 1."""
        spread = 4 * keep * (1 - keep)
        mean = self._times @ np.add.reduceat(keep, self._starts)
        variance = self._squares @ np.add.reduceat(spread, self._starts) / 4
        scaled = np.log(np.maximum(variance / self._largest**2, _LEAST))
        reach = self._largest * (np.interp(scaled, *self._reach) + 1) + 1
        wanted = np.minimum(2 * np.ceil(reach) + 1, self._totals + 1)
        lengths = self._lengths[np.searchsorted(self._lengths, wanted)]
        low = np.clip(np.floor(mean) - lengths // 2, 0, np.maximum(self._totals + 1 - lengths, 0))
        low = low.astype(np.int64)
        windows = Windows(low.tolist(), 2 * keep - 1)
        # Phases are counted from the nearest certain gates: what is summed in floating point stays small.
        near = keep > 0.5
        rare = np.where(near, keep - 1, keep)
        behind = low - (self._times @ np.add.reduceat(near, self._starts, dtype=np.float64)).astype(np.int64)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            self._fill(windows, int(length), rows, behind[rows], float(variance[rows].min()), spread, rare)
        return windows

    def _fill(
        self,
        windows: Windows,
        length: int,
        rows: Indices,
        behind: Indices,
        variance: float,
        spread: Array,
        rare: Array,
    ) -> None:
        """Compute the distributions of the axes ``rows``, whose windows have one ``length``."""
        blocks = self._layout(length, rows)
        frequencies = length // 2
        if all(block.times == 1 for block in blocks):
            sine = half_angles(length, 1)[1]
            frequencies = max(1, int(np.searchsorted(sine, math.sqrt(self._cut / (2 * variance + 1e-9)))))
            frequencies = min(frequencies, length // 2)
        place = np.outer(behind, np.arange(1, frequencies + 1)) % length
        phase = place * (-2 * math.pi / length)
        size = np.zeros_like(phase)
        spreads = []
        for block in blocks:
            cosine, sine, _ = (values[:frequencies] for values in half_angles(length, block.times))
            some = rare[block.gates]
            # atan(u s / c), less the angle itself with the sign of u
            turn = np.multiply.outer(-2 * sine * sine, np.abs(some))
            turn += 1
            np.divide(np.multiply.outer(2 * sine * cosine, some), turn, out=turn)
            turned = np.add.reduceat(np.arctan(turn, out=turn), block.starts, axis=1).T
            inside = np.multiply.outer(-sine * sine, spread[block.gates])
            shrunk = np.add.reduceat(np.log1p(inside, out=turn), block.starts, axis=1).T
            inside += 1
            if block.member is not None:
                turned, shrunk = block.member @ turned, block.member @ shrunk
            phase += turned
            size += shrunk
            spreads.append(inside)
        size = np.exp(0.5 * size)
        real, imaginary = size * np.cos(phase), size * np.sin(phase)
        cosines, sines = waves(length)
        pmf = real @ cosines[:frequencies]
        pmf += imaginary @ sines[:frequencies]
        pmf *= 2 / length
        pmf += 1 / length
        slopes = np.zeros_like(pmf)
        for place_in, row in enumerate(rows):
            used = min(length, int(self._totals[row]) + 1)
            windows.pmf[row] = pmf[place_in, :used]
            windows.slope[row] = slopes[place_in, :used]
        windows._batches.append(_Batch(blocks, tuple(spreads), real, imaginary, slopes))

    def _layout(self, length: int, rows: Indices) -> tuple[_Block, ...]:
        key = (length, rows.tobytes())
        if key not in self._layouts:
            if len(self._layouts) > 256:
                self._layouts.clear()
            kinds = sorted({times for row in rows for times in self._axes[row].values()})
            self._layouts[key] = tuple(self._block(times, rows) for times in kinds)
        return self._layouts[key]

    def _block(self, times: int, rows: Indices) -> _Block:
        groups = sorted({g for row in rows for g, many in self._axes[row].items() if many == times})
        ends = np.cumsum(self._sizes[groups])
        starts = ends - self._sizes[groups]
        first, last = groups[0], groups[-1]
        gates: slice | Indices = slice(int(self._starts[first]), int(self._ends[last]))
        if len(groups) != last - first + 1:
            gates = np.concatenate([np.arange(self._starts[g], self._ends[g]) for g in groups])
        member = (self._times[np.ix_(rows, groups)] == times).astype(np.float64)
        same = member.shape[0] == member.shape[1] and np.array_equal(member, np.eye(len(rows)))
        return _Block(times, gates, starts, ends, None if same else member)


_LEAST = 1e-12


@lru_cache(maxsize=8)
def bennett_reach(surprise: float) -> tuple[Array, Array]:
    """Return, by the logarithm of the variance, how far from the mean Bennett's bound is ``exp(-surprise)``.

    P(X - mu >= x) <= exp(-v h(x / v)) with h(w) = (1 + w) log(1 + w) - w, for sums of independent variables
    of variance v that exceed their means by at most 1.
    """
    logs = np.linspace(math.log(_LEAST), math.log(1e8), 800)
    variance = np.exp(logs)
    low, high = np.zeros_like(logs), surprise + np.sqrt(4 * surprise * variance) + 1
    for _ in range(60):
        middle = (low + high) / 2
        ratio = middle / variance
        enough = variance * ((1 + ratio) * np.log1p(ratio) - ratio) >= surprise
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return logs, high


@lru_cache(maxsize=64)
def _odd_lengths(largest: int) -> Indices:
    """Return lengths of windows, odd, each some quarter more than the one before, up to ``largest`` or beyond."""
    lengths = [3]
    while lengths[-1] < largest:
        lengths.append((lengths[-1] * 5 // 4 + 1) | 1)
    return np.array(lengths, dtype=np.int64)


@lru_cache(maxsize=256)
def half_angles(length: int, times: int) -> tuple[Array, Array, Array]:
    """Return cosine, sine and angle of half of ``times t``, brought between -pi/2 and pi/2, by frequency."""
    place = np.arange(1, length // 2 + 1) * times % length
    angle = np.where(place > length // 2, place - length, place) * (math.pi / length)
    return np.cos(angle), np.sin(angle), angle


@lru_cache(maxsize=64)
def waves(length: int) -> tuple[Array, Array]:
    """Return cos and sin of ``2 pi k n / length``: [frequencies k from 1, places n of the window]."""
    place = np.outer(np.arange(1, length // 2 + 1), np.arange(length)) % length
    angle = place * (2 * math.pi / length)
    return np.cos(angle), np.sin(angle)
