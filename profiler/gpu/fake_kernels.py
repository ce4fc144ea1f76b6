"""The kernels of the fake GPU: names and true times, with the steps that an H100's convolutions have."""

from __future__ import annotations

import math
import re

from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape

__all__ = ["BOUNDARY", "MARKER", "bytes_of", "kernels_of"]

_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
_SMS = 132
_MACS_PER_US = {"fp32": 15e6, "tf32": 60e6, "fp16": 120e6, "bf16": 120e6}
_BYTES_PER_US = 2.0e6
MARKER, BOUNDARY = re.compile(r"^gharial_marker"), re.compile(r"transpose")


def kernels_of(config: Config, *, slow: bool = False, slow_factor: float = 1.59) -> list[tuple[str, float]]:
    """Return names and true times of the kernels that run ``config``; ``slow`` after an unlucky search.

    >>> [name.split("_")[0] for name, _ in kernels_of(ConvShape(8, 64, 14, 14, 64, precision="fp16"))]
    ['transpose', 'sm90', 'add', 'elementwise', 'transpose']
    """
    if isinstance(config, OpShape):
        moved = sum(math.prod(dims) for dims in (*config.inputs, *config.weights))
        return [(f"op_{config.op}", 1.2 + moved * _BYTES[config.precision] / _BYTES_PER_US)]
    width = _BYTES[config.precision]
    inside = config.batch * config.in_channels * config.height * config.width * width / _BYTES_PER_US
    outside = (
        config.batch * config.out_channels * config.out_height * config.out_width * width / _BYTES_PER_US
    )
    kernels = [("transpose_in_nhwc", 1.3 + inside)]
    if config.in_channels % 4 and config.groups == 1:
        kernels.append(("nhwcAddPaddingKernel", 1.2 + inside))
    kernels.append(_conv_kernel(config, inside + outside, slow=slow, slow_factor=slow_factor))
    if "bias" in config.pattern:
        kernels.append(("add_bias_broadcast", 1.2 + outside))
    if "add" in config.pattern.split("+"):
        kernels.append(("elementwise_add", 1.2 + 2 * outside))
    if config.pattern.split("+")[-1] not in ("conv", "bias", "add"):
        kernels.append((f"elementwise_{config.pattern.split('+')[-1]}", 1.1 + outside))
    return [*kernels, ("transpose_out_nchw", 1.2 + outside)]


def _conv_kernel(shape: ConvShape, memory_us: float, *, slow: bool, slow_factor: float) -> tuple[str, float]:
    """Waves of tiles over the multiprocessors; the tile, and with it the kernel, depends on the channels."""
    tile = 64 if shape.out_channels <= 128 else 128 if shape.out_channels % 128 == 0 else 96
    pixels = shape.batch * shape.out_height * shape.out_width
    tiles = math.ceil(pixels / 128) * math.ceil(shape.out_channels / tile)
    depth = math.ceil(shape.in_channels / shape.groups / 8) * 8 * shape.kernel[0] * shape.kernel[1]
    wave_us = 128 * tile * depth / (_MACS_PER_US[shape.precision] / _SMS)
    aligned = shape.out_channels % 8 == 0
    time_us = 2.0 + math.ceil(tiles / _SMS) * wave_us * (1.0 if aligned else 1.7) + memory_us
    family = "sm90_xmma_fprop_implicit_gemm" if aligned else "cutlass_fprop_analytic"
    if shape.groups > 1:
        family = "conv2d_grouped_direct"
    name = f"{family}_{shape.precision}_tilesize128x{tile}"
    return (f"sm80_{name}_splitk", time_us * slow_factor) if slow else (name, time_us)


def bytes_of(config: Config) -> float:
    """Return the device memory that a configuration needs."""
    if isinstance(config, OpShape):
        return float(sum(map(math.prod, config.inputs)) * _BYTES[config.precision])
    inside = config.batch * config.in_channels * config.height * config.width
    outside = config.batch * config.out_channels * config.out_height * config.out_width
    return float((inside + outside + config.weights) * _BYTES[config.precision])
