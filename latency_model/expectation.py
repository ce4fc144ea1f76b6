"""The exact expectation of a network's latency under independent channel gates, differentiable.

With independent keep probabilities the number of open channels of a group is Poisson-binomial. A site that
reads ``a`` and writes ``b`` channels costs ``E[L] = P_in^T L P_out``; at 0/1 probabilities that is the
table's value, and its gradient is the expected cost of one more channel. All computation is in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latency_model.errors import InputError
from latency_model.network import Channels, NetworkCost, OpSite, Site

__all__ = ["ExpectedLatency", "count_pmf"]

_DIRECT = 16  # longer polynomials are multiplied by FFT


def count_pmf(keep: Tensor) -> Tensor:
    """Return P(k of the C gates are open), k = 0 … C, for independent gates that are open with ``keep``.

    ``keep`` has shape (C,), probabilities from 0 to 1; the result has shape (C + 1,) and is float64. The
    polynomials ``1 - p + p z`` are multiplied in a tree, short ones directly, long ones by FFT: O(C log^2 C),
    with an absolute error of some 1e-16 a level. Differentiable. Raises ``InputError`` for other numbers.
    """
    if keep.ndim != 1:
        raise InputError(f"keep probabilities must be one row, not of shape {tuple(keep.shape)}")
    if keep.numel() and not bool(((keep >= 0) & (keep <= 1)).all()):
        raise InputError("keep probabilities must be numbers from 0 to 1")
    return _count_pmfs([keep])[0]


def _count_pmfs(keeps: Sequence[Tensor]) -> list[Tensor]:
    """Return the pmf of each row of gates; rows whose sizes have the same power of two above go together."""
    by_size: dict[int, list[int]] = {}
    for index, keep in enumerate(keeps):
        by_size.setdefault(max(1, 1 << (keep.numel() - 1).bit_length()) if keep.numel() else 1, []).append(
            index
        )
    found: list[Tensor | None] = [None] * len(keeps)
    for size, indices in by_size.items():
        # A gate of probability 0 adds nothing to the count.
        rows = torch.stack([F.pad(keeps[i].double(), (0, size - keeps[i].numel())) for i in indices])
        pmfs = _product(torch.stack([1.0 - rows, rows], dim=-1))
        for row, index in enumerate(indices):
            found[index] = pmfs[row, : keeps[index].numel() + 1]
    return [pmf for pmf in found if pmf is not None]


def _product(factors: Tensor) -> Tensor:
    """Return the products of polynomials: (rows, m, length) to (rows, ...), m a power of two."""
    while factors.shape[1] > 1:
        factors = convolve(factors[:, 0::2], factors[:, 1::2])
    return factors[:, 0]


def convolve(a: Tensor, b: Tensor) -> Tensor:
    """Return the full convolution of the last axes; the axes before must agree."""
    length_a, length_b = a.shape[-1], b.shape[-1]
    length = length_a + length_b - 1
    if min(length_a, length_b) > _DIRECT:
        size = _fft_size(length)
        spectrum = torch.fft.rfft(a, size) * torch.fft.rfft(b, size)
        product: Tensor = torch.fft.irfft(spectrum, size)
        return product[..., :length]
    if length_a < length_b:
        a, b, length_a, length_b = b, a, length_b, length_a
    # Row i of the outer product is shifted by i: a row of length + 1, read at length, does just that.
    outer = F.pad(b.unsqueeze(-1) * a.unsqueeze(-2), (0, length_b))
    flat = outer.flatten(-2)[..., : length_b * length]
    return flat.reshape(*flat.shape[:-1], length_b, length).sum(-2)


def _fft_size(length: int) -> int:
    """Return the smallest 2^i or 3 * 2^i that holds ``length``."""
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= length else power


@dataclass(frozen=True)
class _Part:
    """The sites with the same two axes: one matrix, its equal neighbouring rows and columns computed once."""

    inputs: Channels
    outputs: Channels | None
    matrix: Tensor
    rows: Tensor | None
    columns: Tensor | None
    shared: bool


class ExpectedLatency:
    """Expected microseconds of the operators of ``network``, given keep probabilities per channel group.

    ``matrices`` has one array per convolution, by name: ``[in count, out count]``, or ``[in count]`` for a
    depthwise one, and such arrays for those other operators that have a price (``LatencyModel.matrices`` makes
    them). They may be any function of the counts: envelope, raw
    staircase or convex minorant. Gates of different groups are independent; sites that share a group share
    its count, also where one site reads and writes the same group. An axis of several terms (concat) has the
    sum of their counts. The correction of a latency model is not included. Raises ``InputError`` when a
    matrix is missing or too small.
    """

    def __init__(self, network: NetworkCost, matrices: Mapping[str, NDArray[np.float64]]) -> None:
        self.network = network
        summed: dict[tuple[Channels, Channels | None], NDArray[np.float64]] = {}
        for site in network.priced(matrices):
            matrix = _fitting(site, network, matrices)
            key = (site.inputs, None if matrix.ndim == 1 else site.outputs)
            # The expectation is linear in the matrix, so sites with the same two axes are one.
            summed[key] = summed[key] + matrix if key in summed else matrix
        self._constant = 0.0
        self._parts: list[_Part] = []
        for (inputs, outputs), matrix in summed.items():
            self._add(inputs, outputs, matrix)
        self._used = {
            group
            for part in self._parts
            for axis in (part.inputs, part.outputs)
            for group, _ in (axis.terms if axis is not None else ())
        }

    def _add(self, inputs: Channels, outputs: Channels | None, matrix: NDArray[np.float64]) -> None:
        """Reduce a matrix to what its free axes need, and keep it."""
        if outputs is not None and not outputs.terms:
            matrix, outputs = matrix[:, outputs.fixed], None
        if not inputs.terms:
            matrix = matrix[inputs.fixed]
            if outputs is None:
                self._constant += float(matrix)
                return
            inputs, outputs = outputs, None
        if outputs is not None and inputs.terms == outputs.terms:
            # One count decides both sides: only a diagonal of the matrix is ever seen.
            total = inputs.count(self.network.groups) - inputs.fixed
            line = np.zeros(inputs.fixed + total + 1)
            both = np.arange(total + 1)
            line[inputs.fixed :] = matrix[inputs.fixed + both, outputs.fixed + both]
            matrix, outputs = line, None
        shared = outputs is not None and bool({g for g, _ in inputs.terms} & {g for g, _ in outputs.terms})
        rows, matrix = (None, matrix) if shared else _merged(matrix, 0)
        columns, matrix = (None, matrix) if shared or outputs is None else _merged(matrix, 1)
        self._parts.append(
            _Part(inputs, outputs, torch.from_numpy(np.ascontiguousarray(matrix)), rows, columns, shared)
        )

    def __call__(self, keep: Mapping[str, Tensor]) -> Tensor:
        """Return the expected latency as a float64 scalar on the device of ``keep``.

        ``keep[group]`` has one probability per channel; a group that is not named is kept whole. Raises
        ``InputError`` for an unknown group or another number of channels.
        """
        for group, gates in keep.items():
            size = self.network.groups.get(group)
            if size is None:
                raise InputError(f"{self.network.name} has no channel group {group!r}")
            if tuple(gates.shape) != (size,):
                raise InputError(f"channel group {group} has {size} channels, not {tuple(gates.shape)}")
        device = next(iter(keep.values())).device if keep else torch.device("cpu")
        names = [group for group in keep if group in self._used]
        if names:
            together = torch.cat([keep[name].detach().flatten() for name in names])
            if not bool(((together >= 0) & (together <= 1)).all()):
                raise InputError("keep probabilities must be numbers from 0 to 1")
        pmfs = dict(zip(names, _count_pmfs([keep[name] for name in names]), strict=True))
        for group in self._used - set(names):
            size = self.network.groups[group]
            pmfs[group] = _one_hot(size, size + 1, device)
        axes = {
            axis: _axis_pmf(axis, pmfs, device)
            for axis in dict.fromkeys(a for p in self._parts if not p.shared for a in (p.inputs, p.outputs))
            if axis is not None
        }
        total = torch.full((), self._constant, dtype=torch.float64, device=device)
        for part in self._parts:
            matrix = part.matrix.to(device)
            if part.shared:
                assert part.outputs is not None
                total = total + (_joint_pmf(part.inputs, part.outputs, pmfs, device) * matrix).sum()
                continue
            if part.outputs is not None:
                matrix = matrix @ _pooled(axes[part.outputs], part.columns, matrix.shape[1])
            total = total + torch.dot(_pooled(axes[part.inputs], part.rows, matrix.shape[0]), matrix)
        return total


def _fitting(
    site: Site | OpSite, network: NetworkCost, matrices: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the part of the site's matrix that its counts can reach."""
    if site.name not in matrices:
        raise InputError(f"there is no latency matrix for the site {site.name}; make them for this network")
    matrix = np.asarray(matrices[site.name], dtype=np.float64)
    full = (site.inputs.count(network.groups), site.outputs.count(network.groups))[: matrix.ndim]
    if matrix.ndim not in (1, 2) or any(size <= top for size, top in zip(matrix.shape, full, strict=True)):
        raise InputError(
            f"the latency matrix of {site.name} has shape {matrix.shape}; it must reach the counts {full}"
        )
    return matrix[tuple(slice(0, top + 1) for top in full)]


def _merged(matrix: NDArray[np.float64], axis: int) -> tuple[Tensor | None, NDArray[np.float64]]:
    """Merge equal neighbouring slices: return the slice that each count now has, and the smaller matrix."""
    differs = np.diff(matrix, axis=axis) != 0
    changes = differs if matrix.ndim == 1 else differs.any(axis=1 - axis)
    if changes.mean() > 0.5 if changes.size else True:
        return None, matrix
    first = np.concatenate(([0], np.flatnonzero(changes) + 1))
    segment = np.concatenate(([0], np.cumsum(changes)))
    return torch.from_numpy(segment), np.take(matrix, first, axis=axis)


def _pooled(pmf: Tensor, segments: Tensor | None, size: int) -> Tensor:
    if segments is None:
        return pmf
    return pmf.new_zeros(size).index_add(0, segments.to(pmf.device), pmf)


def _one_hot(position: int, length: int, device: torch.device) -> Tensor:
    pmf = torch.zeros(length, dtype=torch.float64, device=device)
    pmf[position] = 1.0
    return pmf


def _stretched(pmf: Tensor, times: int) -> Tensor:
    """Return the pmf of ``times`` times the count."""
    if times == 1:
        return pmf
    return F.pad(pmf.unsqueeze(-1), (0, times - 1)).flatten()[: (pmf.numel() - 1) * times + 1]


def _axis_pmf(channels: Channels, pmfs: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Return the pmf of an axis: a fixed part and the sum of its groups' counts."""
    result: Tensor | None = None
    for group, times in _gathered(channels).items():
        pmf = _stretched(pmfs[group], times)
        result = pmf if result is None else convolve(result, pmf)
    if result is None:
        return _one_hot(channels.fixed, channels.fixed + 1, device)
    return F.pad(result, (channels.fixed, 0))


def _gathered(channels: Channels) -> dict[str, int]:
    times: dict[str, int] = {}
    for group, count in channels.terms:
        times[group] = times.get(group, 0) + count
    return times


def _joint_pmf(
    inputs: Channels, outputs: Channels, pmfs: Mapping[str, Tensor], device: torch.device
) -> Tensor:
    """Return P(in count, out count) of a site whose two sides share groups.

    Each group moves both counts along a line of its own; the groups are independent, so the joint pmf is
    the two-dimensional convolution of those lines, by FFT.
    """
    into, out = _gathered(inputs), _gathered(outputs)
    size = [
        channels.fixed + sum(times * (pmfs[group].numel() - 1) for group, times in part.items()) + 1
        for channels, part in ((inputs, into), (outputs, out))
    ]
    spectrum: Tensor | None = None
    for group in dict.fromkeys((*into, *out)):
        pmf = pmfs[group]
        count = torch.arange(pmf.numel(), device=device)
        line = torch.zeros(size[0] * size[1], dtype=torch.float64, device=device)
        places = (count * into.get(group, 0)) * size[1] + count * out.get(group, 0)
        factor = torch.fft.rfft2(line.index_add(0, places, pmf).reshape(size))
        spectrum = factor if spectrum is None else spectrum * factor
    assert spectrum is not None
    joint = torch.fft.irfft2(spectrum, s=size)
    # The sums never reach the padding that the fixed parts make, so turning the matrix is shifting it.
    return torch.roll(joint, (inputs.fixed, outputs.fixed), (0, 1))
