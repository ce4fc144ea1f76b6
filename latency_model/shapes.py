"""One convolution as the runtime sees it, with a canonical text form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from latency_model.errors import InputError

__all__ = ["BYTES", "PATTERNS", "PRECISIONS", "ConvShape"]

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
# Bytes of one number in memory; tf32 is a way to compute, stored as fp32.
BYTES: Mapping[str, int] = MappingProxyType({"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1})
# What the runtime executes together with the convolution, in execution order; "conv" is the bare operator.
PATTERNS = tuple(
    "+".join(filter(None, ("conv", bias, add, act)))
    for bias in ("", "bias")
    for add in ("", "add")
    for act in ("", "relu", "clip", "hardswish", "silu")
)
LAYOUTS = ("nchw", "nhwc")

_TEXT = re.compile(
    r"(?P<n>\d+)x(?P<c>\d+)x(?P<h>\d+)x(?P<w>\d+) ->(?P<o>\d+) k(?P<k>[\dx]+) s(?P<s>[\dx]+) p(?P<p>[\dx,]+)"
    r"(?: d(?P<d>[\dx]+))? g(?P<g>\d+) (?P<pattern>[a-z+]+) (?P<precision>\w+) (?P<layout>\w+)"
)


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition("x")
    return int(first), int(second or first)


def _pads(text: str) -> tuple[int, int, int, int]:
    if "," in text:
        top, left, bottom, right = map(int, text.split(","))
        return top, left, bottom, right
    vertical, horizontal = _pair(text)
    return vertical, horizontal, vertical, horizontal


def _pair_text(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _pads_text(pads: tuple[int, int, int, int]) -> str:
    return _pair_text(pads[:2]) if pads[:2] == pads[2:] else ",".join(map(str, pads))


@dataclass(frozen=True, slots=True, order=True)
class ConvShape:
    """A 2-D convolution with the epilogue that its runtime fuses: the key of a latency table.

    ``padding`` is (top, left, bottom, right). ``pattern`` is one of ``PATTERNS``: a batch norm is folded
    and appears as ``bias``. ``layout`` is the memory layout of the activations that the graph asks for.
    Raises ``InputError`` when the numbers do not describe a convolution.

    >>> ConvShape.parse("8x64x56x56 ->128 k3 s2 p1 g1 conv+bias+relu fp16 nhwc").out_height
    28
    """

    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pattern: str = "conv+bias+relu"
    precision: str = "fp32"
    layout: str = "nchw"

    def __post_init__(self) -> None:
        positive = (self.batch, self.in_channels, self.height, self.width, self.out_channels, self.groups)
        if min(*positive, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise InputError(f"not a convolution, every size must be positive: {self.text}")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"not a convolution, {self.groups} groups do not divide the channels: {self.text}"
            )
        if self.pattern not in PATTERNS:
            raise InputError(f"unknown fused pattern {self.pattern!r}; known are {', '.join(PATTERNS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision {self.precision!r}; known are {', '.join(PRECISIONS)}")
        if self.layout not in LAYOUTS:
            raise InputError(f"unknown layout {self.layout!r}; known are {', '.join(LAYOUTS)}")
        if self.out_height < 1 or self.out_width < 1:
            raise InputError(f"not a convolution, the kernel is larger than the padded input: {self.text}")

    @classmethod
    def parse(cls, text: str) -> ConvShape:
        """Return the shape that ``text`` names; the inverse of ``.text``."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"not a convolution shape: {text!r}; write it like "
                "'8x64x56x56 ->128 k3 s2 p1 g1 conv+bias+relu fp16 nhwc'"
            )
        part = match.groupdict()
        return cls(
            batch=int(part["n"]),
            in_channels=int(part["c"]),
            height=int(part["h"]),
            width=int(part["w"]),
            out_channels=int(part["o"]),
            kernel=_pair(part["k"]),
            stride=_pair(part["s"]),
            padding=_pads(part["p"]),
            dilation=_pair(part["d"] or "1"),
            groups=int(part["g"]),
            pattern=part["pattern"],
            precision=part["precision"],
            layout=part["layout"],
        )

    @property
    def text(self) -> str:
        """Canonical short form; ``parse`` reads it back."""
        dilation = "" if self.dilation == (1, 1) else f" d{_pair_text(self.dilation)}"
        return (
            f"{self.batch}x{self.in_channels}x{self.height}x{self.width} ->{self.out_channels} "
            f"k{_pair_text(self.kernel)} s{_pair_text(self.stride)} p{_pads_text(self.padding)}{dilation} "
            f"g{self.groups} {self.pattern} {self.precision} {self.layout}"
        )

    def __str__(self) -> str:
        return self.text

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has a filter of its own."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return self._out(self.height, 0)

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return self._out(self.width, 1)

    def _out(self, size: int, axis: int) -> int:
        span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + self.padding[axis] + self.padding[axis + 2] - span) // self.stride[axis] + 1

    @property
    def weights(self) -> int:
        """Parameters of the kernel, bias not counted."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run on the whole batch, padding counted as work."""
        return self.batch * self.out_height * self.out_width * self.weights

    def with_channels(self, in_channels: int, out_channels: int) -> ConvShape:
        """Return the same site with other channel counts; a depthwise site keeps one filter per channel."""
        groups = in_channels if self.depthwise else self.groups
        return dataclasses.replace(self, in_channels=in_channels, out_channels=out_channels, groups=groups)

    @property
    def site(self) -> ConvShape:
        """The shape with both channel counts set to a placeholder: equal for one family of configurations."""
        if self.depthwise:
            multiplier = self.out_channels // self.in_channels
            return dataclasses.replace(self, in_channels=2, out_channels=2 * multiplier, groups=2)
        # Two channels a group, where there are groups: with one it would be the site of a depthwise convolution.
        width = self.groups if self.groups == 1 else 2 * self.groups
        return dataclasses.replace(self, in_channels=width, out_channels=width)
