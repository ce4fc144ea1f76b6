"""The convolution of a configuration as a PyTorch module, for every back end that times PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from latency_model.shapes import ConvShape

__all__ = ["DTYPES", "ConvBlock", "conv_block", "memory_format"]

# What the tensors of a precision are; tf32 is fp32 in memory and a flag of the arithmetic.
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "clip": functional.relu6,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
}


def memory_format(layout: str, dimensions: int = 4) -> torch.memory_format:
    """Return the memory format of a tensor in ``layout``; one that is not of images has no layout."""
    return torch.channels_last if layout == "nhwc" and dimensions == 4 else torch.contiguous_format


class ConvBlock(nn.Module):
    """A convolution with its epilogue, as the modules of a network would run it after folding batch norms."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        parts = shape.pattern.split("+")
        top, left, bottom, right = shape.padding
        # nn.Conv2d pads both sides alike; anything else takes an explicit pad, as it does in a network.
        self.pad = None if (top, left) == (bottom, right) else (left, right, top, bottom)
        self.conv = nn.Conv2d(
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            stride=shape.stride,
            padding=(top, left) if self.pad is None else 0,
            dilation=shape.dilation,
            groups=shape.groups,
            bias="bias" in parts,
        )
        self.add = "add" in parts
        self.activation = _ACTIVATIONS.get(parts[-1])

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the activated sum of the convolution of ``x`` and, for a pattern with ``add``, ``residual``."""
        y: Tensor = self.conv(x if self.pad is None else functional.pad(x, self.pad))
        if self.add and residual is not None:
            y = y + residual
        return y if self.activation is None else self.activation(y)


def conv_block(shape: ConvShape, weights: Sequence[Tensor]) -> ConvBlock:
    """Return a ``ConvBlock`` for inference that uses the tensors (kernel) or (kernel, bias) as they are."""
    with torch.device("meta"):  # no memory, and no random numbers drawn, for weights that are replaced
        block = ConvBlock(shape)
    names = ("conv.weight", "conv.bias")[: len(weights)]
    block.load_state_dict(dict(zip(names, weights, strict=True)), assign=True)
    return block.eval().requires_grad_(False)
