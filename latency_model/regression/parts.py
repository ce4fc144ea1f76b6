"""The parts of a kernel's cost: blocks of work in whole waves, data moved, and what unaligned channels add.

Which parts there are was found on rows of cuDNN's kernels: an implicit product walks whole cache lines of channels,
slower where a pixel's channels are not a multiple of them; kernels that need whole vectors of channels pad the input
and the weights first and cut the padding off the output after, each by a launch and a pass over the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from latency_model.regression.counts import counts
from latency_model.regression.geometry import Array, Geometry, ceil_to

__all__ = ["BLOCKED", "TILINGS", "Tiling", "parts"]

_ROUNDS_AT_ONCE = (1, 2, 3, 4)  # tiles that a processor may hold at once
_CACHED = 15e6  # numbers that stay in a large cache


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a kernel divides the output.

    Images are taken ``images`` at once, pixels in rectangles of ``rows`` by ``columns``; a transform (Winograd,
    FFT) makes ``products`` matrix products of the rectangles, 0 is none. A tile has ``span`` pixels (or rectangles)
    and ``channels`` output channels, and walks ``depth`` input channels at once. ``padded`` says that all channels
    are filled up to whole vectors first. ``blocked`` has no tiles: what a CPU's kernels count (see ``counts``).
    """

    images: int = 1
    rows: int = 1
    columns: int = 1
    products: int = 0
    span: int = 128
    channels: int = 128
    depth: int = 1
    padded: bool = False
    blocked: bool = False


BLOCKED = Tiling(blocked=True)

# The first has no tiles in the image; the others were found to matter on GPUs (batch, rows, columns, products).
_IMAGES = (
    (1, 1, 1, 0),
    (1, 2, 2, 0),
    (1, 4, 4, 0),
    (1, 8, 8, 0),
    (1, 4, 8, 0),
    (1, 8, 16, 0),
    (4, 8, 4, 0),
    (8, 1, 1, 0),
    (16, 4, 4, 0),
    (1, 2, 2, 16),
    (1, 4, 4, 36),
    (8, 4, 4, 36),
    (16, 4, 4, 36),
    (16, 2, 2, 16),
    (1, 14, 14, 128),
    (1, 28, 28, 512),
)
_TILES = ((1, 8), (1, 16), (4, 16), (32, 32), (64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 64))
_TILES_TALL = ((256, 128), (32, 128), (64, 128), (32, 64))
TILINGS = tuple(Tiling(*image, *tile) for image in _IMAGES for tile in (*_TILES, *_TILES_TALL))
# Small tiles are those of a CPU, products of transforms need large ones.
TILINGS = tuple(t for t in TILINGS if t.span >= 32 or (t.products == 0 and t.images == 1))


def parts(sizes: Geometry, tiling: Tiling, units: int) -> Array:
    """Return the parts of the formula, shape (n, PARTS), scaled to be of one size."""
    if tiling.blocked:
        return counts(sizes)
    s, dense = sizes, ~sizes.depthwise
    unaligned_in, unaligned_out = dense & (s.inputs % s.vector != 0), dense & (s.outputs % s.vector != 0)
    strided_point = (s.taps == 1) & (s.stride > 1)
    if tiling.padded:
        s = replace(
            s,
            inputs=np.where(dense, ceil_to(s.inputs, s.vector), s.inputs),
            outputs=np.where(dense, ceil_to(s.outputs, s.vector), s.outputs),
        )
    covered = (
        ceil_to(s.batch, tiling.images)
        * ceil_to(s.out_height, tiling.rows)
        * ceil_to(s.out_width, tiling.columns)
    )
    # A grouped convolution is one product for each group; a depthwise one is not run as a product at all.
    split = np.where(dense, s.groups, 1.0)
    across = np.ceil(s.outputs / split / tiling.channels) * split
    each = np.where(dense, ceil_to(s.depth, tiling.depth), s.depth)
    if tiling.products:
        tiles = tiling.products * np.ceil(covered / (tiling.rows * tiling.columns) / tiling.span) * across
    else:
        each = each * s.taps
        tiles = np.ceil(covered / tiling.span) * across
    work = tiling.span * tiling.channels * each / 1e9
    one = np.ones(len(s.batch))
    found = [tiles * work]
    for rounds in _ROUNDS_AT_ONCE:
        found += [ceil_to(tiles, rounds * units) * work, np.ceil(tiles / units / rounds) / 10]
    found += [
        covered * s.inputs / 1e6,
        covered * s.outputs / 1e6,
        s.weights / 1e6,
        (s.stride > 1) * s.read / 1e6,
    ]
    found += [
        np.maximum(s.read + s.written + s.weights - _CACHED, 0.0) / 1e6,
        one * 50.0,
        np.minimum(each / 1e3, 100.0),
    ]
    # Rows of channels that are not whole cache lines.
    for vectors in (2, 4, 8):
        loose = dense & (s.inputs % (vectors * s.vector) != 0)
        found += [
            loose * tiles * work,
            loose * covered * s.inputs / 1e6,
            loose * covered * s.inputs * s.taps * across / 1e8,
        ]
    # Kernels that pad, and pad back, what is not whole vectors.
    for loose, moved in ((unaligned_in, s.read), (unaligned_out, s.written)):
        found += [loose * 50.0, loose * moved / 1e6, loose * s.weights / 1e6]
        found += [loose * strided_point * 50.0, loose * strided_point * s.weights / 1e6]
    return np.column_stack(found)
