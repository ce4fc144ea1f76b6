"""Proof on the clock: networks exported and timed side by side on the runtime that the table is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.measurement import Measurement

if TYPE_CHECKING:
    from torch import nn

    from profiler.backends.base import Backend

__all__ = ["Proof", "backend_of", "measure_pair"]


@dataclass(frozen=True, slots=True)
class Proof:
    """Two networks timed in turns on one device: end-to-end medians in microseconds."""

    before: Measurement
    after: Measurement

    @property
    def ratio(self) -> float:
        """Latency after over latency before."""
        return self.after.latency_us / self.before.latency_us


def backend_of(environment: Environment) -> Backend:
    """Open the back end that measured a table; ``TableError`` when this machine is not that device."""
    from profiler.backends import open_backend

    options = dict(environment.options)
    backend = open_backend(
        environment.runtime, device=environment.kind, threads=int(options.get("threads", 1))
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
) -> Proof:
    """Export both networks to ONNX and time them interleaved, ``rounds`` runs each."""
    from profiler.onnx_export import export_onnx

    channels, height, width = input_shape
    models = [export_onnx(m, (channels, height, width), batch=batch) for m in (before, after)]
    first, second = backend.time_networks(models, rounds=rounds)
    return Proof(first, second)
