"""What the matrix products of ONNX Runtime count: convolutions that are not of blocked channels.

The product of filters and pixels goes by panels of 128 x 128, narrower and deeper or wider and flatter where the
matrix is; each panel of pixels is copied first. The kernel takes twelve filters and two vectors of 16 pixels at once,
then six or fewer of what is left. Windows of more than one pixel, and strides, unfold the image: each row of
pixels is copied once for every tap.

Source: ONNX Runtime, core/mlas/lib/sgemm.cpp, convolve.cpp and x86_64/FgemmKernelAvx512FCommon.h.
"""

from __future__ import annotations

import numpy as np

from latency_model.regression.blocked import BUSY
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.paths import Paths

__all__ = ["panel", "product_counts"]

_PANEL = 128.0
_VECTOR = 16.0
_NARROWEST = 16.0
_HALVINGS = 7  # from 128 to 1


def panel(pixels: Array, depth: Array) -> tuple[Array, Array]:
    """Return the width (pixels) and the height (depth) of a panel."""
    wide, high = np.full(len(pixels), _PANEL), np.full(len(pixels), _PANEL)
    for _ in range(_HALVINGS):
        flat = (pixels >= depth) & (high / 2 >= depth)
        tall = (pixels < depth) & (wide > _NARROWEST) & (wide / 2 >= pixels)
        factor = np.where(flat, 2.0, np.where(tall, 0.5, 1.0))
        wide, high = wide * factor, high / factor
    return wide, high


def product_counts(s: Geometry, p: Paths) -> Array:
    """Return what the products count, shape (n, 14), scaled to be of one size; without meaning for other paths."""
    m, n, k = s.outputs / s.groups, p.pixels, s.depth * s.taps
    repeats = s.batch * s.groups
    wide, high = panel(n, k)
    pairs = np.floor(n / 32) + (n % 32 > _VECTOR)  # of vectors of pixels
    alone = (n % 32 > 0) & (n % 32 <= _VECTOR)
    left = m % 12
    filters = (
        (np.full(len(m), 12.0), np.floor(m / 12)),
        (np.full(len(m), 6.0), left > 6),
        (np.where(left > 6, left - 6, left), left > 0),
    )
    adds, busy, loads, groups = (np.zeros(len(m)) for _ in range(4))
    for at_once, number in filters:
        adds += number * (pairs * 2 + alone) * at_once * k
        busy += number * (pairs * np.maximum(BUSY, 2 * at_once) + alone * np.maximum(BUSY, at_once)) * k
        loads += number * (pairs * (2 + at_once) + alone * (1 + at_once)) * k
        groups += number * (pairs + alone)
    deep, vectors = np.ceil(k / high), np.ceil(n / _VECTOR)
    single = (n == 1) | (m == 1)
    rows = p.unfolded * k * s.out_height
    each = [
        *(adds / 1e5, busy / 1e5, loads / 1e5, single * m * n * k / 1e6),
        *(groups * deep / 1e3, np.ceil(n / wide) * deep / 1e2, np.ones(len(m)) / 1e1),
        m * vectors * deep / 1e4,
        k * vectors / 1e4,
        p.unfolded * k * n / 1e5,
        m * k / 1e3,
        p.unfolded * (s.stride_width > 1) * k * n / 1e5,
        rows / 1e4,
        (s.stride_width == 1) * rows * (s.out_width % 4) / 1e4,
    ]
    found: Array = np.column_stack(each) * repeats[:, None]
    return found
