"""The parts of what a convolution costs on a CPU: what its kernel counts, data moved, changes of layout."""

from __future__ import annotations

import numpy as np

from latency_model.regression.blocked import blocked_counts
from latency_model.regression.geometry import Array, Geometry, ceil_to
from latency_model.regression.paths import BLOCK, Paths
from latency_model.regression.products import product_counts

__all__ = ["GROUPS", "counts", "path_features"]

# Which counts another CPU scales together: arithmetic, moved pixels, moved weights, loops and calls, constants.
GROUPS = (
    (0, 1, 2, 3, 11),
    (7, 8, 15, 16, 18, 20, 21, 22, 25, 28, 29, 30),
    (10, 17, 31, 32),
    (4, 5, 6, 9, 12, 13, 23),
    (14, 19, 24, 26, 27),
)
_CACHES = (12e3, 250e3, 4e6)  # numbers that fit


def counts(sizes: Geometry) -> Array:
    """Return the counts, shape (n, 33), scaled to be of one size."""
    p = Paths.of(sizes)
    found = np.where(p.blocked[:, None], blocked_counts(sizes, p), product_counts(sizes, p))
    return np.column_stack([found, _around(sizes, p)])


def path_features(sizes: Geometry) -> Array:
    """Return what trees see of the kernel of each convolution, shape (n, 8)."""
    return np.column_stack(Paths.of(sizes).masks).astype(np.float64)


def _around(s: Geometry, p: Paths) -> Array:
    out, back = p.blocked & p.plain_after, ~p.blocked & ~p.plain_after  # the next layer's change of layout
    written = s.pixels * np.where(p.blocked, ceil_to(s.outputs, BLOCK), s.outputs)
    read = np.where(p.blocked & ~p.image, s.read / s.inputs * ceil_to(s.inputs, BLOCK), s.read)
    moved = read + written + s.weights
    return np.column_stack(
        [
            *(np.ones(len(s.batch)), read / 1e5, written / 1e5, s.weights / 1e5),
            *(s.adds * written / 1e5, s.adds, s.clips * written / 1e5, s.curves * written / 1e5),
            *(out * s.written / 1e5, out * s.batch * np.ceil(s.outputs / BLOCK) / 1e2, out),
            *(back * s.written / 1e5, back),
            # The only one that takes away, see Paths.bare_vector.
            -(p.bare_vector & (s.outputs >= BLOCK)).astype(float) * s.outputs * s.batch / 1e3,
            *(np.maximum(moved - size, 0.0) / 1e5 for size in _CACHES),
            *(np.maximum(s.weights - size, 0.0) / 1e5 for size in _CACHES[:2]),
        ]
    )
