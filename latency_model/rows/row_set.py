"""Rows of a plain file: the different convolutions among them, and the way back to the file's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.errors import RowsError
from latency_model.rows.kernels import main_kernel

__all__ = ["Defaults", "RowSet", "Unit"]

Unit = Literal["ms", "us"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What rows are taken for whose file does not say; ``unit`` is that of a file without latencies."""

    precision: str = "fp32"
    layout: str = "nchw"
    pattern: str = "conv"
    unit: Unit = "ms"


@dataclass(frozen=True, eq=False)
class RowSet:
    """The ``m`` different convolutions of a file of ``file_rows`` rows; arrays are of shape (m,).

    ``place`` has per row of the file the place of its convolution, -1 for a row that was left out.
    ``latency_us`` is the median of equal rows: None when the file has no latencies, NaN (only when latencies
    are optional) where it has none that can be used. ``low_us`` and ``high_us`` bound it: from the file's columns
    of these names, or the least and greatest of equal rows; NaN where neither is known, None where nowhere.
    ``p10_us`` and ``p90_us`` are quantiles of the samples, not bounds of the median. ``kernel_names`` are as
    in the file. ``extras`` are times in microseconds of what runs beside the convolution (``bias_us``,
    ``relu_us``, ``transpose_in_us``, ``transpose_out_us``), NaN where not known. ``notes`` say what was
    assumed, joined, or left out.
    """

    origin: Path
    columns: ConvColumns
    place: Ints
    unit: Unit
    latency_us: Floats | None = None
    low_us: Floats | None = None
    high_us: Floats | None = None
    p10_us: Floats | None = None
    p90_us: Floats | None = None
    kernel_names: NDArray[np.object_] | None = None
    extras: Mapping[str, Floats] = field(default_factory=dict)
    device: str | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def file_rows(self) -> int:
        """Rows of the file, equal ones and those left out among them."""
        return len(self.place)

    @cached_property
    def main_kernels(self) -> NDArray[np.object_] | None:
        """The kernel that does each convolution's work, without the helpers around it; None if not known."""
        if self.kernel_names is None:
            return None
        short = {text: main_kernel(text) for text in set(self.kernel_names.tolist())}
        return np.array([short[text] for text in self.kernel_names.tolist()], dtype=object)

    @property
    def defaults(self) -> Defaults:
        """What a file that belongs to these rows may leave unsaid: what all of them have in common."""
        kinds = [self.columns.kinds[kind] for kind in np.unique(self.columns.kind)]
        common: dict[str, Any] = {}
        for name in ("precision", "layout", "pattern"):
            found = {getattr(kind, name) for kind in kinds}
            if len(found) == 1:
                common[name] = found.pop()
        return Defaults(**common, unit=self.unit)

    def of_device(self, name: str) -> RowSet:
        """Return the rows as those of the device ``name``; ``RowsError`` when their file says another."""
        if self.device not in (None, name):
            raise RowsError(f"{self.origin} has rows of {self.device}, not of {name}; leave --device out")
        return replace(self, device=name)

    def in_file_order(self, values: Floats) -> Floats:
        """Return one value per row of the file from one per convolution; NaN for rows that were left out."""
        if len(values) != len(self):
            raise RowsError(
                f"{len(values)} values do not belong to {len(self)} convolutions; give one for each"
            )
        padded = np.append(np.asarray(values, dtype=np.float64), np.nan)
        return padded[self.place]
