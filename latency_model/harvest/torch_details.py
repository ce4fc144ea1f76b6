"""What decides the work of one ATen operator: constant operands, and attributes in ONNX's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import Node

__all__ = ["details"]

Sizes = tuple[int, ...]
Details = tuple[tuple[Sizes, ...], dict[str, str]]


def details(
    node: Node, kind: str, *, sizes: Callable[[Any], Sizes], active: Callable[[Any], bool]
) -> Details:
    """Return the sizes of the constant operands of ``node`` and its attributes.

    ``sizes`` gives the size of an argument, ``active`` whether it is an activation.
    """
    if kind in ("add", "sub", "mul", "div"):
        constants = [a for a in node.args[:2] if not active(a)]
        return tuple(sizes(a) or (1,) for a in constants), {}
    if kind in ("linear", "layer_norm"):
        places = node.args[1:3] if kind == "linear" else node.args[2:4]
        return tuple(sizes(a) for a in places if isinstance(a, Node)), {}
    reader = _READERS.get(kind)
    return (), reader(node, sizes(node.args[0])) if reader is not None else {}


def _numbers(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def _argument(node: Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Sequence):
        return int(value[0]), int(value[-1])
    return int(value), int(value)


def _pool(node: Node, size: Sizes) -> dict[str, str]:  # noqa: ARG001 - one signature for all
    kernel = _pair(_argument(node, 1, "kernel_size", 1))
    stride = _argument(node, 2, "stride", None)
    pads = _pair(_argument(node, 3, "padding", 0))
    return {
        "kernel_shape": _numbers(kernel),
        "strides": _numbers(_pair(stride) if stride else kernel),
        "pads": _numbers(pads * 2),
    }


def _max_pool(node: Node, size: Sizes) -> dict[str, str]:
    found = _pool(node, size)
    dilation = _pair(_argument(node, 4, "dilation", 1))
    if dilation != (1, 1):
        found["dilations"] = _numbers(dilation)
    if _argument(node, 5, "ceil_mode", False):
        found["ceil_mode"] = "1"
    return found


def _avg_pool(node: Node, size: Sizes) -> dict[str, str]:
    found = _pool(node, size)
    if _argument(node, 4, "ceil_mode", False):
        found["ceil_mode"] = "1"
    if any(_pair(_argument(node, 3, "padding", 0))) and _argument(node, 5, "count_include_pad", True):
        found["count_include_pad"] = "1"
    return found


def _mean(node: Node, size: Sizes) -> dict[str, str]:
    given = _argument(node, 1, "dim", None)
    axes = range(len(size)) if given is None else [given] if isinstance(given, int) else given
    return {"axes": _numbers(sorted(axis % len(size) for axis in axes))}


def _cat(node: Node, size: Sizes) -> dict[str, str]:  # noqa: ARG001 - the sizes are those of a list
    axis = int(_argument(node, 1, "dim", 0))
    value = node.meta.get("val")
    return {"axis": str(axis % value.dim() if value is not None else axis)}


def _transpose(node: Node, size: Sizes) -> dict[str, str]:
    order = list(range(len(size)))
    one, other = (int(_argument(node, place, f"dim{place - 1}", 0)) for place in (1, 2))
    order[one], order[other] = order[other], order[one]
    return {"perm": _numbers(order)}


def _permute(node: Node, size: Sizes) -> dict[str, str]:
    return {"perm": _numbers([int(axis) % len(size) for axis in _argument(node, 1, "dims", ())])}


def _split(node: Node, size: Sizes) -> dict[str, str]:
    axis = int(_argument(node, 2, "dim", 0)) % max(1, len(size))
    return {"axis": str(axis), "split": _numbers([part.shape[axis] for part in node.meta["val"]])}


def _softmax(node: Node, size: Sizes) -> dict[str, str]:
    return {"axis": str(int(_argument(node, 1, "dim", -1)) % max(1, len(size)))}


def _resize(node: Node, size: Sizes) -> dict[str, str]:
    name, out = str(node.target), node.meta["val"].shape
    factors = [to / of for of, to in zip(size, out, strict=True)]
    mode = "nearest" if "nearest" in name else "cubic" if "bicubic" in name else "linear"
    aligned = mode != "nearest" and bool(_argument(node, 2, "align_corners", False))
    return {"scales": ",".join(f"{f:g}" for f in factors), "mode": mode} | (
        {"coordinate_transformation_mode": "align_corners"} if aligned else {}
    )


_READERS: dict[str, Callable[[Node, Sizes], dict[str, str]]] = {
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "mean": _mean,
    "cat": _cat,
    "transpose": _transpose,
    "permute": _permute,
    "split": _split,
    "softmax": _softmax,
    "resize": _resize,
}
