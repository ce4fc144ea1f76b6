"""A trace of kernels, told apart by class and laid beside the kernels that were expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latency_model.networks.kernels import Kernel

__all__ = ["Traced", "align", "classify"]

# The first text that a kernel's name contains decides its class. "math" is a convolution or a linear layer: the
# libraries use the same kernels for both, so that only the place in the network tells them apart.
_MARKS = (
    ("op_generic_tensor", "bias"),
    ("_UnaryElementWise", "unary"),
    ("Clip", "unary"),
    ("BroadcastBias", "gemm_bias"),
    ("_BinaryElementWise", "binary"),
    ("pooling_fw_kernel_max", "max_pool"),
    ("pooling_fw_4d", "average"),
    ("MaxPool", "max_pool"),
    ("Transpose3D", "transpose"),
    ("Transpose4D", "transpose"),
    ("transposeNoOverlap", "transpose"),
    ("transposeWithOverlap", "transpose"),
    ("Concat", "concat"),
    ("Split", "concat"),
    ("splitKreduce", "after"),
    ("nhwcAddPadding", "helper"),
    ("nchwToNhwc", "helper"),
    ("nhwcToNchw", "helper"),
    ("tensorTransform", "helper"),
    ("convertTensor", "helper"),
    ("init_device_work", "helper"),
    *(
        (mark, "math")
        for mark in ("fprop", "nvjet", "cutlass", "gemm", "xmma", "conv2d", "convolve", "gemv", "winograd")
    ),
)
_MATH = ("conv", "gemm")
_HELPERS = ("helper", "after", "math")


@dataclass(frozen=True, slots=True)
class Traced:
    """An expected kernel and what was traced for it: the microseconds and the number of launches."""

    kernel: Kernel
    latency_us: float
    launches: int


def classify(name: str) -> str:
    """Return the class of a traced kernel, ``unknown`` for a name that no rule covers.

    Besides the kinds of ``Kernel``: ``math`` (a convolution or a linear layer), ``helper`` (padding and layout
    work of a convolution), ``after`` (the second half of either) and ``average`` (a pooling or a mean).
    """
    return next((kind for mark, kind in _MARKS if mark in name), "unknown")


def align(kernels: Sequence[Kernel], trace: Sequence[tuple[str, float]]) -> tuple[Traced, ...] | None:
    """Return ``kernels`` with their traced times, None where the trace is not that of these kernels.

    Convolutions with bias and activation, additions with what follows them, and other operators must each come
    in the order of ``kernels``, and nothing may remain on either side. Consecutive kernels of class ``math``,
    ``helper`` and ``after`` are one convolution or linear layer.
    """
    queues = _queues(kernels)
    places, last = dict.fromkeys(queues, 0), "chain"
    found: dict[int, Traced] = {}
    for kind, us, launches in _groups(trace):
        # An activation belongs to what ran just before it, a convolution or an addition.
        for name in sorted(queues, key=lambda name: name != last):
            queue, place = queues[name], places[name]
            if place < len(queue) and _fits(kernels[queue[place]], kind):
                found[queue[place]] = Traced(kernels[queue[place]], us, launches)
                places[name], last = place + 1, name
                break
        else:
            return None
    return tuple(found[place] for place in range(len(kernels))) if len(found) == len(kernels) else None


def _queues(kernels: Sequence[Kernel]) -> dict[str, list[int]]:
    """Return the places in ``kernels`` of what runs in order, by the three orders that there are."""
    queues: dict[str, list[int]] = {"chain": [], "adds": [], "rest": []}
    added = False
    for place, kernel in enumerate(kernels):
        if kernel.kind == "conv":
            added = False
        if kernel.kind != "conv" and (kernel.op or kernel.kind not in ("bias", "unary", "binary")):
            queues["rest"].append(place)
            continue
        # An addition runs when its other operand is there, which may be several convolutions later.
        added = added or kernel.kind == "binary"
        queues["adds" if added else "chain"].append(place)
    return queues


def _fits(kernel: Kernel, kind: str) -> bool:
    same = {
        "image_transpose": "transpose",
        "mean": "average",
        "average_pool": "average",
        "broadcast": "binary",
    }
    return kind == ("math" if kernel.kind in _MATH else same.get(kernel.kind, kernel.kind))


def _groups(trace: Sequence[tuple[str, float]]) -> list[tuple[str, float, int]]:
    made: list[tuple[str, float, int]] = []
    for name, us in trace:
        kind = classify(name)
        joins = "math" if kind in _HELPERS else kind
        if joins == "math" and made and made[-1][0] == "math":
            made[-1] = ("math", made[-1][1] + us, made[-1][2] + 1)
        else:
            made.append((joins, us, 1))
    return made
