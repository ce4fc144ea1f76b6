"""Many convolutions as arrays, one per size: what lookups, regression and files of rows work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.shapes import ConvShape

__all__ = ["ConvColumns", "Kind"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kind:
    """What convolutions have in common beside batch, channels, image size and groups."""

    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    pattern: str = "conv+bias+relu"
    precision: str = "fp32"
    layout: str = "nchw"

    @classmethod
    def of(cls, shape: ConvShape) -> Kind:
        """Return the kind of ``shape``."""
        return cls(*(getattr(shape, field.name) for field in dataclasses.fields(cls)))


@dataclass(frozen=True, eq=False)
class ConvColumns:
    """``n`` convolutions: int64 arrays of shape (n,), and ``kind``, the place of each one's kind in ``kinds``.

    Raises ``InputError`` when the arrays are not of one length.
    """

    batch: Ints
    in_channels: Ints
    height: Ints
    width: Ints
    out_channels: Ints
    groups: Ints
    kind: Ints
    kinds: tuple[Kind, ...]

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in (*_SIZES, "kind")}
        if len(lengths) != 1:
            raise InputError(f"the columns of convolutions have {len(lengths)} different lengths")

    def __len__(self) -> int:
        return len(self.batch)

    def __iter__(self) -> Iterator[ConvShape]:
        """Yield each convolution; raises ``InputError`` at the first that is none."""
        sizes = zip(*(getattr(self, name).tolist() for name in _SIZES), self.kind.tolist(), strict=True)
        for batch, inputs, height, width, outputs, groups, kind in sizes:
            k = self.kinds[kind]
            yield ConvShape(
                batch,
                inputs,
                height,
                width,
                outputs,
                k.kernel,
                k.stride,
                k.padding,
                k.dilation,
                groups,
                k.pattern,
                k.precision,
                k.layout,
            )

    @classmethod
    def of(cls, shapes: Sequence[ConvShape]) -> ConvColumns:
        """Return the columns of ``shapes``, in their order."""
        places: dict[Kind, int] = {}
        kind = [places.setdefault(Kind.of(shape), len(places)) for shape in shapes]
        sizes = {n: np.array([getattr(shape, n) for shape in shapes], dtype=np.int64) for n in _SIZES}
        return cls(**sizes, kind=np.array(kind, dtype=np.int64), kinds=tuple(places))

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_] | slice) -> ConvColumns:
        """Return the convolutions at ``places``: indices, a mask, or a slice."""
        return dataclasses.replace(self, **{n: getattr(self, n)[places] for n in (*_SIZES, "kind")})

    def each(self, name: str, place: int | None = None) -> Ints:
        """Return a number of each one's kind as an array: ``each("kernel", 0)`` are the kernel heights."""
        values = [getattr(kind, name) for kind in self.kinds]
        numbers = [value if place is None else value[place] for value in values]
        return np.array(numbers, dtype=np.int64)[self.kind]

    @cached_property
    def out_height(self) -> Ints:
        """Rows of the outputs."""
        return self._out(self.height, 0)

    @cached_property
    def out_width(self) -> Ints:
        """Columns of the outputs."""
        return self._out(self.width, 1)

    def _out(self, size: Ints, axis: int) -> Ints:
        span = self.each("dilation", axis) * (self.each("kernel", axis) - 1) + 1
        padded = size + self.each("padding", axis) + self.each("padding", axis + 2)
        return (padded - span) // self.each("stride", axis) + 1


_SIZES = ("batch", "in_channels", "height", "width", "out_channels", "groups")
