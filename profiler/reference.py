"""The numbers that a configuration is timed with: random activations and weights, exactly as a runtime gets them.

Whoever checks a runtime's outputs computes the same operator from ``reference_inputs`` in fp32. Values are
rounded to the configuration's precision first, so that only the arithmetic of the runtime is left to differ.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latency_model.ops import Config, OpShape

__all__ = [
    "INPUT_SCALE",
    "OUTPUT_SCALE",
    "Reference",
    "bf16_bits",
    "noise",
    "quantised_bias",
    "quantised_weights",
    "raw_inputs",
    "reference_inputs",
]

Floats: TypeAlias = NDArray[np.float32]

_NOISE = 1 << 18
# int8 steps: activations are normal, so 4 and 8 standard deviations are the ends of the range.
INPUT_SCALE, OUTPUT_SCALE = 2.0**-5, 2.0**-4


@dataclass(frozen=True)
class Reference:
    """Activations and weights of one configuration as fp32, in the order in which its operator reads them.

    A convolution has the inputs (x,) or (x, what is added) and the weights (w,) or (w, bias). Activations are
    in NCHW whatever the layout of the configuration.
    """

    inputs: tuple[Floats, ...]
    weights: tuple[Floats, ...]


@functools.lru_cache(maxsize=4)
def _buffer(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(_NOISE, dtype=np.float32)


def noise(dims: tuple[int, ...], seed: int, offset: int) -> Floats:
    """Return normal noise of shape ``dims``; another ``offset`` gives other numbers."""
    # One buffer read from different places: drawing fresh numbers would cost more than timing small shapes.
    return np.resize(np.roll(_buffer(seed), -(offset * 7919) % _NOISE), dims)


def raw_inputs(config: Config, *, seed: int = 0, copy: int = 0) -> Reference:
    """Return the numbers of ``config`` before they are rounded to its precision."""
    if isinstance(config, OpShape):
        inputs = tuple(noise(dims, seed, 1 + index) for index, dims in enumerate(config.inputs))
        weights = tuple(_op_weight(config, index, seed, copy) for index in range(len(config.weights)))
        return Reference(inputs, weights)
    inputs = (noise((config.batch, config.in_channels, config.height, config.width), seed, 1),)
    if "add" in config.pattern:
        inputs += (noise((config.batch, config.out_channels, config.out_height, config.out_width), seed, 2),)
    dims = (config.out_channels, config.in_channels // config.groups, *config.kernel)
    weights = (noise(dims, seed, 10 + 2 * copy) * np.float32(math.prod(dims[1:]) ** -0.5),)
    if "bias" in config.pattern:
        weights += (noise((config.out_channels,), seed, 11 + 2 * copy) * np.float32(0.1),)
    return Reference(inputs, weights)


def _op_weight(config: OpShape, index: int, seed: int, copy: int) -> Floats:
    dims = config.weights[index]
    values = noise(dims, seed, 10 + len(config.weights) * copy + index)
    if config.op == "BatchNormalization" and index == len(config.weights) - 1:  # a variance is positive
        return np.abs(values) + np.float32(0.5)
    return values * np.float32(math.prod(dims[1:]) ** -0.5 if len(dims) > 1 else 0.1)


def reference_inputs(config: Config, *, seed: int = 0, copy: int = 0) -> Reference:
    """Return the activations and weights of ``config`` as its runtime gets them, rounded to its precision.

    ``copy`` tells apart the copies of one configuration in one program: same activations, other weights. In
    int8 the values are what the quantised tensors stand for (see ``quantised_weights``).

    >>> from latency_model.shapes import ConvShape
    >>> [array.shape for array in reference_inputs(ConvShape(1, 8, 6, 6, 4)).weights]
    [(4, 8, 3, 3), (4,)]
    """
    raw = raw_inputs(config, seed=seed, copy=copy)
    if config.precision != "int8":
        return Reference(
            tuple(_rounded(array, config.precision) for array in raw.inputs),
            tuple(_rounded(array, config.precision) for array in raw.weights),
        )
    inputs = tuple(_steps(array) * np.float32(INPUT_SCALE) for array in raw.inputs)
    if isinstance(config, OpShape):
        weights = tuple(_dequantised_op(array) for array in raw.weights)
        return Reference(inputs, weights)
    steps, scale = quantised_weights(raw.weights[0])
    weights = (steps.astype(np.float32) * scale.reshape(-1, 1, 1, 1),)
    if len(raw.weights) > 1:
        bias, bias_scale = quantised_bias(raw.weights[1], scale)
        weights += (bias.astype(np.float32) * bias_scale,)
    return Reference(inputs, weights)


def _dequantised_op(array: Floats) -> Floats:
    if array.ndim < 2:
        return array
    steps, scale = quantised_weights(array, per_channel=False)
    return steps.astype(np.float32) * scale


def _steps(array: Floats) -> Floats:
    return np.clip(np.rint(array / np.float32(INPUT_SCALE)), -128, 127)


def quantised_weights(weights: Floats, *, per_channel: bool = True) -> tuple[NDArray[np.int8], Floats]:
    """Return ``weights`` as int8 and the scale of a step: one for each first index, or one for all."""
    rows = weights.reshape(len(weights) if per_channel else 1, -1)
    scale = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-6)) / np.float32(127)
    steps = np.rint(rows / scale[:, None]).astype(np.int8).reshape(weights.shape)
    return steps, scale if per_channel else scale[0]


def quantised_bias(bias: Floats, weight_scale: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Return a convolution's bias as int32 and its scales: those of its accumulators."""
    scale = weight_scale * np.float32(INPUT_SCALE)
    return np.rint(bias / scale).astype(np.int32), scale


def bf16_bits(array: Floats) -> NDArray[np.uint16]:
    """Return the upper halves of ``array``'s 32-bit floats, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _rounded(array: Floats, precision: str) -> Floats:
    if precision == "fp16":
        return array.astype(np.float16).astype(np.float32)
    if precision == "bf16":
        bits: NDArray[Any] = bf16_bits(array).astype(np.uint32) << 16
        return bits.view(np.float32)
    return array
