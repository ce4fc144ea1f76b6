"""What ONNX Runtime does for a convolution on a CPU: which of its kernels runs, and what that kernel counts.

Which one runs follows from the shape alone (the rules are those of ``harvest.fusion``). Dense convolutions of fewer
channels than a block read the plain layout and write the blocked one, those of a multiple of four run blocked,
depthwise ones of a multiple of four too, grouped ones when a group has whole blocks; all others are matrix
products, with the image unfolded first unless the window is one pixel. A blocked kernel takes up to four blocks of
filters and six pixels at once, and runs once for every row and block of input channels; a matrix product takes up to
twelve filters and two vectors of pixels at once.

Sources: ONNX Runtime, core/optimizer/nchwc_transformer.cc, and of core/mlas/lib snchwc.cpp, convolve.cpp, sgemm.cpp
and the AVX-512 kernels in x86_64.
"""

from __future__ import annotations

import numpy as np

from latency_model.regression.geometry import Array, Geometry, ceil_to

__all__ = ["GROUPS", "counts", "path_features", "paths"]

_BLOCK = 16.0
_SET = 4.0  # blocks of filters that a kernel takes at once
_CHANNELS = 128.0  # input channels that the 1x1 kernel takes at once
_BUSY = 8.0  # multiply-adds in flight that keep a core busy
_STRIDE = 128.0  # rows and columns of a panel of a product
_TINY = 1e-3
_OF_KERNELS = 14  # of the counts: those that depend on the kernel
# Which counts another CPU scales together: arithmetic, moved pixels, moved weights, loops and calls, constants.
GROUPS = (
    (0, 1, 2, 3, 11),
    (7, 8, 15, 16, 18, 20, 21, 22, 25, 28, 29, 30),
    (10, 17, 31, 32),
    (4, 5, 6, 9, 12, 13, 23),
    (14, 19, 24, 26, 27),
)


class _Path:
    """Which kernel runs, as masks."""

    def __init__(self, s: Geometry) -> None:
        dense, each = s.groups == 1, s.outputs / s.groups
        self.pixels = s.out_height * s.out_width
        self.image = dense & (s.inputs < _BLOCK)
        self.depthwise = s.depthwise & (s.outputs == s.groups)
        whole = ~dense & (s.depth % _BLOCK == 0) & (each % _BLOCK == 0)
        four = np.where(dense, s.inputs, s.outputs) % 4 == 0
        self.blocked = self.image | whole | ((dense | self.depthwise) & four)
        self.point = (s.taps == 1) & (s.pad_top == 0) & (s.pad_left == 0) & ~self.image & ~self.depthwise
        self.direct = self.point & (s.stride == 1) & ~self.blocked
        self.unfolded = ~self.blocked & ~self.direct
        # Whether a convolution after it reads the plain layout.
        self.plain_after = (s.outputs < _BLOCK) | (s.outputs % 4 != 0)


def paths(sizes: Geometry) -> list[str]:
    """Return the name of the kernel of each convolution, a family of the regression."""
    s, p = sizes, _Path(sizes)
    one = p.pixels == 1
    each = s.outputs / s.groups
    names = np.select(
        [
            one & (s.outputs >= _BLOCK) & p.plain_after,
            one & p.direct,
            p.image & (s.taps == 1),
            p.image,
            p.blocked & p.depthwise,
            p.blocked & p.point,
            p.blocked,
            p.direct,
            s.depthwise,
            s.groups > 1,
            each > p.pixels,
        ],
        ["bare vector", "vector", "image 1x1", "image", "blocked dw", "blocked 1x1", "blocked",
         "product", "unfolded dw", "unfolded groups", "unfolded whole"],
        "unfolded",
    )  # fmt: skip
    strided = (s.stride > 1) & np.isin(names, ["blocked dw", "blocked 1x1", "unfolded dw"])
    return [
        f"{name} s" if strides else name
        for name, strides in zip(names.tolist(), strided.tolist(), strict=True)
    ]


def path_features(sizes: Geometry) -> Array:
    """Return what trees see of the kernel of each convolution, shape (n, count)."""
    p = _Path(sizes)
    masks = (p.image, p.depthwise, p.blocked, p.point, p.direct, p.unfolded, p.plain_after, p.pixels == 1)
    counted = np.log(counts(sizes)[:, :_OF_KERNELS] + _TINY)
    return np.column_stack([*(mask.astype(float) for mask in masks), counted])


def counts(sizes: Geometry) -> Array:
    """Return what the kernel of each convolution counts, shape (n, COUNTS), scaled to be of one size."""
    p = _Path(sizes)
    found = np.where(p.blocked[:, None], _blocked(sizes, p), _product(sizes, p))
    return np.column_stack([found, _around(sizes, p)])


def _blocked(s: Geometry, p: _Path) -> Array:
    filters = np.where(p.depthwise, 1.0, np.ceil(s.outputs / s.groups / _BLOCK))
    repeats = s.batch * np.where(p.depthwise, np.ceil(s.groups / _BLOCK), s.groups)
    channels = np.where(p.image, s.inputs, np.where(p.depthwise, 1.0, ceil_to(s.depth, _BLOCK)))
    passes = np.where(
        p.point, np.ceil(channels / _CHANNELS), np.where(p.image | p.depthwise, channels, channels / _BLOCK)
    )
    flat = p.point & (s.stride == 1)
    rows = np.where(flat, 1.0, s.out_height)
    width = np.where(flat, p.pixels, s.out_width)
    inside = _inside(s.height, s.out_height, s.kernel_height, s.stride_height, s.dilation_height, s.pad_top)
    heights = np.where(flat, 1.0, inside)
    span = s.dilation_width * (s.kernel_width - 1)
    first = np.minimum(np.ceil(s.pad_left / s.stride_width), s.out_width)
    last = np.clip(np.floor((s.width - 1 - span + s.pad_left) / s.stride_width) + 1, first, s.out_width)
    inner = np.where(flat, width, last - first)
    across = _inside(s.width, s.out_width, s.kernel_width, s.stride_width, s.dilation_width, s.pad_left)
    edge = np.where(flat, 0.0, across - inner * s.kernel_width)
    left = inner % 6
    by = {
        6: np.floor(inner / 6),
        3: np.floor(left / 3),
        2: (left % 3 == 2).astype(float),
        1: (left % 3 == 1).astype(float),
    }
    full, rest = np.floor(filters / _SET), filters % _SET
    adds, busy, loads, single, visits = (np.zeros(len(rows)) for _ in range(5))
    for at_once, groups in by.items():
        steps = (groups * s.kernel_width + (edge if at_once == 1 else 0.0)) * heights * channels * repeats
        for count, number in ((_SET, full), (rest, (rest > 0).astype(float))):
            adds += steps * number * count * at_once
            busy += steps * number * np.maximum(_BUSY, count * at_once)
            loads += steps * number * (count + at_once)
            visits += steps * number
            if at_once == 1:
                single += steps * number * count
    outer = (width - inner) * rows
    groups = sum(by.values()) * rows + outer
    every = (full + (rest > 0)) * passes * repeats
    # Each pass reads and writes what there is of the output.
    vectors = width * rows * filters * passes * repeats
    return np.column_stack(
        [
            adds / 1e5, busy / 1e5, loads / 1e5, single / 1e5,
            groups * every / 1e3, rows * every / 1e3, every / 1e2,
            vectors / 1e4, s.read * (full + (rest > 0)) / 1e5,
            outer * every / 1e3, repeats * filters * channels * s.taps / 1e3,
            visits / 1e5, outer * s.kernel_width * heights * every / s.out_height / 1e4,
            np.zeros(len(rows)),
        ]
    )  # fmt: skip


def _product(s: Geometry, p: _Path) -> Array:
    m, n, k = s.outputs / s.groups, p.pixels, s.depth * s.taps
    repeats = s.batch * s.groups
    high, wide = np.full(len(m), _STRIDE), np.full(len(m), _STRIDE)
    for _ in range(7):
        flat = (n >= k) & (high / 2 >= k)
        tall = (n < k) & (wide > 16) & (wide / 2 >= n)
        wide, high = (
            np.where(flat, wide * 2, np.where(tall, wide / 2, wide)),
            np.where(flat, high / 2, np.where(tall, high * 2, high)),
        )
    pairs = np.floor(n / 32) + (n % 32 > 16)
    alone = ((n % 32 > 0) & (n % 32 <= 16)).astype(float)
    left = m % 12
    adds, busy, loads = (np.zeros(len(m)) for _ in range(3))
    kinds = (
        (12.0, np.floor(m / 12)),
        (6.0, (left > 6).astype(float)),
        (np.where(left > 6, left - 6, left), (left > 0).astype(float)),
    )
    for at_once, number in kinds:
        adds += number * (pairs * 2 * at_once + alone * at_once) * k
        busy += number * (pairs * np.maximum(_BUSY, 2 * at_once) + alone * np.maximum(_BUSY, at_once)) * k
        loads += number * (pairs * (2 + at_once) + alone * (1 + at_once)) * k
    groups = sum(number for _, number in kinds) * (pairs + alone) * np.ceil(k / high)
    panels = np.ceil(n / wide) * np.ceil(k / high)
    vector = (n == 1) | (m == 1)
    return np.column_stack(
        [
            adds * repeats / 1e5, busy * repeats / 1e5, loads * repeats / 1e5,
            vector * m * n * k * repeats / 1e6,
            groups * repeats / 1e3, panels * repeats / 1e2, repeats / 1e1,
            m * np.ceil(n / 16) * np.ceil(k / high) * repeats / 1e4,
            k * np.ceil(n / 16) * repeats / 1e4,
            p.unfolded * k * n * repeats / 1e5, m * k * repeats / 1e3,
            p.unfolded * (s.stride_width > 1) * k * n * repeats / 1e5,
            p.unfolded * k * s.out_height * repeats / 1e4,
            p.unfolded * (s.stride_width == 1) * k * s.out_height * (s.out_width % 4) * repeats / 1e4,
        ]
    )  # fmt: skip


def _around(s: Geometry, p: _Path) -> Array:
    """Return what moves data: changes of layout that a row contains, epilogues, caches."""
    one = np.ones(len(s.batch))
    out, back = p.blocked & p.plain_after, ~p.blocked & ~p.plain_after
    written = s.pixels * np.where(p.blocked, ceil_to(s.outputs, _BLOCK), s.outputs)
    read = np.where(p.blocked & ~p.image, s.read / s.inputs * ceil_to(s.inputs, _BLOCK), s.read)
    moved = read + written + s.weights
    bare = (p.pixels == 1) & p.plain_after & (s.outputs >= _BLOCK)
    return np.column_stack(
        [
            one, read / 1e5, written / 1e5, s.weights / 1e5,
            s.adds * written / 1e5, s.adds * 1.0, s.clips * written / 1e5, s.curves * written / 1e5,
            out * s.written / 1e5, out * s.batch * np.ceil(s.outputs / _BLOCK) / 1e2, out * 1.0,
            back * s.written / 1e5, back * 1.0,
            bare * -s.outputs * s.batch / 1e3,
            *(np.maximum(moved - size, 0) / 1e5 for size in (12e3, 250e3, 4e6)),
            *(np.maximum(s.weights - size, 0) / 1e5 for size in (12e3, 250e3)),
        ]
    )  # fmt: skip


def _inside(size: Array, out: Array, kernel: Array, stride: Array, dilation: Array, pad: Array) -> Array:
    """Return how many (output, tap) pairs of one axis read inside the image, not its padding."""
    found = np.zeros(len(size))
    for tap in range(int(kernel.max(initial=0.0))):
        begin = np.maximum(np.ceil((pad - tap * dilation) / stride), 0.0)
        end = np.minimum(np.floor((size - 1 + pad - tap * dilation) / stride) + 1, out)
        found += np.where(tap < kernel, np.maximum(end - begin, 0.0), 0.0)
    return found
