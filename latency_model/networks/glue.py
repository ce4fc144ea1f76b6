"""Prices of the kernels between convolutions: they move data, and their time follows the bytes moved.

A class with many samples has a curve of its own; one with few has the curve of its kin, scaled; one with none
borrows it, with a wide interval. Nothing is free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latency_model.columns import ConvColumns
from latency_model.errors import InputError
from latency_model.networks.curve import KNOTS, Curve, fit_curve, fit_on
from latency_model.networks.kernels import Kernel
from latency_model.networks.trace import Traced

__all__ = ["GlueKind", "GluePrice", "GluePrices", "GlueSample", "samples_of_rows", "samples_of_trace"]

FORMAT_VERSION = 1
_MANY = 200  # samples from which a class has a curve of its own
_LEAST_SPREAD = 0.03
_BORROWED, _ASSUMED = 0.5, 1.0  # relative spread of prices that were not fitted on the class itself
# Each class and the one whose curve has the same shape, kin before those that borrow from it. Kernels that copy
# by index (concatenations and so on) are like transposes; those that read a small operand again and again, like
# the bias.
_KIN = {
    "unary": "",
    "bias": "unary",
    "transpose": "bias",
    "image_transpose": "transpose",
    "binary": "unary",
    "broadcast": "bias",
    "max_pool": "bias",
    "average_pool": "bias",
    "mean": "bias",
    "batch_norm": "bias",
    "normalize": "bias",
    "concat": "transpose",
    "resize": "transpose",
    "gemm_bias": "unary",
    "gemm": "unary",
    "unknown": "transpose",
}
# With no evidence at all: a launch of one microsecond, then one terabyte a second.
_ASSUMED_CURVE = Curve(tuple(1.0 + moved / 1e6 for moved in KNOTS))


@dataclass(frozen=True, slots=True)
class GlueSample:
    """A measured kernel that is no convolution: its class, the bytes that it moves, and its time."""

    kind: str
    moved_bytes: float
    latency_us: float


@dataclass(frozen=True, slots=True)
class GluePrice:
    """A latency, its relative standard deviation, and where it is from.

    ``source`` is ``fitted`` (on kernels of this class), ``borrowed`` (from a class like it) or ``assumed``.
    """

    latency_us: float
    spread: float
    source: str


@dataclass(frozen=True)
class GlueKind:
    """The curve of one class, the relative standard deviation around it, and the number of samples."""

    curve: Curve
    spread: float
    samples: int
    source: str


@dataclass(frozen=True)
class GluePrices:
    """Prices of kernels that are no convolutions; made by ``fit`` or ``from_json``.

    ``flops_per_us`` is the device's best rate, which bounds linear layers from below; 0: not known.
    """

    kinds: Mapping[str, GlueKind] = field(default_factory=dict)
    flops_per_us: float = 0.0

    @classmethod
    def fit(cls, samples: Iterable[GlueSample], *, flops_per_us: float = 0.0) -> GluePrices:
        """Return prices fitted on ``samples``; every class has one, whatever was measured.

        Raises ``InputError`` for a class that is not known or a time that is not positive.
        """
        by_kind: dict[str, list[GlueSample]] = {kind: [] for kind in _KIN}
        for sample in samples:
            if sample.kind not in by_kind:
                raise InputError(f"unknown class of kernels {sample.kind!r}; known are {', '.join(_KIN)}")
            if not 0 < sample.latency_us < math.inf or not 0 <= sample.moved_bytes < math.inf:
                raise InputError(f"not a measured {sample.kind} kernel: {sample.latency_us} us")
            by_kind[sample.kind].append(sample)
        kinds: dict[str, GlueKind] = {}
        start = GlueKind(_ASSUMED_CURVE, _ASSUMED, 0, "assumed")
        for kind, relative in _KIN.items():
            kin = kinds.get(relative, start)
            if kind == "gemm":  # its weights come from memory
                kin = replace(kin, curve=kin.curve.straight())
            kinds[kind] = _fit(by_kind[kind], kin)
        return cls(kinds, flops_per_us)

    def price(self, kernel: Kernel) -> GluePrice:
        """Return the price of ``kernel``, which must not be a convolution (``InputError``)."""
        if kernel.kind == "conv":
            raise InputError(f"{kernel.name} is a convolution: its price is the row model's")
        if (found := self.kinds.get(kernel.kind)) is None:
            found = GlueKind(_ASSUMED_CURVE, _ASSUMED, 0, "assumed")
        latency = float(found.curve.at(kernel.moved_bytes))
        if kernel.macs and self.flops_per_us:
            latency = max(latency, 2 * kernel.macs / self.flops_per_us)
        spread, source = found.spread, found.source
        if kernel.kind == "unknown":
            spread, source = max(spread, _ASSUMED), "assumed"
        return GluePrice(latency, spread, source)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of plain numbers; ``from_json`` reads it back."""
        kinds = {
            kind: {
                "values_us": list(found.curve.values_us),
                "spread": found.spread,
                "samples": found.samples,
                "source": found.source,
            }
            for kind, found in self.kinds.items()
        }
        return {
            "format_version": FORMAT_VERSION,
            "knots_bytes": list(KNOTS),
            "flops_per_us": self.flops_per_us,
            "kinds": kinds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GluePrices:
        """Return the prices that ``to_json`` wrote; ``InputError`` for those of a later version, or damage."""
        try:
            if data["format_version"] > FORMAT_VERSION:
                raise InputError(
                    "the prices of kernels are of a later version; update with: pip install -U gharial"
                )
            knots = [float(moved) for moved in data["knots_bytes"]]
            kinds = {
                str(kind): GlueKind(
                    Curve(tuple(float(v) for v in np.interp(KNOTS, knots, found["values_us"]))),
                    float(found["spread"]),
                    int(found["samples"]),
                    str(found["source"]),
                )
                for kind, found in data["kinds"].items()
            }
            return cls(kinds, float(data["flops_per_us"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the prices of kernels are damaged ({error}); fit the model again") from error


def _fit(samples: list[GlueSample], kin: GlueKind) -> GlueKind:
    if not samples:
        assumed = kin.source == "assumed"
        return GlueKind(
            kin.curve, _ASSUMED if assumed else _BORROWED, 0, "assumed" if assumed else "borrowed"
        )
    moved = np.array([sample.moved_bytes for sample in samples])
    times = np.array([sample.latency_us for sample in samples])
    curve = fit_curve(moved, times) if len(samples) >= _MANY else fit_on(kin.curve, moved, times)
    residuals = np.log(times / curve.at(moved))
    spread = float(np.sqrt((residuals**2).sum() / max(1, len(samples) - 2)))
    return GlueKind(curve, max(_LEAST_SPREAD, spread), len(samples), "fitted")


def samples_of_rows(
    columns: ConvColumns,
    *,
    bias_us: ArrayLike | None = None,
    relu_us: ArrayLike | None = None,
    transpose_in_us: ArrayLike | None = None,
    transpose_out_us: ArrayLike | None = None,
) -> list[GlueSample]:
    """Return the samples in a file of rows whose kernels were traced one by one; NaN is left out."""
    width = np.array([{"fp32": 4, "tf32": 4, "int8": 1}.get(k.precision, 2) for k in columns.kinds])
    size = width[columns.kind]
    inputs = columns.batch * columns.in_channels * columns.height * columns.width * size
    outputs = columns.batch * columns.out_channels * columns.out_height * columns.out_width * size
    found: list[GlueSample] = []
    for given, moved, channels, kind in (
        (bias_us, outputs, columns.out_channels, "bias"),
        (relu_us, outputs, columns.out_channels, "unary"),
        (transpose_in_us, inputs, columns.in_channels, "transpose"),
        (transpose_out_us, outputs, columns.out_channels, "transpose"),
    ):
        if given is None:
            continue
        times: NDArray[np.float64] = np.asarray(given, dtype=float)
        for us, data, count in zip(times.tolist(), moved.tolist(), channels.tolist(), strict=True):
            if math.isnan(us):
                continue
            if kind == "transpose" and count <= 16:  # few channels are another kernel, or a slow one
                if count <= 4 and moved is inputs:
                    found.append(GlueSample("image_transpose", 2 * data, us))
                continue
            found.append(GlueSample(kind, 2 * data, us))
    return found


def samples_of_trace(traced: Iterable[Traced]) -> list[GlueSample]:
    """Return the samples in an aligned trace: every kernel that is no convolution."""
    return [
        GlueSample(found.kernel.kind, found.kernel.moved_bytes, found.latency_us)
        for found in traced
        if found.kernel.kind != "conv" and found.latency_us > 0
    ]
