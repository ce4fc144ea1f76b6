"""The memory formats of TensorRT's inputs and outputs: which to allow, and arrays from and to NCHW.

A copy of a convolution is measured as in the middle of a network, so the builder may choose the format of what it
reads and writes: a reformat at its ends would be counted with it otherwise.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import MeasurementError

__all__ = ["allowed_formats", "pack", "physical_dims", "unpack"]

# What the builder accepts, without a format that only an accelerator other than a GPU has. TensorRT-RTX keeps fp16
# tensors channel-last without padding between its layers, TensorRT pads them to eight channels.
_CHANNEL_LAST: dict[str, dict[str, tuple[str, ...]]] = {
    "tensorrt": {
        "fp32": ("HWC",),
        "tf32": ("HWC",),
        "fp16": ("HWC8",),
        "bf16": ("HWC8",),
        "int8": ("HWC16", "CHW32", "CHW4"),
    },
    "tensorrt_rtx": {
        "fp32": ("HWC",),
        "tf32": ("HWC",),
        "fp16": ("HWC",),
        "bf16": ("HWC8",),
        "int8": ("HWC16",),
    },
}
_NAME = re.compile(r"(?P<order>HWC|CHW)(?P<width>\d*)")


def allowed_formats(trt: Any, flavour: str, *, precision: str, layout: str) -> int:
    """Return the bit mask for ``ITensor.allowed_formats``: with layout ``nhwc`` channel-last ones only."""
    names = [*_CHANNEL_LAST[flavour][precision], *(["LINEAR"] if layout == "nchw" else [])]
    mask = 0
    for name in names:
        mask |= 1 << int(getattr(trt.TensorFormat, name))
    return mask


def _split(name: str) -> tuple[str, int]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise MeasurementError(f"arrays in TensorRT's format {name} are not supported")
    return match["order"], int(match["width"] or 1)


def physical_dims(dims: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return the sizes of the array that holds a tensor of ``dims`` (NCHW) in the format ``name``."""
    if name == "LINEAR":
        return dims
    order, width = _split(name)
    batch, channels, height, rows = dims
    vectors = -(-channels // width)
    return (batch, height, rows, vectors * width) if order == "HWC" else (batch, vectors, height, rows, width)


def pack(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Return ``array`` (NCHW) in the format ``name``, channels padded with zeros as the format asks."""
    if name == "LINEAR":
        return np.ascontiguousarray(array)
    order, width = _split(name)
    batch, channels, height, columns = array.shape
    padded = np.pad(array, ((0, 0), (0, -channels % width), (0, 0), (0, 0)))
    if order == "HWC":
        return np.ascontiguousarray(padded.transpose(0, 2, 3, 1))
    vectors = padded.reshape(batch, -1, width, height, columns)
    return np.ascontiguousarray(vectors.transpose(0, 1, 3, 4, 2))


def unpack(array: NDArray[Any], name: str, dims: tuple[int, ...]) -> NDArray[Any]:
    """Return as NCHW of ``dims`` what ``pack`` put into the format ``name``."""
    if name == "LINEAR":
        return array.reshape(dims)
    order, _ = _split(name)
    stored = array.reshape(physical_dims(dims, name))
    if order == "HWC":
        whole = stored.transpose(0, 3, 1, 2)
    else:
        whole = stored.transpose(0, 1, 4, 2, 3).reshape(dims[0], -1, *dims[2:])
    return np.ascontiguousarray(whole[:, : dims[1]])
