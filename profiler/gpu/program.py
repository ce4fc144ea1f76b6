"""The seam between measuring on a GPU and the runtimes that are measured: build, run, describe.

A runtime builds *programs*; what is measured of them (kernel traces, increments of replayed graphs) and when to
stop is the same for every runtime and lives beside this file. The clock is the other side of the seam: the real
one asks CUDA, a fake one makes everything testable without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from latency_model.environment import Environment
from latency_model.ops import Config

__all__ = ["Clock", "GpuState", "Kernel", "Program", "Runtime", "Step", "Stepwise"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a trace: its name, when it began (on the trace's own clock) and how long it ran."""

    name: str
    start_us: float
    duration_us: float


@dataclass(frozen=True, slots=True)
class GpuState:
    """What the driver says of a device at one moment; None where it does not say.

    ``throttle`` are the reasons for which the clock is held back, such as ``sw-power-cap``. ``others`` are the
    process ids of other programs on the device.
    """

    sm_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttle: tuple[str, ...] = ()
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a program that can be enqueued on its own, and the configurations that it runs, in order."""

    configs: tuple[Config, ...]
    run: Callable[[], None] = field(repr=False)


@runtime_checkable
class Program(Protocol):
    """Built and ready: ``run`` of a step enqueues it on the runtime's stream and does not wait."""

    @property
    def steps(self) -> Sequence[Step]:
        """The steps in the order in which they run."""
        ...

    def run(self) -> None:
        """Enqueue all steps once."""
        ...

    def outputs(self) -> list[NDArray[Any]]:
        """Wait, and return the outputs of the last run as fp32 in NCHW, one for each configuration in order."""
        ...

    def close(self) -> None:
        """Free the device memory; may be called twice."""
        ...


class Stepwise:
    """The part of a ``Program`` that is the same wherever its steps are enqueued one after the other."""

    _steps: tuple[Step, ...]

    @property
    def steps(self) -> Sequence[Step]:
        """The steps in the order in which they run."""
        return self._steps

    def run(self) -> None:
        """Enqueue all steps once."""
        for step in self._steps:
            step.run()


class Runtime(Protocol):
    """Builds programs for one device.

    ``methods`` are the names of the measuring methods that suit it, best first (see ``METHODS``). ``at_once``
    is how many configurations one program should hold, ``times_ops`` whether they may be other operators than
    convolutions. ``marker`` matches the names of the kernels that a
    program runs *before each configuration of a step that holds several*; ``boundary`` those that only change
    the layout or the type of a program's inputs and outputs.
    """

    precisions: tuple[str, ...]
    methods: tuple[str, ...]
    at_once: int
    times_ops: bool
    marker: re.Pattern[str]
    boundary: re.Pattern[str]

    @property
    def environment(self) -> Environment:
        """What every measurement through this runtime belongs to; the same at every call."""
        ...

    def build(
        self, configs: Sequence[Config], *, copies: int = 1, graph: bool = False, seed: int = 0
    ) -> Program:
        """Return a program that runs each of ``configs``, warmed up once so that every search is done.

        With ``copies`` each configuration runs that many times, every copy with weights of its own; with
        ``graph`` a run is one replay of a CUDA graph. Weights and inputs are random from ``seed`` and the same
        as ``reference_inputs`` in ``profiler.graphs`` gives. Every build searches for kernels anew. Raises
        ``MeasurementError``: what cannot be built, or does not fit into the device's memory.
        """
        ...

    def build_network(self, model: bytes, *, seed: int = 0) -> Program:
        """Return a program of one step that replays a whole network given as ONNX as a CUDA graph."""
        ...

    def close(self) -> None:
        """Free what the runtime holds on the device; may be called twice."""
        ...


class Clock(Protocol):
    """Times what is enqueued on a device, by its own clock."""

    def elapsed_us(self, run: Callable[[], None], *, runs: int = 1) -> float:
        """Return the time on the device from before the first to after the last of ``runs`` calls, over ``runs``."""
        ...

    def trace(self, steps: Sequence[Callable[[], None]], *, runs: int) -> list[list[list[Kernel]]]:
        """Run ``steps`` ``runs`` times and return the kernels of each, as [run][step][kernel in order]."""
        ...

    def evict(self) -> None:
        """Enqueue what fills the device's last-level cache with other data."""
        ...

    def synchronise(self) -> None:
        """Wait until all that was enqueued is done; ``MeasurementError`` for an error of the device."""
        ...

    def state(self) -> GpuState:
        """Return what the driver says of the device now."""
        ...
