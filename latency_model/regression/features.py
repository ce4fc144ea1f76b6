"""What the trees see of a convolution: sizes, how they divide, and what formulas make of them."""

from __future__ import annotations

import numpy as np

from latency_model.columns import ConvColumns
from latency_model.regression.geometry import Array, Geometry, ceil_to

__all__ = ["SIZES", "baseline_us", "features"]

SIZES = 23  # features that are amounts: the first

_REMAINDERS = (2, 4, 8, 16, 32, 64)
_SPANS = (4, 8, 16)
_BLOCKS = (4, 16)
_TILES = ((64, 32), (64, 64), (128, 64), (128, 128), (256, 128))
_PATTERN_PARTS = ("bias", "add", "relu", "clip", "hardswish", "silu")
_PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


def baseline_us(sizes: Geometry) -> Array:
    """Return a rough cost that only takes the scale out of the latencies; any device's will do."""
    padded = np.ceil(sizes.depth / sizes.vector) * sizes.vector
    moved = sizes.read + sizes.written + sizes.weights
    found: Array = 1.0 + sizes.pixels * sizes.outputs * padded * sizes.taps / 5e6 + moved / 1e6
    return found


def features(columns: ConvColumns, sizes: Geometry) -> Array:
    """Return the features, shape (n, count), float64: logarithms of sizes, remainders, kinds."""
    s = sizes
    amounts = (
        *(s.batch, s.inputs, s.outputs, s.depth, s.height, s.width, s.out_height, s.out_width, s.groups),
        *(s.kernel_height, s.kernel_width, s.stride, s.dilation, s.pixels, s.depth * s.taps),
        *(s.read, s.written, s.weights, s.macs, s.macs / (s.read + s.written + s.weights)),
        *(s.read + s.written + s.weights, s.inputs / s.outputs, s.out_height * s.out_width),
    )
    found = [np.log(amount) for amount in amounts]
    # Unaligned channels are padded to whole vectors, or take another path.
    deep = np.where(s.depthwise, s.depth, ceil_to(s.depth, s.vector))
    wide = ceil_to(s.outputs, s.vector)
    loose_in, loose_out = s.inputs % s.vector != 0, s.outputs % s.vector != 0
    found += [np.log(deep), np.log(wide), np.log(s.pixels * deep * s.taps * wide), loose_in, loose_out]
    found += [np.log1p(loose_in * s.read + loose_out * s.written)]
    for span, channels in _TILES:
        tiles = np.ceil(s.pixels / span) * np.ceil(wide / channels)
        found += [np.log(tiles * span * channels / (s.pixels * wide))]
    for step in _REMAINDERS:
        found += [(-s.inputs) % step, (-s.outputs) % step]
    for step in _SPANS:
        found += [(-s.out_height) % step, (-s.batch) % step]
    found += [(-s.pixels) % 128, (-s.depth) % 8]
    lowest_in, lowest_out = np.gcd(columns.in_channels, 64), np.gcd(columns.out_channels, 64)
    found += [lowest_in, lowest_out, np.minimum(lowest_in, lowest_out), s.depthwise, s.vector]
    # What a group has decides which path a grouped convolution takes: whole blocks of 16 on a CPU, say.
    each = s.outputs / s.groups
    for step in _BLOCKS:
        found += [(-s.depth) % step, (-each) % step]
    found += [np.log(each), s.depth >= 16, each >= 16, (s.depth % 16 == 0) & (each % 16 == 0)]
    words = [kind.pattern.split("+") for kind in columns.kinds]
    for part in _PATTERN_PARTS:
        found.append(_by_kind(columns, [float(part in word) for word in words]))
    found.append(_by_kind(columns, [float(_PRECISIONS.index(kind.precision)) for kind in columns.kinds]))
    found.append(_by_kind(columns, [float(kind.layout == "nhwc") for kind in columns.kinds]))
    found.append(_by_kind(columns, [float(sum(kind.padding)) for kind in columns.kinds]))
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in found])


def _by_kind(columns: ConvColumns, values: list[float]) -> Array:
    found: Array = np.array(values, dtype=np.float64)[columns.kind]
    return found
