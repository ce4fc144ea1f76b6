"""One operator that is not a convolution, as the runtime sees it, with a canonical text form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from latency_model.errors import InputError
from latency_model.shapes import LAYOUTS, PRECISIONS, ConvShape

__all__ = ["Config", "OpShape", "parse_config"]

_DIMS = re.compile(r"\d+(?:x\d+)*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_VALUE = re.compile(r"[\w.,+-]*")


@dataclass(frozen=True, slots=True, order=True)
class OpShape:
    """An ONNX operator between convolutions (a pooling, an addition, a linear layer …) at given sizes.

    ``inputs`` are the sizes of the activations that it reads, ``weights`` those of its constant inputs, each in
    order. ``attributes`` are (name, value) pairs as text, values as ``3,3`` for lists, sorted by name;
    constant inputs whose values decide the operator's work, such as the scales of a Resize, are among them.
    Raises ``InputError`` when the parts do not describe an operator.

    >>> OpShape.parse("op MaxPool 1x64x112x112 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp16 nchw").batch
    1
    """

    op: str
    inputs: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...] = field(default=())
    attributes: tuple[tuple[str, str], ...] = field(default=())
    precision: str = "fp32"
    layout: str = "nchw"

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(sorted(self.attributes)))
        if not _NAME.fullmatch(self.op):
            raise InputError(f"not the name of an operator: {self.op!r}")
        if not self.inputs or not all(dims and min(dims) > 0 for dims in (*self.inputs, *self.weights)):
            raise InputError(f"an operator reads tensors of positive sizes, not {self.text}")
        if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in self.attributes):
            raise InputError(f"an attribute that cannot be written as text: {self.text}")
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision {self.precision!r}; known are {', '.join(PRECISIONS)}")
        if self.layout not in LAYOUTS:
            raise InputError(f"unknown layout {self.layout!r}; known are {', '.join(LAYOUTS)}")

    @classmethod
    def parse(cls, text: str) -> OpShape:
        """Return the operator that ``text`` names; the inverse of ``.text``."""
        words = text.split()
        if len(words) < 5 or words[0] != "op":
            raise InputError(
                f"not an operator: {text!r}; write it like 'op Add 1x64x56x56 1x64x56x56 fp32 nchw'"
            )
        inputs, weights, attributes = [], [], []
        for word in words[2:-2]:
            name, equals, value = word.partition("=")
            if equals:
                attributes.append((name, value))
            elif _DIMS.fullmatch(word):
                inputs.append(_dims(word))
            elif word[0] == "w" and _DIMS.fullmatch(word[1:]):
                weights.append(_dims(word[1:]))
            else:
                raise InputError(f"not a part of an operator: {word!r} in {text!r}")
        return cls(words[1], tuple(inputs), tuple(weights), tuple(attributes), words[-2], words[-1])

    @property
    def text(self) -> str:
        """Canonical short form; ``parse`` reads it back."""
        sizes = [*map(_dims_text, self.inputs), *("w" + _dims_text(dims) for dims in self.weights)]
        attributes = [f"{name}={value}" for name, value in self.attributes]
        return " ".join(["op", self.op, *sizes, *attributes, self.precision, self.layout])

    def __str__(self) -> str:
        return self.text

    @property
    def batch(self) -> int:
        """Images in the batch: the first size of the first input."""
        return self.inputs[0][0]


# What a table has rows of.
Config: TypeAlias = ConvShape | OpShape


def parse_config(text: str) -> Config:
    """Return the convolution or operator that ``text`` names; the inverse of its ``.text``."""
    return OpShape.parse(text) if text.startswith("op ") else ConvShape.parse(text)


def _dims(word: str) -> tuple[int, ...]:
    return tuple(map(int, word.split("x")))


def _dims_text(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))
