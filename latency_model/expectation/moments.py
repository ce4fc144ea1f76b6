"""The number of open channels under independent gates, from a few moments of each group: fast and approximate.

With ``u = 2p - 1``, ``w = 1 - u^2`` and half-angles (see ``counts``), the logarithm of a gate's characteristic
function is ``log(1 - w sin^2(t/2)) / 2 + i (atan(u tan(t/2)) + t/2)``. The first term is ``w`` times a smooth
function of w, the second ``(1 + u) t/2`` plus ``u w`` times another. Both functions are replaced, by frequency, by
polynomials in w of least squares, so a group enters with the sums of ``u``, ``w^m`` and ``u w^m`` alone, and so does
its gradient: the cost of a gate is a few multiplications, whatever the number of frequencies.

The mean is exact, all cumulants nearly so (not only the three of the refined normal approximation, Volkova 1996,
see Hong 2013, that this replaces), and certain gates are exact, for they have ``w = 0``. What is lost is where w
is near 1 and t near pi: gates near one half in a group with so few of them that such frequencies count. The value
hardly notices, the gradient of those groups may be some percent off, in the smallest tens of percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from latency_model.expectation.counts import bennett_reach, half_angles, waves

__all__ = ["MomentDistributions", "MomentWindows"]

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Indices = NDArray[np.int64]

_DEGREE = 6
_FADE = 1.5


@dataclass(frozen=True)
class _Pass:
    """What the gradient needs again of one call."""

    basis: Single  # [1, u, w^m, u w^m of each gate]
    rows: tuple[tuple[int, Indices], ...]  # lengths of windows, and the axes that have them
    real: Array
    imaginary: Array  # phi of each axis, [axes, frequencies]
    lengths: Indices
    slopes: Array


class MomentWindows:
    """Distributions of counts: of axis ``a`` the probabilities ``pmf[a]`` of the counts from ``low[a]`` on.

    ``slope[a]``, zero at first, is for the caller's derivative with respect to ``pmf[a]``.
    """

    def __init__(self, home: MomentDistributions, low: list[int], pmf: Array, widths: Indices, made: _Pass):
        self.low = low
        self.pmf: list[Array] = [line[:width] for line, width in zip(pmf, widths, strict=True)]
        self.slope: list[Array] = [line[:width] for line, width in zip(made.slopes, widths, strict=True)]
        self._home, self._made = home, made

    def gradient(self) -> Single:
        """Return the derivative with respect to each keep probability."""
        return self._home._gradient(self._made)


class MomentDistributions:
    """Distributions of sums of gate counts, many at once; the approximate twin of ``CountDistributions``."""

    def __init__(self, sizes: Sequence[int], axes: Sequence[Mapping[int, int]], *, tail: float) -> None:
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))
        self._starts = self._ends - np.array(sizes, dtype=np.int64)
        self._times = np.zeros((len(axes), len(sizes)))
        for row, axis in enumerate(axes):
            for group, times in axis.items():
                self._times[row, group] = times
        self._squares = self._times**2
        self._totals = (self._times @ np.array(sizes)).astype(np.int64)
        self._largest = self._times.max(axis=1, initial=1.0)
        self._cut = -math.log(tail) + 3.0
        self._reach = bennett_reach(-math.log(tail / 2))
        kinds = sorted({times for axis in axes for times in axis.values()})
        self._kinds = [(kind, (self._times == kind).astype(np.float64)) for kind in kinds]
        self._lengths = _lengths(int(self._totals.max(initial=0)) + 1)
        self._pieces = list(zip(self._starts.tolist(), self._ends.tolist(), strict=True))
        self._tables: dict[tuple[int, int], tuple[Array, Array]] = {}

    def windows(self, keep: Single) -> MomentWindows:
        """Return the distributions for the keep probabilities of all gates, which must be from 0 to 1.

        Gates are computed in single precision, distributions in double.
        """
        basis = _basis(keep)
        sums = np.add.reduceat(basis, self._starts, axis=1).astype(np.float64)
        mean = self._times @ (0.5 * (sums[0] + sums[1]))
        variance = self._squares @ (0.25 * sums[2])
        scaled = np.log(np.maximum(variance / self._largest**2, 1e-12))
        reach = self._largest * (np.interp(scaled, *self._reach) + 1) + 1
        widths = np.minimum(2 * np.ceil(reach) + 1, self._totals + 1).astype(np.int64)
        places = np.searchsorted(self._lengths, widths)
        lengths = self._lengths[places]
        low = np.clip(np.floor(mean) - widths // 2, 0, self._totals + 1 - widths).astype(np.int64)
        half = lengths // 2
        needed = half
        if len(self._kinds) == 1:
            # |phi(t)| <= exp(-2 variance sin^2(t/2)); t/2 is pi k / length, and sin(x) >= 2 x / pi
            needed = np.minimum(
                half,
                np.ceil(
                    lengths * np.arcsin(np.minimum(1.0, np.sqrt(self._cut / (2 * variance + 1e-9)))) / math.pi
                ).astype(np.int64),
            )
        frequencies = max(1, int(needed.max(initial=1)))
        order = np.arange(1, frequencies + 1)
        phase = (np.multiply.outer(low, order) % lengths[:, None]) * (-2 * math.pi / lengths)[:, None]
        size = np.zeros_like(phase)
        for kind, member in self._kinds:
            table = self._table(kind, frequencies)[0][places]
            held = member @ sums.T
            logs = table @ held[:, :, None]
            size += logs[:, 0::2, 0]
            phase += logs[:, 1::2, 0]
        size = np.exp(size)
        size[order > half[:, None]] = 0.0
        real, imaginary = size * np.cos(phase), size * np.sin(phase)
        top = int(widths.max(initial=1))
        pmf, slopes = np.zeros((len(low), top)), np.zeros((len(low), top))
        rows = tuple((int(length), np.flatnonzero(lengths == length)) for length in np.unique(lengths))
        for length, at in rows:
            number, wide = min(frequencies, length // 2), min(length, top)
            cosines, sines = waves(length)
            line = (
                real[at, :number] @ cosines[:number, :wide] + imaginary[at, :number] @ sines[:number, :wide]
            )
            pmf[at, :wide] = line * (2 / length) + 1 / length
        return MomentWindows(
            self, low.tolist(), pmf, widths, _Pass(basis, rows, real, imaginary, lengths, slopes)
        )

    def _gradient(self, made: _Pass) -> Single:
        frequencies = made.real.shape[1]
        ahead, back = np.zeros_like(made.real), np.zeros_like(made.real)
        for length, at in made.rows:
            number, wide = min(frequencies, length // 2), min(length, made.slopes.shape[1])
            cosines, sines = waves(length)
            slopes = made.slopes[at, :wide]
            ahead[at, :number] = slopes @ cosines[:number, :wide].T
            back[at, :number] = slopes @ sines[:number, :wide].T
        scale = (2 / made.lengths)[:, None]
        by_log = np.empty((len(made.lengths), 2 * frequencies))
        by_log[:, 0::2] = (ahead * made.real + back * made.imaginary) * scale
        by_log[:, 1::2] = (back * made.real - ahead * made.imaginary) * scale
        places = np.searchsorted(self._lengths, made.lengths)
        weights = np.zeros((self._times.shape[1], len(made.basis)))
        for kind, member in self._kinds:
            table = self._table(kind, frequencies)[1][places]
            weights += member.T @ (by_log[:, None, :] @ table)[:, 0]
        weights = weights.astype(np.float32)
        total = np.empty(made.basis.shape[1], dtype=np.float32)
        for weight, (start, end) in zip(weights, self._pieces, strict=True):
            np.matmul(weight, made.basis[:, start:end], out=total[start:end])
        return total

    def _table(self, times: int, frequencies: int) -> tuple[Array, Array]:
        """Return, by length, what the sums add to log phi, and the same for a gate's derivative."""
        key = (times, frequencies)
        if key not in self._tables:
            made = [_coefficients(int(length), times, frequencies) for length in self._lengths]
            self._tables[key] = np.stack(made), np.stack([_derivative(rows) for rows in made])
        return self._tables[key]


def _basis(keep: Single) -> Single:
    basis = np.empty((2 + 2 * _DEGREE, len(keep)), dtype=np.float32)
    basis[0] = 1.0
    tilt = basis[1]
    tilt[...] = 2 * keep - 1
    spread = np.multiply(tilt, tilt, out=basis[2])
    np.subtract(1.0, spread, out=spread)
    for power in range(1, _DEGREE):
        np.multiply(basis[1 + power], spread, out=basis[2 + power])
    np.multiply(basis[2 : 2 + _DEGREE], tilt, out=basis[2 + _DEGREE :])
    return basis


def _derivative(weights: Array) -> Array:
    """Return the derivative by p of sums of the basis, in the basis: u' = 2, w' = -4 u, u^2 = 1 - w."""
    even, odd = weights[:, 2 : 2 + _DEGREE], weights[:, 2 + _DEGREE :]
    result = np.zeros_like(weights)
    powers = np.arange(1, _DEGREE + 1)
    result[:, 0] = 2 * weights[:, 1] - 4 * odd[:, 0]
    result[:, 2 : 2 + _DEGREE] = odd * (2 + 4 * powers)
    result[:, 2 : 1 + _DEGREE] -= 4 * powers[1:] * odd[:, 1:]
    result[:, 1] = -4 * even[:, 0]
    result[:, 2 + _DEGREE : 1 + 2 * _DEGREE] = -4 * powers[1:] * even[:, 1:]
    return result


@lru_cache(maxsize=1024)
def _coefficients(length: int, times: int, frequencies: int) -> Array:
    """Return what the sums of the basis add to log phi: rows are its real and imaginary part, by frequency."""
    result = np.zeros((2 * frequencies, 2 + 2 * _DEGREE))
    cosine, sine, angle = (values[:frequencies, None] for values in half_angles(length, times))
    number = len(angle)
    nodes = 0.5 - 0.5 * np.cos((np.arange(64) + 0.5) * math.pi / 64)  # Chebyshev's, on 0 to 1
    tilt = np.sqrt(1 - nodes)
    left = 1 - nodes * sine**2
    # At w = 0 both are met, and so the price of certain gates is exact.
    first_size, first_turn = -0.5 * sine**2, 0.5 * (angle - sine * cosine)
    size = (0.5 * np.log(left) / nodes - first_size) / nodes
    turn = ((np.arctan(tilt * sine / cosine) / tilt - angle) / nodes - first_turn) / nodes
    # Where a gate leaves little of phi, little depends on it.
    weight = left**_FADE * nodes
    powers = nodes[:, None] ** np.arange(_DEGREE - 1)
    fit = np.linalg.pinv(powers * weight[:, :, None])
    rest = slice(0, 2 * number, 2), slice(1, 2 * number, 2)
    result[rest[0], 2], result[rest[1], 2 + _DEGREE] = first_size[:, 0], first_turn[:, 0]
    result[rest[0], 3 : 2 + _DEGREE] = (fit @ (weight * size)[:, :, None])[:, :, 0]
    result[rest[1], 3 + _DEGREE :] = (fit @ (weight * turn)[:, :, None])[:, :, 0]
    result[1 : 2 * number : 2, :2] = angle
    return result


@lru_cache(maxsize=64)
def _lengths(largest: int) -> Indices:
    """Return lengths of transforms, odd, each some half more than the one before, up to ``largest`` or beyond."""
    lengths = [5]
    while lengths[-1] < largest:
        lengths.append((lengths[-1] * 3 // 2) | 1)
    return np.array(lengths, dtype=np.int64)
