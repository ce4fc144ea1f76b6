"""What the blocked kernels of ONNX Runtime count: convolutions of blocks of 16 channels.

A kernel takes up to four blocks of filters and six pixels of a row at once, then three, two and one of what is left;
pixels whose window reaches into the padding go one by one. It runs once for every row and every block of input
channels, and each run reads and writes the output. Windows of one pixel without a stride make one long row of the
image, and take 128 input channels at once.

Source: ONNX Runtime, core/mlas/lib/snchwc.cpp and x86_64/SconvKernelAvx512F.S.
"""

from __future__ import annotations

import numpy as np

from latency_model.regression.geometry import Array, Geometry, ceil_to
from latency_model.regression.paths import BLOCK, Paths

__all__ = ["BUSY", "blocked_counts", "inside"]

BUSY = 8.0  # multiply-adds in flight that keep a core busy
_SET = 4.0  # blocks of filters
_CHANNELS = 128.0


def blocked_counts(s: Geometry, p: Paths) -> Array:
    """Return what the kernels count, shape (n, 14), scaled to be of one size; without meaning for other paths."""
    filters = np.where(p.depthwise, 1.0, np.ceil(s.outputs / s.groups / BLOCK))
    repeats = s.batch * np.where(p.depthwise, np.ceil(s.groups / BLOCK), s.groups)
    channels = np.where(p.image, s.inputs, np.where(p.depthwise, 1.0, ceil_to(s.depth, BLOCK)))
    blocks = np.where(p.image | p.depthwise, channels, channels / BLOCK)
    runs = np.where(p.point, np.ceil(channels / _CHANNELS), blocks)
    flat = p.point & (s.stride == 1)
    rows = np.where(flat, 1.0, s.out_height)
    width = np.where(flat, p.pixels, s.out_width)
    heights = np.where(
        flat,
        1.0,
        inside(s.height, s.out_height, s.kernel_height, s.stride_height, s.dilation_height, s.pad_top),
    )
    across = inside(s.width, s.out_width, s.kernel_width, s.stride_width, s.dilation_width, s.pad_left)
    inner = np.where(flat, width, _whole_windows(s))
    edge = np.where(flat, 0.0, across - inner * s.kernel_width)  # taps of windows that reach into the padding
    left = inner % 6
    groups = {6: np.floor(inner / 6), 3: np.floor(left / 3), 2: left % 3 == 2, 1: left % 3 == 1}
    full, rest = np.floor(filters / _SET), filters % _SET
    sets = full + (rest > 0)
    adds, busy, loads, single, visits = (np.zeros(len(rows)) for _ in range(5))
    for at_once, number in groups.items():
        taps = number * s.kernel_width + (edge if at_once == 1 else 0.0)
        steps = taps * heights * channels * repeats
        for count, times in ((_SET, steps * full), (rest, steps * (rest > 0))):
            adds += times * count * at_once
            busy += times * np.maximum(BUSY, count * at_once)
            loads += times * (count + at_once)
            visits += times
            if at_once == 1:
                single += times * count
    outer = (width - inner) * rows
    every = sets * runs * repeats
    return np.column_stack(
        [
            *(adds / 1e5, busy / 1e5, loads / 1e5, single / 1e5),
            *((sum(groups.values()) * rows + outer) * every / 1e3, rows * every / 1e3, every / 1e2),
            width * rows * filters * runs * repeats / 1e4,
            s.read * sets / 1e5,
            outer * every / 1e3,
            repeats * filters * channels * s.taps / 1e3,
            visits / 1e5,
            outer * s.kernel_width * heights * every / s.out_height / 1e4,
            np.zeros(len(rows)),
        ]
    )


def inside(size: Array, out: Array, kernel: Array, stride: Array, dilation: Array, pad: Array) -> Array:
    """Return how many (output, tap) pairs of one axis read inside the image, not its padding."""
    found = np.zeros(len(size))
    for tap in range(int(kernel.max(initial=0.0))):
        begin = np.maximum(np.ceil((pad - tap * dilation) / stride), 0.0)
        end = np.minimum(np.floor((size - 1 + pad - tap * dilation) / stride) + 1, out)
        found += np.where(tap < kernel, np.maximum(end - begin, 0.0), 0.0)
    return found


def _whole_windows(s: Geometry) -> Array:
    """Return how many windows of a row lie inside the image."""
    span = s.dilation_width * (s.kernel_width - 1)
    first = np.minimum(np.ceil(s.pad_left / s.stride_width), s.out_width)
    last = np.floor((s.width - 1 - span + s.pad_left) / s.stride_width) + 1
    found: Array = np.clip(last, first, s.out_width) - first
    return found
