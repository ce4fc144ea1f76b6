"""What decides the work of one ONNX operator: its constant operands and its attributes, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import onnx
from onnx import helper

__all__ = ["details", "same_pads"]

Sizes = tuple[int, ...]


class _Known(Protocol):
    @property
    def dims(self) -> Mapping[str, Sizes]: ...

    @property
    def constants(self) -> set[str]: ...

    def numbers(self, name: str) -> list[float] | None: ...


def details(node: onnx.NodeProto, kind: str, known: _Known) -> tuple[tuple[Sizes, ...], dict[str, str]]:
    """Return the sizes of the constant operands of ``node`` and the attributes that decide its work.

    The second are what the torch reader gives for the same operator: axes counted from 0, defaults left out,
    matrices of linear layers as (outputs, inputs).
    """
    given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    size = known.dims.get(node.input[0], ())
    if kind in ("add", "sub", "mul", "div", "linear", "layer_norm"):
        constants = [name for name in node.input if name in known.constants]
        weights = [known.dims.get(name, ()) or (1,) for name in constants]
        if kind == "linear" and weights and len(weights[0]) == 2 and not given.get("transB"):
            weights[0] = weights[0][::-1]
        return tuple(weights), {}
    if kind in ("max_pool2d", "avg_pool2d"):
        return (), _pool(given, size)
    if kind == "mean":
        axes = _second(node, given, "axes", known)
        if not size or (axes is None and len(node.input) > 1 and node.input[1]):
            return (), {}
        return (), {"axes": _text(sorted(int(a) % len(size) for a in axes or range(len(size))))}
    if kind in ("cat", "softmax"):
        axis = int(given.get("axis", -1))
        return (), {"axis": str(axis % len(size) if size else axis)}
    if kind == "transpose":
        return (), {"perm": _text(given.get("perm", range(len(size))[::-1]))}
    if kind == "split":
        axis = int(given.get("axis", 0)) % max(1, len(size))
        parts = [known.dims.get(name, ()) for name in node.output]
        return (), {"axis": str(axis), "split": _text([p[axis] if len(p) > axis else 0 for p in parts])}
    if kind == "resize":
        return (), _resize(given, size, known.dims.get(node.output[0], ()))
    return (), {}


def _text(values: Sequence[int] | range) -> str:
    return ",".join(str(int(value)) for value in values)


def _second(node: onnx.NodeProto, given: Mapping[str, Any], name: str, known: _Known) -> Any:
    """Return what an operator takes as an attribute, or since a later version as its second input."""
    if name in given:
        return given[name]
    return known.numbers(node.input[1]) if len(node.input) > 1 and node.input[1] else None


def _pool(given: Mapping[str, Any], size: Sizes) -> dict[str, str]:
    kernel = tuple(given.get("kernel_shape", ()))
    strides = tuple(given.get("strides", (1,) * len(kernel)))
    dilations = tuple(given.get("dilations", (1,) * len(kernel)))
    pads = tuple(given.get("pads", (0,) * (2 * len(kernel))))
    mode = given.get("auto_pad", b"NOTSET").decode()
    if mode in ("SAME_UPPER", "SAME_LOWER") and len(kernel) == 2 and len(size) == 4:
        pads = same_pads(size[2:], kernel, strides, dilations, upper=mode == "SAME_UPPER")
    found = {"kernel_shape": _text(kernel), "strides": _text(strides), "pads": _text(pads)}
    if any(d != 1 for d in dilations):
        found["dilations"] = _text(dilations)
    if given.get("ceil_mode"):
        found["ceil_mode"] = "1"
    if any(pads) and given.get("count_include_pad"):
        found["count_include_pad"] = "1"
    return found


def _resize(given: Mapping[str, Any], size: Sizes, out: Sizes) -> dict[str, str]:
    if len(size) != len(out) or not size or min(size) < 1:
        return {}
    factors = [to / of for of, to in zip(size, out, strict=True)]
    found = {"scales": ",".join(f"{f:g}" for f in factors), "mode": given.get("mode", b"nearest").decode()}
    how = given.get("coordinate_transformation_mode", b"").decode()
    return found | ({"coordinate_transformation_mode": how} if how == "align_corners" else {})


def same_pads(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    upper: bool,
) -> tuple[int, ...]:
    """Return (top, left, bottom, right) of the automatic padding SAME_UPPER or SAME_LOWER."""
    begin, end = [], []
    for axis in (0, 1):
        steps = -(-size[axis] // stride[axis]) - 1
        total = max(0, steps * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - size[axis])
        less, more = total // 2, total - total // 2
        begin.append(less if upper else more)
        end.append(more if upper else less)
    return (*begin, *end)
