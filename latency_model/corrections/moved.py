"""What an operator moves: bytes of weights and of activations, at its own channel counts or at all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.network import OpSite, Site
from latency_model.ops import Config, OpShape
from latency_model.shapes import BYTES, ConvShape

__all__ = ["PARTS", "Caches", "Moved", "moved", "moved_at_counts", "part_of", "weight_bytes"]

Array = NDArray[np.float64]
PARTS = ("dense", "grouped", "depthwise", "op", "reorder")


@dataclass(frozen=True, slots=True)
class Caches:
    """Sizes of a processor's caches in bytes: one core's second level, and the third.

    An environment does not record them. The defaults are those of a present server's core; they only say where
    the terms of a correction set in, and a correction keeps the sizes that it was fitted with. They are never
    read from the machine at hand, which need not be the one that is estimated.
    """

    l2: float = float(1 << 20)
    l3: float = float(32 << 20)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.l3) and 0 < 8 * self.l2 <= self.l3):
            raise InputError(
                f"not the caches of a processor: a second level of {self.l2:.0f} bytes and a third of {self.l3:.0f}"
            )

    def cold(self, total_weight_bytes: float) -> tuple[float, float]:
        """Return which share of a network's weights left the second and the third level between two runs.

        Both rise from 0 to 1 over a range: activations need room too, and others use the third level.
        """
        second = _ramp(total_weight_bytes, self.l2, 4 * self.l2)
        return second, _ramp(total_weight_bytes, 4 * self.l2, max(self.l3 / 2, 5 * self.l2))

    @property
    def streamed(self) -> float:
        """Bytes of weights of one operator above which its row is not timed with warm weights either."""
        return self.l2 / 2


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes of activations (read and written) and of weights; numbers, or arrays over channel counts."""

    activations: Any
    weights: Any


def part_of(config: Config) -> str:
    """Return which of ``PARTS`` an operator belongs to."""
    if isinstance(config, OpShape):
        return "reorder" if config.op.startswith("Reorder") else "op"
    return "depthwise" if config.depthwise else "dense" if config.groups == 1 else "grouped"


def moved(config: Config) -> Moved:
    """Return what one run of ``config`` moves, in the bytes of its precision; biases of convolutions not counted.

    An operator that is no convolution is taken to write as much as it reads, true within a factor of two of most.
    """
    if isinstance(config, ConvShape):
        return _conv(config, config.in_channels, config.out_channels)
    size = BYTES[config.precision]
    read, weights = (sum(map(math.prod, tensors)) for tensors in (config.inputs, config.weights))
    return Moved(2.0 * size * read, float(size * weights))


def weight_bytes(configs: Iterable[Config]) -> float:
    """Return the bytes of all weights that one run reads: what decides whether a cache keeps them."""
    return math.fsum(moved(config).weights for config in configs)


def moved_at_counts(site: Site | OpSite, lengths: tuple[int, ...]) -> Moved:
    """Return what ``site`` moves at all channel counts: arrays that broadcast to ``lengths``.

    ``lengths`` has one more than the largest count of each axis: of inputs and outputs, or of one axis where both
    follow one count (depthwise), where there are no outputs, or where the outputs count in full.
    """
    inputs: Any = np.arange(lengths[0], dtype=np.float64)
    if isinstance(site, Site):
        shape = site.shape
        if len(lengths) == 1:
            # One count is that of the channels; a depthwise convolution may write several of each.
            return _conv(shape, inputs, inputs * (shape.out_channels / shape.in_channels))
        return _conv(shape, inputs[:, None], np.arange(lengths[1], dtype=np.float64)[None, :])
    outputs: Any = float(site.shape.weights[0][0]) if site.shape.weights else 1.0
    if len(lengths) == 2:
        inputs, outputs = inputs[:, None], np.arange(lengths[1], dtype=np.float64)[None, :]
    size, total = BYTES[site.shape.precision], site.elements(inputs, outputs)
    weights = _weights(site, inputs, outputs)
    return Moved(2.0 * size * (total - weights), size * (weights + 0.0 * total))


def _conv(shape: ConvShape, inputs: Any, outputs: Any) -> Moved:
    """Return what a convolution moves with these channels; a depthwise one reads a filter per output."""
    size, area = BYTES[shape.precision], shape.kernel[0] * shape.kernel[1]
    per_filter = 1.0 if shape.depthwise else inputs / shape.groups
    writes = 2 if "add" in shape.pattern.split("+") else 1
    image, out = shape.height * shape.width, shape.out_height * shape.out_width
    activations = float(size * shape.batch) * (inputs * image + writes * outputs * out)
    return Moved(activations, float(size * area) * per_filter * outputs)


def _weights(site: OpSite, inputs: Any, outputs: Any) -> Any:
    first, total = len(site.shape.inputs), 0.0
    for place, dims in enumerate(site.shape.weights, first):
        sizes: list[Any] = list(dims)
        for axis in site.axes:
            if axis.place == place and axis.channels.terms:
                sizes[axis.dim] = inputs if axis.side == "in" else outputs
        total = total + math.prod(sizes)
    return total


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
