"""The whole distribution of the number of open channels of one group, by products of polynomials.

The number of open gates, independent with probabilities ``p_j``, is Poisson-binomial, and its probabilities are
the coefficients of ``prod_j (1 - p_j + p_j z)``. Multiplied in a tree, long factors by FFT, as in W. Biscarri,
S. D. Zhao, R. J. Brunner, Computational Statistics & Data Analysis (2018), doi 10.1016/j.csda.2018.01.007. All
computation is in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latency_model.errors import InputError

__all__ = ["count_pmf", "count_pmfs"]

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
    return count_pmfs([keep])[0]


def count_pmfs(keeps: Sequence[Tensor]) -> list[Tensor]:
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
