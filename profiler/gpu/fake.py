"""A GPU that exists only as formulas, seen through the same seam as a real one: kernels, traces, clocks, faults.

Its convolutions are what an H100's are like: five kernels each, a staircase of alignment, waves and kernel
switches, searches that now and then choose a slow kernel, times that differ between builds and processes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.environment import Environment
from latency_model.errors import MeasurementError, ModelError
from latency_model.ops import Config, OpShape
from profiler.gpu.backend import GPU_POLICY, GpuBackend
from profiler.gpu.check import reference
from profiler.gpu.fake_kernels import BOUNDARY, MARKER, bytes_of, kernels_of
from profiler.gpu.program import GpuState, Kernel, Step, Stepwise

__all__ = [
    "FakeClock",
    "FakeGpu",
    "FakeNumbers",
    "FakeProgram",
    "FakeRuntime",
    "fake_inputs",
    "open_fake_gpu",
]

_GAP_US, _LAUNCH_US = 0.5, 8.0  # between kernels of a graph; before the first kernel of a run


@dataclass
class FakeGpu:
    """The device: everything random comes from ``seed`` and, for what differs between processes, ``process``.

    ``noise`` is the relative standard deviation of a kernel's time, ``build_spread`` and ``process_spread``
    those of a build's and a process's factor. ``flip`` is the chance that a search chooses the slow kernel,
    ``garble`` that a trace loses a kernel. From run ``throttle_after`` on, for ``throttle_runs`` runs, the
    clock is held back and all takes 1.3 times as long. Programs with a config in ``refuse`` cannot be built,
    nor those that need more than ``memory_bytes``; the device is lost when a config in ``kill`` runs.
    """

    seed: int = 0
    process: int = 0
    noise: float = 0.01
    build_spread: float = 0.0
    process_spread: float = 0.0
    flip: float = 0.0
    slow_factor: float = 1.59
    cold_factor: float = 1.25
    garble: float = 0.0
    garble_packed: bool = False
    throttle_after: int | None = None
    throttle_runs: int = 1000
    others: tuple[int, ...] = ()
    memory_bytes: float = 80e9
    refuse: frozenset[Config] = frozenset()
    kill: frozenset[Config] = frozenset()
    wrong: frozenset[Config] = frozenset()
    queue: list[Kernel] = field(default_factory=list, init=False)
    runs: int = field(default=0, init=False)
    builds: int = field(default=0, init=False)
    evicted: bool = field(default=False, init=False)
    lost: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, self.process])
        self.factor = math.exp(self.process_spread * self.rng.standard_normal())

    @property
    def throttled(self) -> bool:
        """Whether the clock is held back now."""
        after = self.throttle_after
        return after is not None and after <= self.runs < after + self.throttle_runs

    def launch(self, kernels: Sequence[tuple[str, float]], *, factor: float = 1.0) -> None:
        """Enqueue kernels of the given true durations; noise, temperature of the cache and throttling come here."""
        if self.lost:
            raise MeasurementError("the fake device reports an illegal address")
        self.runs += 1
        factor *= self.factor * (1.3 if self.throttled else 1.0) * (self.cold_factor if self.evicted else 1.0)
        times = np.asarray([time_us for _, time_us in kernels])
        times = times * factor * np.exp(self.noise * self.rng.standard_normal(len(kernels)))
        self.queue.extend(
            Kernel(name, 0.0, float(time_us)) for (name, _), time_us in zip(kernels, times, strict=True)
        )

    def drain(self) -> list[Kernel]:
        """Return what was enqueued since the last call."""
        done, self.queue = self.queue, []
        return done


@dataclass(frozen=True)
class FakeNumbers:
    """Inputs and weights of a configuration."""

    inputs: tuple[NDArray[Any], ...]
    weights: tuple[NDArray[Any], ...]


def fake_inputs(config: Config, seed: int) -> FakeNumbers:
    """Return random numbers for ``config``, the same for the same seed."""
    rng = np.random.default_rng(seed)
    if isinstance(config, OpShape):
        sizes, weights = config.inputs, config.weights
    else:
        sizes = ((config.batch, config.in_channels, config.height, config.width),)
        if "add" in config.pattern:
            sizes += ((config.batch, config.out_channels, config.out_height, config.out_width),)
        weights = (
            (config.out_channels, config.in_channels // config.groups, *config.kernel),
            (config.out_channels,),
        )
    return FakeNumbers(
        tuple(rng.standard_normal(dims, dtype=np.float32) for dims in sizes),
        tuple(rng.standard_normal(dims, dtype=np.float32) for dims in weights),
    )


class FakeProgram(Stepwise):
    """Runs the kernels of its configurations on the fake device."""

    def __init__(
        self,
        gpu: FakeGpu,
        parts: Sequence[tuple[Sequence[Config], Sequence[tuple[str, float]]]],
        *,
        seed: int = 0,
        factor: float = 1.0,
    ) -> None:
        self._gpu, self._seed, self._factor = gpu, seed, factor
        self._closed = False
        self._steps = tuple(
            Step(tuple(configs), self._runner(configs, kernels)) for configs, kernels in parts
        )

    def _runner(self, configs: Sequence[Config], kernels: Sequence[tuple[str, float]]) -> Callable[[], None]:
        def run() -> None:
            if self._closed:
                raise MeasurementError("the program is closed")
            self._gpu.lost = self._gpu.lost or bool(self._gpu.kill & set(configs))
            self._gpu.launch(kernels, factor=self._factor)
            self._gpu.evicted = False

        return run

    def outputs(self) -> list[NDArray[Any]]:
        """Return the reference outputs, twice as large for what the device computes wrongly."""
        results = []
        for config in (config for step in self._steps for config in step.configs):
            output = reference(config, fake_inputs(config, self._seed))
            output = np.zeros(1, np.float32) if output is None else output
            results.append(output * 2 if config in self._gpu.wrong else output)
        return results

    def close(self) -> None:
        """Refuse to run from now on."""
        self._closed = True


class FakeRuntime:
    """Builds fake programs: one step for all configurations, with markers (``packed``), or one for each."""

    precisions: tuple[str, ...] = ("fp32", "tf32", "fp16", "bf16")
    times_ops = True
    marker, boundary = MARKER, BOUNDARY

    def __init__(
        self,
        gpu: FakeGpu,
        *,
        at_once: int = 16,
        packed: bool = True,
        methods: tuple[str, ...] = ("kernel-trace", "graph-increment"),
    ) -> None:
        self.gpu, self.at_once, self.packed, self.methods = gpu, at_once, packed, methods

    @property
    def environment(self) -> Environment:
        """The fake device and the numbers that its times depend on."""
        gpu = self.gpu
        options = {"seed": gpu.seed, "noise": gpu.noise, "flip": gpu.flip, "packed": self.packed}
        return Environment(
            device="fake GPU",
            kind="fake",
            runtime="fake-gpu",
            runtime_version="1",
            options=tuple((name, str(value)) for name, value in options.items()),
        )

    def build(
        self,
        configs: Sequence[Config],
        *,
        copies: int = 1,
        graph: bool = False,  # noqa: ARG002 - the fake runs both alike
        seed: int = 0,
    ) -> FakeProgram:
        """Return a program; each build searches anew and has a factor of its own."""
        gpu = self.gpu
        gpu.builds += 1
        if gpu.lost:
            raise MeasurementError("the fake device reports an illegal address")
        for config in configs:
            if config.precision not in self.precisions:
                raise MeasurementError(f"the fake GPU has no precision {config.precision}: {config}")
            if config in gpu.refuse:
                raise MeasurementError(f"the fake GPU was told to refuse {config}")
        if (needed := copies * sum(map(bytes_of, configs))) > gpu.memory_bytes:
            raise MeasurementError(f"out of memory: the program needs {needed / 1e9:.1f} GB")
        factor = math.exp(gpu.build_spread * gpu.rng.standard_normal())
        parts: list[tuple[list[Config], list[tuple[str, float]]]] = []
        for config in configs:
            slow = bool(gpu.rng.random() < gpu.flip)
            kernels = kernels_of(config, slow=slow, slow_factor=gpu.slow_factor) * copies
            if self.packed and len(configs) > 1:
                parts = parts or [([], [])]
                parts[0][0].append(config)
                parts[0][1].extend([("gharial_marker", 1.0), *kernels])
            else:
                parts.append(([config], kernels))
        return FakeProgram(gpu, parts, seed=seed, factor=factor)

    def build_network(self, model: bytes, *, seed: int = 0) -> FakeProgram:
        """Return a program that runs a network's convolutions and 1 us for every other operator."""
        from latency_model.harvest import harvest_onnx

        try:
            network = harvest_onnx(model)
        except ModelError as error:
            raise MeasurementError(f"the fake GPU cannot run this network: {error}") from error
        convolutions = [kernel for _, shape in network.shapes() for kernel in kernels_of(shape)]
        inside = [kernel for kernel in convolutions if not BOUNDARY.search(kernel[0])]
        others = [("other", 1.0)] * sum(network.others.values())
        return FakeProgram(self.gpu, [((), [*inside, *others])], seed=seed)

    def close(self) -> None:
        """There is nothing to free."""


class FakeClock:
    """Reads the times off what was enqueued; ``permitted`` is False for a device without a profiler."""

    def __init__(self, gpu: FakeGpu, *, permitted: bool = True) -> None:
        self.gpu, self.permitted = gpu, permitted

    def elapsed_us(self, run: Callable[[], None], *, runs: int = 1) -> float:
        """Return the sum of the kernels' times, the gaps between them and the launch of each graph or run."""
        self.gpu.drain()
        for _ in range(runs):
            run()
        kernels = self.gpu.drain()
        return sum(kernel.duration_us + _GAP_US for kernel in kernels) / runs + _LAUNCH_US

    def trace(self, steps: Sequence[Callable[[], None]], *, runs: int) -> list[list[list[Kernel]]]:
        """Return the kernels, less those that the profiler loses."""
        if not self.permitted:
            raise MeasurementError("the fake profiler is not permitted")
        self.gpu.drain()
        return [[self._one(step) for step in steps] for _ in range(runs)]

    def _one(self, step: Callable[[], None]) -> list[Kernel]:
        step()
        kernels, now, out = self.gpu.drain(), 0.0, []
        for kernel in kernels:
            out.append(Kernel(kernel.name, now, kernel.duration_us))
            now += kernel.duration_us + _GAP_US
        packed = sum(bool(MARKER.search(kernel.name)) for kernel in out) > 1
        lossy = self.gpu.garble_packed and packed
        if out and (lossy or (self.gpu.garble and self.gpu.rng.random() < self.gpu.garble)):
            del out[int(self.gpu.rng.integers(len(out)))]
        return out

    def evict(self) -> None:
        """Make what runs next cold."""
        self.gpu.launch([("fill", 30.0)])
        self.gpu.evicted = True

    def synchronise(self) -> None:
        """Raise when the device is lost."""
        if self.gpu.lost:
            raise MeasurementError("the fake device reports an illegal address")

    def state(self) -> GpuState:
        """Return plausible numbers."""
        slow = self.gpu.throttled
        return GpuState(
            sm_clock_mhz=1400.0 if slow else 1980.0,
            temperature_c=55.0,
            power_w=700.0 if slow else 420.0,
            throttle=("sw-power-cap",) if slow else (),
            others=self.gpu.others,
        )


def open_fake_gpu(
    *,
    device: str = "cuda:0",  # noqa: ARG001 - every back end takes one
    threads: int = 1,  # noqa: ARG001
    at_once: int = 16,
    packed: bool = True,
    permitted: bool = True,
    gpu: FakeGpu | None = None,
    **options: Any,
) -> GpuBackend:
    """Return a ``GpuBackend`` on a fake device; ``options`` are those of ``FakeGpu`` and ``GpuBackend``.

    Deterministic: nothing in it looks at the time. ``permitted=False`` is a device without a profiler.
    """
    names = {f.name for f in dataclasses.fields(FakeGpu) if f.init}
    gpu = gpu or FakeGpu(**{name: options.pop(name) for name in list(options) if name in names})
    policy = options.pop("policy", GPU_POLICY)
    policy = dataclasses.replace(policy, max_seconds=math.inf, warm_up_seconds=math.inf)
    runtime, clock = FakeRuntime(gpu, at_once=at_once, packed=packed), FakeClock(gpu, permitted=permitted)
    return GpuBackend(runtime, clock, policy=policy, inputs=fake_inputs, **options)
