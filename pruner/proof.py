"""Proof on the clock: networks exported and timed side by side on the runtime that the table is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latency_model.environment import Environment
from latency_model.errors import InputError, TableError
from latency_model.measurement import Measurement

if TYPE_CHECKING:
    from torch import nn

    from profiler.backends.base import Backend

__all__ = ["DEPLOYED", "Proof", "backend_of", "measure_pair"]

# What a network is deployed in, and what its file is then written in: tf32 is fp32 in memory. bf16 the exporter
# does not write in whole, and int8 needs a calibration.
DEPLOYED = {"fp32": "fp32", "fp16": "fp16", "tf32": "fp32"}


@dataclass(frozen=True, slots=True)
class Proof:
    """Two networks timed in turns on one device: end-to-end medians in microseconds."""

    before: Measurement
    after: Measurement

    @property
    def ratio(self) -> float:
        """Latency after over latency before."""
        return self.after.latency_us / self.before.latency_us


def backend_of(environment: Environment, *, precision: str = "fp32") -> Backend:
    """Open the back end that measured a table, to time networks in ``precision``.

    Raises ``TableError`` when this machine is not that device, and ``InputError`` when the back end cannot time whole
    networks in that precision.
    """
    from profiler.backends import open_backend

    options = dict(environment.options)
    backend = open_backend(
        environment.runtime,
        device=environment.kind,
        precision=precision,
        threads=int(options.get("threads", 1)),
    )
    if precision == "tf32" and "fp32" in backend.precisions:
        raise InputError(
            f"the runtime {environment.runtime} runs a whole network of 32-bit floats in fp32, not in tf32; prune with "
            "--precision fp32"
        )
    if backend.environment != environment:
        differences = "; ".join(environment.differences(backend.environment))
        raise TableError(
            f"the table is of another environment than this machine ({differences}); a measured result needs "
            "a table of this device: make one with gharial profile"
        )
    return backend


def measure_pair(
    backend: Backend,
    before: nn.Module,
    after: nn.Module,
    input_shape: Sequence[int],
    *,
    batch: int,
    rounds: int,
    precision: str = "fp32",
) -> Proof:
    """Export both networks to ONNX, to compute in ``precision``, and time them interleaved, ``rounds`` runs each."""
    from profiler.onnx_export import export_onnx

    channels, height, width = input_shape
    shape, written = (channels, height, width), DEPLOYED[precision]
    models = [export_onnx(m, shape, batch=batch, precision=written) for m in (before, after)]
    first, second = backend.time_networks(models, rounds=rounds)
    return Proof(first, second)
