"""One measured latency with its uncertainty and how it came about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from latency_model.errors import InputError
from latency_model.ops import Config

__all__ = ["METHODS", "Candidate", "Measurement", "NetworkRow"]

# host: wall clock around a run, overhead included. host-increment: what one more copy adds to a session.
# kernel-trace: sum of the times of its kernels. graph-increment: what one more copy adds to the replay of a
# CUDA graph. graph-replay: events around the replay of a whole network. given: read from a plain file that does
# not say.
METHODS = ("host", "host-increment", "kernel-trace", "graph-increment", "graph-replay", "fake", "given")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One outcome of a runtime's own search: the kernels it chose, their time, and in how many builds."""

    kernels: str
    latency_us: float
    builds: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A latency in microseconds: the median, its confidence interval, and the spread of the samples.

    ``low_us`` and ``high_us`` bound the *median* at 95 %. ``p5_us`` … ``p95_us`` are quantiles of the
    samples. ``kernels`` holds (kernel name, share of the time). ``flags`` names what a reader must know:
    ``unstable`` (the interval stayed wider than asked for), ``throttled``, ``shared-device``, ``drift``;
    all are in tables/README.md.

    ``latency_us`` is with warm caches; ``cold_us`` with the caches emptied before each run. ``boundary_us`` is
    the time of the layout transposes at the ends, which is not part of ``latency_us``. ``error`` is the largest
    deviation of the outputs from an fp32 reference, relative to the largest output. ``candidates`` are all
    outcomes of the runtime's search that repeated builds gave, and ``note`` says why the first is quoted.
    """

    latency_us: float
    low_us: float
    high_us: float
    p5_us: float
    p25_us: float
    p75_us: float
    p95_us: float
    min_us: float
    samples: int
    method: str
    kernels: tuple[tuple[str, float], ...] = field(default=())
    cold_us: float | None = None
    boundary_us: float | None = None
    error: float | None = None
    candidates: tuple[Candidate, ...] = field(default=())
    sm_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    note: str = ""
    flags: tuple[str, ...] = field(default=())
    run_id: str = ""
    measured_at: str = ""

    def __post_init__(self) -> None:
        times = (
            self.latency_us,
            self.low_us,
            self.high_us,
            self.p5_us,
            self.p25_us,
            self.p75_us,
            self.p95_us,
        )
        if not all(map(math.isfinite, (*times, self.min_us))):
            raise InputError("a latency must be a finite number of microseconds")
        if self.latency_us <= 0:
            raise InputError(f"a latency must be positive, not {self.latency_us} us")
        if not self.low_us <= self.latency_us <= self.high_us:
            raise InputError(
                f"the interval {self.low_us}..{self.high_us} us does not hold {self.latency_us} us"
            )
        if self.method not in METHODS:
            raise InputError(f"unknown measuring method {self.method!r}; known are {', '.join(METHODS)}")
        if self.samples < 1:
            raise InputError("a measurement needs at least one sample")


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A whole network timed beside the operators that it runs: what a correction is fitted on.

    ``shapes`` are its convolutions, and the other operators where they were planned.
    """

    name: str
    shapes: tuple[Config, ...]
    measurement: Measurement
