"""A formula with the manners of an H100's convolution kernels: a 2-D ground truth for the adaptive plan.

Not a simulator. A kernel has a tile of pixels x output channels x input channels, a loop over the input
channels, a wave of as many tiles as 132 multiprocessors hold, penalties for unaligned input channels, and a
name. Of the kernels that the runtime's search is offered (a random part, drawn anew at every shape, as a
search over a heuristic's shortlist is), the one that looks fastest under the noise of the search is taken: so
a few per cent of the points have a bad kernel. ``PARAMETERS`` were fitted by ``calibrate.py`` to measured rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from latency_model.measurement import Measurement
from latency_model.shapes import ConvShape

Array = NDArray[np.float64]
SMS = 132


@dataclass(frozen=True)
class Parameters:
    """Microseconds, and rates per microsecond of one multiprocessor."""

    launch_us: float = 2.1
    wave_us: float = 0.6
    wave_nvjet_us: float = 0.3
    step_us: float = 0.06
    rate_sm90: float = 2.6e6
    rate_sm80: float = 1.2e6
    rate_nvjet: float = 2.6e6
    odd16: float = 1.02
    odd32: float = 1.05
    odd64_sm90: float = 1.5
    bytes_per_us: float = 3.5e6
    direct_us: float = 0.03
    search_noise: float = 0.03
    offered: float = 0.6


# benchmarks/adaptive/calibrate.py prints this line.
PARAMETERS = Parameters(
    launch_us=2.138,
    wave_us=3.396,
    wave_nvjet_us=0.6625,
    step_us=0.0454,
    rate_sm90=3702000.0,
    rate_sm80=171300.0,
    rate_nvjet=1946000.0,
    odd16=1.038,
    odd32=1.284,
    odd64_sm90=1.0,
    bytes_per_us=4502000.0,
    direct_us=0.09062,
    search_noise=0.05,
    offered=0.8,
)


@dataclass(frozen=True)
class Kernel:
    name: str
    family: str
    pixels: int
    outputs: int
    inputs: int
    resident: int = 1  # blocks of it that a multiprocessor holds
    parts: int = 1  # split of the loop over the input channels


def kernels(kernel_size: int) -> tuple[Kernel, ...]:
    """Return the candidates for a 1x1 or a larger convolution."""
    sm90 = ((64, 64, 64), (64, 128, 64), (64, 192, 64), (128, 128, 64), (256, 128, 64), (128, 256, 32))
    sm90 += ((256, 64, 32), (128, 64, 32), (128, 128, 32))
    sm80 = ((64, 64, 64), (64, 32, 64), (128, 32, 32))
    cutlass = ((64, 64, 64), (64, 64, 32), (64, 128, 32), (128, 128, 32), (256, 64, 32))
    found = [
        Kernel(f"sm90_xmma_fprop_implicit_gemm_tilesize{m}x{n}x{k}_warpgroups", "sm90", m, n, k)
        for m, n, k in sm90
    ]
    found += [
        Kernel(f"sm80_xmma_fprop_implicit_gemm_tilesize{m}x{n}x{k}_warp", "sm80", m, n, k, 2)
        for m, n, k in sm80
    ]
    found += [
        Kernel(f"cutlass_tensorop_f16_s16816fprop_optimized_f16_{m}x{n}_{k}", "cutlass", m, n, k, 2)
        for m, n, k in cutlass
    ]
    found.append(Kernel("sm80_xmma_fprop_implicit_gemm_indexed_wo_smem_128x64", "direct", 128, 64, 8, 2))
    found.append(Kernel("sm90_xmma_fprop_splitk_64x64x64", "sm90", 64, 64, 64, 1, 4))
    if kernel_size == 1:
        found += [
            Kernel(f"nvjet_sm90_hsh_{n}x{m}_64", "nvjet", m, n, 64)
            for n in range(8, 257, 8)
            for m in (64, 128, 192, 256)
            if n * m <= 256 * 128
        ]
    return tuple(found)


def _hash01(seed: int, *columns: NDArray[np.int64]) -> Array:
    """Return numbers in (0, 1) that depend on nothing but the arguments (splitmix64)."""
    state = np.full(columns[0].shape, np.uint64(seed * 2654435761 + 1), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            state = state ^ (column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53 + 1e-12


def kernel_us(
    kernel: Kernel, p: Parameters, pixels: Array, a: Array, b: Array, taps: Array, area: Array
) -> Array:
    """Return the time of one kernel: ``a`` and ``b`` channels, ``taps`` of the filter, ``area`` of the input."""
    blocks = np.ceil(pixels / kernel.pixels) * np.ceil(b / kernel.outputs) * kernel.parts
    waves = np.ceil(blocks / (SMS * kernel.resident))
    steps = taps * np.ceil(a / kernel.inputs) / kernel.parts
    work = kernel.pixels * kernel.outputs * kernel.inputs
    if kernel.family == "direct":
        step = np.full_like(a, p.direct_us) * kernel.resident
    else:
        rate = {"sm90": p.rate_sm90, "nvjet": p.rate_nvjet}.get(kernel.family, p.rate_sm80)
        step = np.full_like(a, p.step_us + work * kernel.resident / rate)
    step = step * np.where(a % 16 == 0, 1.0, p.odd16) * np.where(a % 32 == 0, 1.0, p.odd32)
    if kernel.family == "sm90":
        step = step * np.where(a % 64 == 0, 1.0, p.odd64_sm90)
    wave = p.wave_nvjet_us if kernel.family == "nvjet" else p.wave_us
    compute = waves * (wave + steps * step)
    memory = 2.0 * (area * a + pixels * b * (2 if kernel.parts > 1 else 1) + a * b * taps) / p.bytes_per_us
    return p.launch_us + (compute**2 + memory**2) ** 0.5 + (1.5 if kernel.parts > 1 else 0.0)


def latencies(
    batch: NDArray,
    height: NDArray,
    kernel_size: int,
    stride: int,
    a: NDArray,
    b: NDArray,
    *,
    parameters: Parameters = PARAMETERS,
    seed: int = 0,
) -> tuple[Array, list[str], NDArray[np.int64]]:
    """Return the true microseconds of fp16 convolutions, the kernels' names, and which one each point runs."""
    out = -(-height // stride)
    pixels, area = (batch * out * out).astype(float), (batch * height * height).astype(float)
    candidates = kernels(kernel_size)
    columns = [np.asarray(c, dtype=np.int64) for c in (batch, height, a, b)]
    taps = np.full(len(a), float(kernel_size**2))
    times = np.stack(
        [kernel_us(k, parameters, pixels, a.astype(float), b.astype(float), taps, area) for k in candidates]
    )
    looks = np.empty_like(times)
    for row, _ in enumerate(candidates):
        u, v, w = (
            _hash01(seed * 100003 + 31 * row + draw + 7919 * kernel_size + 104729 * stride, *columns)
            for draw in range(3)
        )
        noise = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
        looks[row] = (
            times[row] * np.exp(parameters.search_noise * noise) * np.where(w < parameters.offered, 1.0, 1e3)
        )
    chosen = looks.argmin(axis=0)
    return times[chosen, np.arange(len(a))], [k.name for k in candidates], chosen


def grid_truth(
    full: ConvShape, inputs: NDArray, outputs: NDArray, *, parameters: Parameters = PARAMETERS, seed: int = 0
) -> tuple[Array, NDArray[np.object_]]:
    """Return the true microseconds and kernel names of a whole grid, indexed [input, output]."""
    a, b = (axis.ravel() for axis in np.meshgrid(inputs, outputs, indexing="ij"))
    ones = np.ones(len(a), dtype=np.int64)
    us, names, chosen = latencies(
        full.batch * ones,
        full.height * ones,
        full.kernel[0],
        full.stride[0],
        a,
        b,
        parameters=parameters,
        seed=seed,
    )
    size = (len(inputs), len(outputs))
    return us.reshape(size), np.array(names, dtype=object)[chosen].reshape(size)


def noisy_row(true_us: float, kernel: str, uniform: float, normal: float) -> Measurement:
    """Return a measurement: the median is off by what repeated runs of one kernel are, 0.7 % and 0.03 us."""
    sigma = 0.007 * true_us + 0.03 * (uniform < 0.5)
    value = max(true_us + sigma * normal, 0.5 * true_us)
    half = 1.96 * (0.007 * true_us + 0.015)
    low, high = value - half, value + half
    return Measurement(
        value, low, high, low, value, value, high, low, 25, "fake", kernels=((kernel, 1.0),) if kernel else ()
    )


def with_values(parameters: Parameters, values: Array) -> Parameters:
    """Return ``parameters`` with its numbers replaced, in the order of the fields."""
    return replace(parameters, **{f.name: float(v) for f, v in zip(fields(parameters), values, strict=True)})
