"""Are the outputs right? A fast kernel that computes something else is not a fast convolution.

Outputs are compared with an fp32 reference computed from the same numbers. Of a large convolution only a few
images and channels are computed, the first and the last among them, so that checking stays cheaper than
measuring.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape

__all__ = ["NOT_COMPARABLE", "TOLERANCES", "Numbers", "deviation", "inputs_of", "reference", "tolerance"]

# Largest deviation over largest output. Activations of int8 are quantised to steps of 1/128 of their range.
TOLERANCES = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 2e-2, "fp16": 5e-3, "int8": 5e-2}
NOT_COMPARABLE = 1e9  # the deviation of outputs of another shape, or that are not finite
_MACS = 50_000_000  # more than that and only a part is checked
_CHANNELS = 16

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "clip": functional.relu6,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
}
_OPS: dict[str, Callable[..., Tensor]] = {
    "Relu": functional.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": functional.hardswish,
    "Add": torch.add,
    "Mul": torch.mul,
    "GlobalAveragePool": lambda x: x.mean(dim=(2, 3), keepdim=True),
}


class Numbers(Protocol):
    """The activations and weights of a configuration, as ``reference_inputs`` in ``profiler.graphs`` gives them."""

    @property
    def inputs(self) -> Sequence[NDArray[Any]]:
        """(x,) or (x, what is added)."""
        ...

    @property
    def weights(self) -> Sequence[NDArray[Any]]:
        """(w,) or (w, bias)."""
        ...


def inputs_of(config: Config, seed: int) -> Numbers:
    """Return the numbers that a runtime gives ``config`` for ``seed``."""
    numbers: Numbers = importlib.import_module("profiler.graphs").reference_inputs(config, seed=seed)
    return numbers


def tolerance(precision: str) -> float:
    """Return the deviation, relative to the largest output, from which outputs count as wrong."""
    return TOLERANCES[precision]


def reference(config: Config, numbers: Numbers, *, device: str = "cpu") -> NDArray[np.float32] | None:
    """Return the whole output of ``config`` in NCHW; None for an operator without a reference here.

    On the CPU in fp32; on a CUDA ``device`` in fp64, which no setting turns into TF32.
    """
    if isinstance(config, OpShape):
        return _op(config, numbers, device)
    return _conv(config, numbers, device, slice(None), slice(None))


def deviation(config: Config, output: NDArray[Any], numbers: Numbers, *, device: str = "cpu") -> float | None:
    """Return the largest deviation of ``output`` from the reference, relative to the largest value compared.

    None for an operator without a reference here; ``NOT_COMPARABLE`` for an output of another shape or with
    values that are not finite.
    """
    if isinstance(config, OpShape):
        expected = _op(config, numbers, device)
        return None if expected is None else _relative(output, expected)
    if output.shape != (config.batch, config.out_channels, config.out_height, config.out_width):
        return NOT_COMPARABLE
    images, channels = _parts(config)
    return _relative(output[images][:, channels], _conv(config, numbers, device, images, channels))


def _relative(output: NDArray[Any], expected: NDArray[np.float32]) -> float:
    if output.shape != expected.shape or not np.isfinite(output).all():
        return NOT_COMPARABLE
    largest = float(np.abs(expected).max())
    difference = float(np.abs(output.astype(np.float64) - expected).max())
    return min(difference / largest if largest > 0 else difference, NOT_COMPARABLE)


def _parts(config: ConvShape) -> tuple[Any, Any]:
    """Return which images and which channels to check."""
    if config.macs <= _MACS:
        return slice(None), slice(None)
    images = sorted({0, config.batch - 1})
    # A channel of a grouped convolution reads one group only, so its channels are not computed apart.
    if config.groups > 1 or config.out_channels <= _CHANNELS:
        return images, slice(None)
    return images, np.unique(np.linspace(0, config.out_channels - 1, _CHANNELS).round().astype(int))


def _tensor(array: NDArray[Any], device: str) -> Tensor:
    dtype = torch.float32 if device == "cpu" else torch.float64
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(device=device, dtype=dtype)


def _conv(
    config: ConvShape, numbers: Numbers, device: str, images: Any, channels: Any
) -> NDArray[np.float32]:
    parts = config.pattern.split("+")
    top, left, bottom, right = config.padding
    with torch.inference_mode():
        x = functional.pad(_tensor(numbers.inputs[0][images], device), (left, right, top, bottom))
        y = functional.conv2d(
            x,
            _tensor(numbers.weights[0][channels], device),
            _tensor(numbers.weights[1][channels], device) if "bias" in parts else None,
            stride=config.stride,
            dilation=config.dilation,
            groups=config.groups,
        )
        if "add" in parts:
            y = y + _tensor(numbers.inputs[1][images][:, channels], device)
        if parts[-1] in _ACTIVATIONS:
            y = _ACTIVATIONS[parts[-1]](y)
        return y.float().cpu().numpy()


def _op(config: OpShape, numbers: Numbers, device: str) -> NDArray[np.float32] | None:
    if config.op not in _OPS or config.weights or config.attributes:
        return None
    with torch.inference_mode():
        result = _OPS[config.op](*(_tensor(array, device) for array in numbers.inputs))
        return result.float().cpu().numpy()
