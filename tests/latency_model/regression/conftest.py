"""Convolutions with made-up latencies whose formula is known."""

from __future__ import annotations

import numpy as np
import pytest

from latency_model.columns import ConvColumns
from latency_model.regression.geometry import Geometry
from latency_model.regression.parts import Tiling, parts
from latency_model.shapes import ConvShape

UNITS = 108
TILING = Tiling(span=128, channels=64)


def columns_of(count: int, seed: int = 0, *, precision: str = "fp16", most: int = 512) -> ConvColumns:
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(count):
        inputs, outputs, image = rng.integers(3, most), rng.integers(3, most), rng.integers(5, 60)
        kernel, batch = rng.choice((1, 3)), rng.choice((1, 8, 32))
        shapes.append(
            ConvShape.parse(
                f"{batch}x{inputs}x{image}x{image} ->{outputs} k{kernel} s1 p{kernel // 2} g1 conv {precision} nchw"
            )
        )
    return ConvColumns.of(shapes)


def latency_of(columns: ConvColumns, *, tiling: Tiling = TILING, units: int = UNITS) -> np.ndarray:
    """Whole waves of tiles at 5 us a unit of work, half a microsecond a million inputs, 4 us besides."""
    sizes = Geometry.of(columns)
    found = parts(sizes, tiling, units)
    return 5.0 * found[:, 1] + 0.5 * sizes.read / 1e6 + 4.0


@pytest.fixture(scope="session")
def rows() -> tuple[ConvColumns, np.ndarray]:
    columns = columns_of(300)
    return columns, latency_of(columns)
