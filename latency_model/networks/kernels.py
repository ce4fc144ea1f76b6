"""The kernels that a runtime launches for a network, in the order of its convolutions.

ONNX Runtime's CUDA provider fuses nothing into a convolution in half precision: bias, addition and activation
are kernels of their own after it. Activations are kept as NHWC; the image is transposed at the beginning, and
what flattens several pixels into a linear layer is transposed back. Read off traces of ONNX Runtime 1.31.1
with ``prefer_nhwc=1`` (``benchmarks/networks_h100.py`` compares them again).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from latency_model.errors import InputError
from latency_model.network import NetworkCost, OpSite
from latency_model.ops import OpShape
from latency_model.shapes import BYTES, ConvShape

__all__ = ["RUNTIMES", "Kernel", "kernels_of"]

# Which runtimes this module knows: every epilogue a kernel of its own, or one kernel for all of a pattern.
RUNTIMES = ("onnxruntime-cuda", "fused")
_IMAGE = 4  # up to so many channels the transpose to NHWC cannot read whole lines
_EPILOGUE = {"relu": ("unary",), "clip": ("unary",), "silu": ("unary",), "hardswish": ("unary", "binary")}
_KINDS = {
    **dict.fromkeys(("Relu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "LeakyRelu", "QuickGelu"), "unary"),
    **dict.fromkeys(("Gelu", "HardSwish", "Elu", "Sqrt", "Exp"), "unary"),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), "binary"),
    **dict.fromkeys(("Concat", "Split"), "concat"),
    **dict.fromkeys(("ReduceMean", "GlobalAveragePool"), "mean"),
    "MaxPool": "max_pool",
    "AveragePool": "average_pool",
    "Transpose": "transpose",
    "BatchNormalization": "batch_norm",
    "Resize": "resize",
    **dict.fromkeys(("LayerNormalization", "Softmax", "LogSoftmax"), "normalize"),
    "Gemm": "gemm",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch: its class, whose it is, and the bytes that it reads and writes.

    ``kind`` is ``conv`` (then ``shape`` says which; padding and layout helpers belong to it), or one of the
    classes of ``GluePrices``; ``unknown`` for an operator that no class covers, whose name is ``op``.
    ``macs`` are the multiply-accumulates of a linear layer.
    """

    kind: str
    name: str
    read_bytes: int
    written_bytes: int
    shape: ConvShape | None = None
    op: str = ""
    macs: int = 0

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.written_bytes


def kernels_of(
    network: NetworkCost, runtime: str = "onnxruntime-cuda", *, counts: Mapping[str, int] | None = None
) -> tuple[Kernel, ...]:
    """Return what ``runtime`` launches for ``network`` at channel ``counts`` (full width if not given).

    First the transpose of the image, then each convolution and its epilogue, then the other operators, in the
    order of the network each. Operators without a known size (``network.others``) are kernels of kind
    ``unknown`` that move as much as a middling activation of the network: they are never free. Raises
    ``InputError`` for a runtime that is not in ``RUNTIMES``.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"the kernels of runtime {runtime!r} are not known; known are {', '.join(RUNTIMES)}")
    separate = runtime == "onnxruntime-cuda"
    full = network.groups if counts is None else network.counts(counts)
    made: list[Kernel] = []
    image = next((site for site in network.sites if not site.inputs.terms), None)
    if separate and image is not None and (shape := image.at(full)) is not None:
        size = _in(shape)
        made.append(Kernel(_transpose(shape.in_channels), f"{image.name}.image", size, size))
    for site, shape in network.shapes(full):
        weights = shape.weights * BYTES[shape.precision]
        made.append(Kernel("conv", site.name, _in(shape) + weights, _out(shape), shape))
        made += _epilogue(site.name, shape) if separate else ()
    for op, found in network.op_shapes(full):
        made += _operator(op, found, separate)
    middling = sorted(kernel.written_bytes for kernel in made)[len(made) // 2] if made else 0
    for kind, count in network.others.items():
        made += [Kernel("unknown", kind, middling, middling, op=kind)] * count
    return tuple(made)


def _in(shape: ConvShape) -> int:
    return shape.batch * shape.in_channels * shape.height * shape.width * BYTES[shape.precision]


def _out(shape: ConvShape) -> int:
    return shape.batch * shape.out_channels * shape.out_height * shape.out_width * BYTES[shape.precision]


def _transpose(channels: int) -> str:
    return "image_transpose" if channels <= _IMAGE else "transpose"


def _epilogue(name: str, shape: ConvShape) -> Iterator[Kernel]:
    size = _out(shape)
    for part in shape.pattern.split("+")[1:]:
        kinds = {"bias": ("bias",), "add": ("binary",), **_EPILOGUE}[part]
        for kind in kinds:
            yield Kernel(kind, f"{name}.{part}", size * (2 if kind == "binary" else 1), size)


def _operator(op: OpSite, shape: OpShape, separate: bool) -> Iterator[Kernel]:
    width = BYTES[shape.precision]
    reads = [math.prod(size) * width for size in shape.inputs]
    weights = sum(math.prod(size) for size in shape.weights) * width
    kind = _KINDS.get(shape.op, "unknown")
    if kind == "gemm":
        yield from _gemm(op, shape, separate)
        return
    if kind == "binary" and _broadcasts(shape):
        kind = "broadcast"
    written = {
        "concat": sum(reads),
        "mean": width * shape.inputs[0][0] * (shape.inputs[0][1] if len(shape.inputs[0]) > 1 else 1),
        "max_pool": _pooled(shape) * width,
        "average_pool": _pooled(shape) * width,
        "resize": _resized(shape) * width,
    }.get(kind, max(reads))
    yield Kernel(kind, op.name, sum(reads) + weights, written, op=shape.op)
    if separate and _activated(shape):
        yield Kernel("unary", f"{op.name}.activation", written, written, op=shape.op)
    if shape.op == "Transpose" and separate and len(shape.inputs[0]) > 4:
        # A shuffle of channels works on plain tensors: there and back again.
        for way in ("plain", "nhwc"):
            yield Kernel("transpose", f"{op.name}.{way}", reads[0], reads[0])


def _gemm(op: OpSite, shape: OpShape, separate: bool) -> Iterator[Kernel]:
    width = BYTES[shape.precision]
    rows, inputs = math.prod(shape.inputs[0][:-1]), shape.inputs[0][-1]
    outputs = shape.weights[0][0] if shape.weights else inputs
    read, written = rows * inputs * width, rows * outputs * width
    flat = any(times > 1 for axis in op.axes if axis.place == 0 for _, times in axis.channels.terms)
    if separate and flat:
        yield Kernel("transpose", f"{op.name}.flatten", read, read)
    if separate and len(shape.weights) > 1 and rows > 1:
        yield Kernel("gemm_bias", f"{op.name}.bias", outputs * width, written)
    weights = inputs * outputs * width
    yield Kernel("gemm", op.name, read + weights, written, op="Gemm", macs=rows * inputs * outputs)
    if separate and _activated(shape):
        yield Kernel("unary", f"{op.name}.activation", written, written, op="Gemm")


def _activated(shape: OpShape) -> bool:
    return any(name == "activation" for name, _ in shape.attributes)


def _broadcasts(shape: OpShape) -> bool:
    return len(set(shape.inputs)) > 1 or bool(shape.weights)


def _numbers(shape: OpShape, name: str) -> list[float]:
    text = dict(shape.attributes).get(name, "")
    return [float(number) for number in text.split(",")] if text else []


def _pooled(shape: OpShape) -> int:
    size = shape.inputs[0]
    kernel, strides, pads = (_numbers(shape, name) for name in ("kernel_shape", "strides", "pads"))
    space = size[2:]
    if len(kernel) != len(space):
        return math.prod(size)
    strides = strides or [1.0] * len(space)
    pads = pads or [0.0] * (2 * len(space))
    out = [
        max(1, int((n + pads[d] + pads[d + len(space)] - kernel[d]) // strides[d]) + 1)
        for d, n in enumerate(space)
    ]
    return size[0] * size[1] * math.prod(out)


def _resized(shape: OpShape) -> int:
    return round(math.prod(shape.inputs[0]) * math.prod(_numbers(shape, "scales") or [1.0]))
