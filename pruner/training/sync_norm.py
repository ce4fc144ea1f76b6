"""Batch norm over the batch of all processes: Ioffe and Szegedy 2015 (arXiv 1502.03167) on a shared-out batch.

torch has ``SyncBatchNorm`` for GPUs only, and as a replacement of modules. Here the forward pass of the batch norms
as they are is replaced for a while, on any device; parts of the batch may differ in size or be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["synchronised_norms"]

# Returns the sum over all processes.
_Total = Callable[[Tensor], Tensor]


class _Normalise(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with the mean and variance over all processes.

    The gradient of the input is that of the sum of all processes' losses, to which each input contributes through
    the shared moments; those of weight and bias are of this process's part, as those of any other layer.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (output, mean, biased variance, number of values per channel in all processes)."""
        x, weight, bias, eps, total = args
        wide = torch.promote_types(x.dtype, torch.float32)
        rows = x.detach().to(wide)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        own = rows.new_full((1,), rows.numel() / rows.shape[1])
        # Summed in double precision: two passes, so that a large mean does not swallow a small variance.
        moments = total(torch.cat([rows.sum(axes, dtype=torch.float64), own.double()]))
        count = moments[-1:]
        mean = (moments[:-1] / count).to(wide)
        centred = rows - mean.view(shape)
        variance = (total(centred.square().sum(axes, dtype=torch.float64)) / count).to(wide)
        inverse = torch.rsqrt(variance + eps)
        normal = centred * inverse.view(shape)
        ctx.save_for_backward(normal, inverse, weight, count)
        ctx.total, ctx.shape, ctx.axes, ctx.affine = total, shape, axes, bias is not None
        output = normal if weight is None else normal * weight.to(wide).view(shape)
        if bias is not None:
            output = output + bias.to(wide).view(shape)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        normal, inverse, weight, count = ctx.saved_tensors
        incoming = gradients[0]
        gradient = incoming.to(normal.dtype)
        of_bias = gradient.sum(ctx.axes)
        of_weight = (gradient * normal).sum(ctx.axes)
        sums = ctx.total(torch.cat([of_bias, of_weight]).double()) / count
        mean, slope = (part.to(normal.dtype).view(ctx.shape) for part in sums.chunk(2))
        scale = inverse if weight is None else inverse * weight.to(normal.dtype)
        of_input = (gradient - mean - normal * slope) * scale.view(ctx.shape)
        return (
            of_input.to(incoming.dtype),
            None if weight is None else of_weight.to(weight.dtype),
            of_bias if ctx.affine else None,
            None,
            None,
        )


def _forward(norm: _BatchNorm, total: _Total) -> Callable[[Tensor], Tensor]:
    plain = type(norm).forward

    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            result: Tensor = plain(norm, x)
            return result
        output, mean, variance, count = _Normalise.apply(x, norm.weight, norm.bias, norm.eps, total)
        if norm.running_mean is not None and norm.running_var is not None:
            with torch.no_grad():
                assert norm.num_batches_tracked is not None
                norm.num_batches_tracked.add_(1)
                rate = norm.momentum
                if rate is None:
                    rate = 1 / float(norm.num_batches_tracked)
                unbiased = variance * (count / (count - 1).clamp(min=1))
                norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
                norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), rate)
        return output

    return forward


@contextmanager
def synchronised_norms(model: nn.Module, total: _Total) -> Iterator[None]:
    """Let every batch norm of ``model`` that trains use the moments of the batch of all processes.

    ``total`` sums a tensor over the processes; every process must run the same norms in the same order. Norms in
    evaluation mode work as ever.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = _forward(norm, total)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
