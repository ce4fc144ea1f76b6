"""The sizes of convolutions that their cost follows from, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.shapes import BYTES

__all__ = ["Array", "Geometry", "ceil_to"]

Array = NDArray[np.float64]
_VECTOR_BYTES = 16  # what a GPU and a CPU alike load at once: channel counts are padded to whole vectors


def ceil_to(values: Array, step: float | Array) -> Array:
    """Return ``values`` rounded up to multiples of ``step``."""
    found: Array = np.ceil(values / step) * step
    return found


@dataclass(frozen=True)
class Geometry:
    """Sizes of n convolutions as float64 arrays of shape (n,).

    ``inputs`` and ``outputs`` are channels, ``depth`` the input channels of one group, ``taps`` the elements of
    one kernel, ``vector`` the channels that make one 16-byte vector. ``stride`` and ``dilation``
    are those of both axes multiplied. ``adds`` says that another tensor is added to the output, ``clips`` that a
    clip follows, ``curves`` an activation that is no piecewise line.
    """

    batch: Array
    inputs: Array
    outputs: Array
    height: Array
    width: Array
    out_height: Array
    out_width: Array
    groups: Array
    kernel_height: Array
    kernel_width: Array
    stride: Array
    dilation: Array
    vector: Array
    depthwise: NDArray[np.bool_]
    stride_height: Array
    stride_width: Array
    dilation_height: Array
    dilation_width: Array
    pad_top: Array
    pad_left: Array
    adds: NDArray[np.bool_]
    clips: NDArray[np.bool_]
    curves: NDArray[np.bool_]

    @classmethod
    def of(cls, columns: ConvColumns) -> Geometry:
        """Return the sizes of ``columns``."""

        def floats(values: NDArray[np.int64]) -> Array:
            return values.astype(np.float64)

        vectors = np.array([_VECTOR_BYTES / BYTES[kind.precision] for kind in columns.kinds])
        return cls(
            batch=floats(columns.batch),
            inputs=floats(columns.in_channels),
            outputs=floats(columns.out_channels),
            height=floats(columns.height),
            width=floats(columns.width),
            out_height=floats(columns.out_height),
            out_width=floats(columns.out_width),
            groups=floats(columns.groups),
            kernel_height=floats(columns.each("kernel", 0)),
            kernel_width=floats(columns.each("kernel", 1)),
            stride=floats(columns.each("stride", 0) * columns.each("stride", 1)),
            dilation=floats(columns.each("dilation", 0) * columns.each("dilation", 1)),
            vector=vectors[columns.kind] if len(vectors) else np.zeros(0),
            depthwise=(columns.groups > 1) & (columns.groups == columns.in_channels),
            stride_height=floats(columns.each("stride", 0)),
            stride_width=floats(columns.each("stride", 1)),
            dilation_height=floats(columns.each("dilation", 0)),
            dilation_width=floats(columns.each("dilation", 1)),
            pad_top=floats(columns.each("padding", 0)),
            pad_left=floats(columns.each("padding", 1)),
            adds=_of_patterns(columns, {"add"}),
            clips=_of_patterns(columns, {"clip"}),
            curves=_of_patterns(columns, {"hardswish", "silu"}),
        )

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Geometry:
        """Return the convolutions at ``places``."""
        return Geometry(**{name: getattr(self, name)[places] for name in self.__dataclass_fields__})

    @property
    def depth(self) -> Array:
        """Input channels that one output sees."""
        return self.inputs / self.groups

    @property
    def taps(self) -> Array:
        """Elements of a kernel window."""
        return self.kernel_height * self.kernel_width

    @property
    def pixels(self) -> Array:
        """Output pixels of the whole batch."""
        return self.batch * self.out_height * self.out_width

    @property
    def read(self) -> Array:
        """Numbers of the input."""
        return self.batch * self.inputs * self.height * self.width

    @property
    def written(self) -> Array:
        """Numbers of the output."""
        return self.pixels * self.outputs

    @property
    def weights(self) -> Array:
        """Numbers of the weights."""
        return self.outputs * self.depth * self.taps

    @property
    def macs(self) -> Array:
        """Multiply-accumulates."""
        return self.pixels * self.weights


def _of_patterns(columns: ConvColumns, words: set[str]) -> NDArray[np.bool_]:
    found = np.array(
        [not words.isdisjoint(kind.pattern.split("+")) for kind in columns.kinds], dtype=np.bool_
    )
    return found[columns.kind]
