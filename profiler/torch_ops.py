"""ONNX operators that are not convolutions as PyTorch functions.

What an operator means is the ONNX specification's; a setting that PyTorch cannot express is a
``MeasurementError``, never an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from latency_model.errors import MeasurementError
from latency_model.ops import OpShape

__all__ = ["OPERATORS", "operator"]

Function: TypeAlias = Callable[..., Tensor]


class _Attributes:
    """The attributes of an operator, by type; every one must be asked for before ``done``."""

    def __init__(self, config: OpShape) -> None:
        self.config = config
        self._left: dict[str, str] = dict(config.attributes)

    def text(self, name: str, default: str) -> str:
        return self._left.pop(name, default)

    def number(self, name: str, default: float) -> float:
        return float(self.text(name, str(default)))

    def whole(self, name: str, default: int) -> int:
        return int(self.text(name, str(default)))

    def wholes(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        return tuple(int(word) for word in self.text(name, ",".join(map(str, default))).split(",") if word)

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(float(word) for word in self.text(name, "").split(",") if word)

    def refuse(self, why: str) -> MeasurementError:
        return MeasurementError(f"PyTorch cannot run this {self.config.op} ({why}): {self.config}")

    def done(self) -> None:
        if self._left:
            raise self.refuse(f"the attribute {sorted(self._left)[0]} is not supported")


def operator(config: OpShape) -> Function:
    """Return a function of the activations of ``config``, then its weights; ``MeasurementError`` if there is none.

    >>> operator(OpShape("Add", ((1, 2), (1, 2))))(torch.ones(1, 2), torch.ones(1, 2)).tolist()
    [[2.0, 2.0]]
    """
    if config.op not in OPERATORS:
        raise MeasurementError(
            f"PyTorch has no operator {config.op} here; it times {', '.join(sorted(OPERATORS))}: {config}"
        )
    attributes = _Attributes(config)
    try:
        function = OPERATORS[config.op](attributes)
    except ValueError as error:
        raise attributes.refuse(f"an attribute has a value that is none: {error}") from error
    attributes.done()
    return function


def _plain(function: Function) -> Callable[[_Attributes], Function]:
    return lambda _: function


def _window(a: _Attributes) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]:
    """Return kernel, stride, padding (top, left, bottom, right) and ceil mode of a 2-D pooling."""
    kernel = a.wholes("kernel_shape")
    if len(kernel) != 2:
        raise a.refuse("only two-dimensional windows are supported")
    if a.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise a.refuse("its padding depends on the input; write it as pads")
    return kernel, a.wholes("strides", (1, 1)), a.wholes("pads", (0, 0, 0, 0)), bool(a.whole("ceil_mode", 0))


def _max_pool(a: _Attributes) -> Function:
    kernel, stride, (top, left, bottom, right), ceil = _window(a)
    dilation = a.wholes("dilations", (1, 1))
    if a.whole("storage_order", 0):
        raise a.refuse("column-major indices are not supported")
    if (top, left) == (bottom, right):
        return lambda x: functional.max_pool2d(x, kernel, stride, (top, left), dilation, ceil)

    def padded(x: Tensor) -> Tensor:
        wider = functional.pad(x, (left, right, top, bottom), value=-math.inf)
        return functional.max_pool2d(wider, kernel, stride, 0, dilation, ceil)

    return padded


def _average_pool(a: _Attributes) -> Function:
    kernel, stride, (top, left, bottom, right), ceil = _window(a)
    counted = bool(a.whole("count_include_pad", 0))
    if a.wholes("dilations", (1, 1)) != (1, 1):
        raise a.refuse("dilated windows are not supported")
    if (top, left) == (bottom, right):
        return lambda x: functional.avg_pool2d(x, kernel, stride, (top, left), ceil, counted)
    if not counted or ceil:
        raise a.refuse("uneven padding that is not counted, or with ceil_mode, is not supported")
    return lambda x: functional.avg_pool2d(functional.pad(x, (left, right, top, bottom)), kernel, stride)


def _gemm(a: _Attributes) -> Function:
    alpha, beta = a.number("alpha", 1.0), a.number("beta", 1.0)
    across_a, across_b = bool(a.whole("transA", 0)), bool(a.whole("transB", 0))

    def gemm(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        x, w = (x.t() if across_a else x), (w.t() if across_b else w)
        if bias is not None:
            return torch.addmm(bias, x, w, beta=beta, alpha=alpha)
        y = x @ w
        return y if alpha == 1.0 else y * alpha

    return gemm


def _clip(a: _Attributes) -> Function:
    low, high = a.number("min", -math.inf), a.number("max", math.inf)
    return lambda x: torch.clamp(x, low, high)


def _softmax(a: _Attributes) -> Function:
    axis = a.whole("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _concat(a: _Attributes) -> Function:
    axis = a.whole("axis", 1)
    return lambda *parts: torch.cat(parts, axis)


def _transpose(a: _Attributes) -> Function:
    order = a.wholes("perm", tuple(reversed(range(len(a.config.inputs[0])))))
    # A view costs nothing and would be no row: what a network pays for is the copy.
    return lambda x: x.permute(order).contiguous()


def _reduce_mean(a: _Attributes) -> Function:
    axes = a.wholes("axes", tuple(range(len(a.config.inputs[0]))))
    keep = bool(a.whole("keepdims", 1))
    return lambda x: x.mean(axes, keepdim=keep)


def _resize(a: _Attributes) -> Function:
    mode, where = a.text("mode", "nearest"), a.text("coordinate_transformation_mode", "half_pixel")
    nearest = a.text("nearest_mode", "round_prefer_floor")
    scales, sizes, dims = a.numbers("scales"), a.wholes("sizes"), a.config.inputs[0]
    a.text("roi", ""), a.text("cubic_coeff_a", "")
    if a.text("antialias", "0") != "0" or a.text("exclude_outside", "0") != "0" or len(dims) != 4:
        raise a.refuse("only plain resizing of images is supported")
    target = sizes[2:] or tuple(math.floor(size * s) for size, s in zip(dims[2:], scales[2:], strict=False))
    if len(target) != 2 or sizes[:2] not in ((), dims[:2]) or any(scale != 1 for scale in scales[:2]):
        raise a.refuse("it needs the scales or sizes of height and width, and no others")
    repeats = all(after % before == 0 for after, before in zip(target, dims[2:], strict=True))
    halves = where in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round_prefer")
    # At whole factors rounding from the pixels' centres repeats them, as does torch's nearest; there are no ties.
    if mode == "nearest" and ((where == "asymmetric" and nearest == "floor") or (halves and repeats)):
        return lambda x: functional.interpolate(x, target, mode="nearest")
    if mode in ("linear", "cubic") and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        if mode == "cubic" or (where == "pytorch_half_pixel" and min(target) == 1):
            raise a.refuse("cubic sampling, or linear sampling to one pixel, is not supported")
        corners = where == "align_corners"
        return lambda x: functional.interpolate(x, target, mode="bilinear", align_corners=corners)
    raise a.refuse(f"mode={mode} with coordinate_transformation_mode={where} is not supported")


def _batch_norm(a: _Attributes) -> Function:
    epsilon = a.number("epsilon", 1e-5)
    a.text("momentum", "")
    if a.whole("training_mode", 0):
        raise a.refuse("it is in training mode")
    return lambda x, scale, bias, mean, variance: functional.batch_norm(
        x, mean, variance, scale, bias, training=False, eps=epsilon
    )


def _leaky_relu(a: _Attributes) -> Function:
    slope = a.number("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


def _hard_sigmoid(a: _Attributes) -> Function:
    alpha, beta = a.number("alpha", 0.2), a.number("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid
    return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)


OPERATORS: Mapping[str, Callable[[_Attributes], Function]] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _plain(torch.div),
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(lambda x: functional.adaptive_avg_pool2d(x, 1)),
    "GlobalMaxPool": _plain(lambda x: functional.adaptive_max_pool2d(x, 1)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "LeakyRelu": _leaky_relu,
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "ReduceMean": _reduce_mean,
    "Relu": _plain(functional.relu),
    "Resize": _resize,
    "Sigmoid": _plain(torch.sigmoid),
    "Softmax": _softmax,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
}
