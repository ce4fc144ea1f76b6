"""The expectation of sites whose two sides share channel groups in part, so that their counts depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latency_model.expectation.parts import SharedPart
from latency_model.expectation.pmf import count_pmfs
from latency_model.network import Channels

__all__ = ["joint_expectation"]


def joint_expectation(
    parts: Sequence[SharedPart], keep: Mapping[str, Tensor], device: torch.device
) -> Tensor:
    """Return the expected sum of ``parts``, exactly, for independent gates that are open with ``keep``."""
    pmfs = dict(zip(keep, count_pmfs(list(keep.values())), strict=True))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part in parts:
        matrix = torch.from_numpy(part.matrix).to(device)
        total = total + (_joint_pmf(part.inputs, part.outputs, pmfs, device) * matrix).sum()
    return total


def _joint_pmf(
    inputs: Channels, outputs: Channels, pmfs: Mapping[str, Tensor], device: torch.device
) -> Tensor:
    """Return P(in count, out count) of a site whose two sides share groups.

    Each group moves both counts along a line of its own; the groups are independent, so the joint pmf is
    the two-dimensional convolution of those lines, by FFT.
    """
    into, out = dict(inputs.terms), dict(outputs.terms)
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
