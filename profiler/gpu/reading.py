"""What one build of a program gave for one configuration, by whichever method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from latency_model.errors import MeasurementError
from profiler.gpu.program import Kernel
from profiler.sampling import Sampled

__all__ = ["Reading", "TraceError", "shares"]


class TraceError(MeasurementError):
    """A trace cannot be trusted; the configurations that it concerns are worth a program of their own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of one configuration in one build, and the kernels that ran.

    ``kernels`` are (name, share of the time) in the order in which they run. ``boundary_us`` is None where
    the method cannot tell.
    """

    sampled: Sampled
    kernels: tuple[tuple[str, float], ...] = ()
    boundary_us: float | None = None
    flags: tuple[str, ...] = field(default=())

    @property
    def key(self) -> str:
        """What a runtime's search chose, as one text; the same choice gives the same text."""
        return " + ".join(name for name, _ in self.kernels)


def shares(kernels: Sequence[Kernel], medians_us: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Return the (name, share of the time) of kernels whose median times are given."""
    total = sum(medians_us)
    return tuple(
        (kernel.name, round(time_us / total, 4) if total > 0 else 0.0)
        for kernel, time_us in zip(kernels, medians_us, strict=True)
    )
