"""Which of its kernels ONNX Runtime runs on a CPU: it follows from the shape alone.

Dense convolutions of fewer channels than a block read the plain layout and write the blocked one; dense and depthwise
ones of a multiple of four channels run blocked, and so do grouped ones whose groups have whole blocks. All others
are matrix products, with the image unfolded first unless the window is one pixel. The rules are those of
``harvest.fusion``, blocks of 16 channels those of AVX-512.

Sources: ONNX Runtime, core/optimizer/nchwc_transformer.cc, and core/mlas/lib/convolve.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.regression.geometry import Array, Geometry

__all__ = ["BLOCK", "Paths", "paths"]

BLOCK = 16.0  # channels
_ALIGNED = 4.0  # what channels must be a multiple of
_STRIDES_PART = ("blocked dw", "blocked 1x1", "unfolded dw")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Paths:
    """How each of n convolutions runs, as masks of shape (n,).

    ``blocked`` ones write the blocked layout: those of an ``image`` read the plain one, ``point`` ones have a window
    of one pixel, ``depthwise`` one input and one output channel a group. Others are products, ``unfolded`` ones of
    a copy of the image. ``plain_after`` says that a convolution that follows reads the plain layout.
    """

    image: Mask
    depthwise: Mask
    blocked: Mask
    point: Mask
    direct: Mask
    unfolded: Mask
    plain_after: Mask
    pixels: Array

    @classmethod
    def of(cls, sizes: Geometry) -> Paths:
        """Return the paths of convolutions of ``sizes``."""
        s, dense = sizes, sizes.groups == 1
        image = dense & (s.inputs < BLOCK)
        depthwise = s.depthwise & (s.outputs == s.groups)
        whole = ~dense & (s.depth % BLOCK == 0) & (s.outputs / s.groups % BLOCK == 0)
        aligned = np.where(dense, s.inputs, s.outputs) % _ALIGNED == 0
        blocked = image | whole | ((dense | depthwise) & aligned)
        bare = (s.taps == 1) & (s.pad_top == 0) & (s.pad_left == 0)
        direct = bare & (s.stride == 1) & ~blocked
        return cls(
            image=image,
            depthwise=depthwise,
            blocked=blocked,
            point=bare & blocked & ~image & ~depthwise,
            direct=direct,
            unfolded=~blocked & ~direct,
            plain_after=(s.outputs < BLOCK) | (s.outputs % _ALIGNED != 0),
            pixels=s.out_height * s.out_width,
        )

    @property
    def masks(self) -> list[Mask]:
        """All of them, and which convolutions have one pixel."""
        kernels = [self.image, self.depthwise, self.blocked, self.point, self.direct, self.unfolded]
        return [*kernels, self.plain_after, self.pixels == 1]

    @property
    def bare_vector(self) -> Mask:
        """Convolutions of one pixel that a matrix product reads next.

        As rows they lack what a stride costs that product: with one pixel it has none in the graph of the row, but
        the sinks that are subtracted have.
        """
        return (self.pixels == 1) & self.plain_after


def paths(sizes: Geometry) -> list[str]:
    """Return a name of each one's kernel, and of what else sets rows apart: a family of the regression."""
    s, p = sizes, Paths.of(sizes)
    named = (
        ("vector bare", p.bare_vector & (s.outputs >= BLOCK)),
        ("vector", p.direct & (p.pixels == 1)),
        ("image 1x1", p.image & (s.taps == 1)),
        ("image", p.image),
        ("blocked dw", p.blocked & p.depthwise),
        ("blocked 1x1", p.point),
        ("blocked", p.blocked),
        ("product", p.direct),
        ("unfolded dw", s.depthwise),
        ("unfolded groups", s.groups > 1),
        ("unfolded whole", s.outputs > p.pixels),  # at once, not in segments
    )
    names = np.select([mask for _, mask in named], [name for name, _ in named], "unfolded").tolist()
    strided = (s.stride > 1).tolist()
    return [
        f"{name} s" if strides and name in _STRIDES_PART else name
        for name, strides in zip(names, strided, strict=True)
    ]
