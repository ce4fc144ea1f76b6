"""ONNX Runtime on the CPU: the latency of an operator is what one more copy of it adds to a session."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from latency_model.environment import Environment
from latency_model.errors import InputError, MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape
from profiler.backends.base import OneByOne, cpu_isa, cpu_name
from profiler.backends.onnxruntime_ops import OpTimer
from profiler.cpu_conditions import Conditions
from profiler.cpu_timer import cpu_timer
from profiler.graphs import INPUT, conv_copies, input_array, sink_copies
from profiler.sampling import Policy, Sampled, collect, measurement, summarise, warm_up

__all__ = ["OnnxRuntimeCpu", "session"]

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_SINKS = 17
_SINK_POLICY = Policy(relative=0.02, absolute_us=0.02, max_seconds=0.03)
_NETWORK_POLICY = Policy(relative=0.02, warm_up_seconds=1.0)
_TURN = 4  # timed runs of a network before the next one's turn, after one run that refills the caches
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def session(
    model: bytes, *, threads: int = 1, optimisation: str = "all", optimised_path: str = ""
) -> ort.InferenceSession:
    """Return a CPU session for ``model``; the optimised graph is written to ``optimised_path`` if given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[optimisation]
    options.log_severity_level = 3
    if optimised_path:
        options.optimized_model_filepath = optimised_path
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _copies(shape: ConvShape) -> int:
    """Return how many copies to time against one: 9 of a small shape, 3 of a large one.

    With noise that is independent between copies, sampling to a given width costs (R + 1)^2 / (R - 1)^2: nine
    times the ideal at R = 2, 1.6 times at R = 9. Large shapes get fewer for the sake of their first samples.
    """
    # 60 multiply-accumulates a nanosecond is about one core of a present server CPU; only a size matters.
    estimate_us = shape.macs / 60e3 + 2.0
    return 1 + int(np.clip(round(1500.0 / estimate_us), 2, 8))


class OnnxRuntimeCpu(OneByOne):
    """Times on the CPU through ONNX Runtime, fp32, activations in NCHW as ONNX defines them.

    The row of a shape is ``(t_R - t_1) / (R - 1)`` for sessions with R copies and one, run by turns, less the
    time of the sink that each copy ends in. Sinks are measured once for each output size.
    """

    precisions = ("fp32",)
    times_ops = True
    passes = 2
    reorders = True  # it changes between the plain and the blocked layout

    def __init__(
        self,
        *,
        device: str = "cpu",
        threads: int = 1,
        optimisation: str = "all",
        policy: Policy | None = None,
        seed: int = 0,
    ) -> None:
        if device != "cpu":
            raise InputError(f"ONNX Runtime times on the CPU only in this version, not on {device}")
        if optimisation not in _LEVELS:
            raise InputError(
                f"unknown graph optimisation level {optimisation!r}; known are {', '.join(_LEVELS)}"
            )
        self._threads, self._optimisation, self._seed = threads, optimisation, seed
        self._policy = policy or Policy()
        self._timer = cpu_timer(threads)
        self._sinks: dict[tuple[object, ...], Sampled] = {}
        self._ops = OpTimer(self._runner, policy=self._policy, seed=seed)
        self._environment = Environment(
            device=cpu_name(),
            kind="cpu",
            runtime="onnxruntime",
            runtime_version=ort.__version__,
            options=(("threads", str(threads)), ("optimisation", optimisation), ("isa", cpu_isa())),
        )

    @property
    def environment(self) -> Environment:
        """CPU, ONNX Runtime version, threads, graph optimisation level and vector instructions."""
        return self._environment

    def close(self) -> None:
        """Forget the measured sinks."""
        self._sinks.clear()
        self._ops.clear()

    def measure(self, config: Config, *, run_id: str) -> Measurement:
        """Return what one more copy of a convolution, or of another operator, adds to a session."""
        with Conditions() as around:
            row = self._measure(config, run_id=run_id)
        return dataclasses.replace(row, flags=(*row.flags, *around.flags)) if around.flags else row

    def _measure(self, shape: Config, *, run_id: str) -> Measurement:
        if shape.precision not in self.precisions:
            raise MeasurementError(
                f"ONNX Runtime on the CPU has no fast {shape.precision} kernels; use fp32: {shape}"
            )
        if shape.layout != "nchw":
            raise MeasurementError(f"ONNX Runtime on the CPU takes NCHW activations only: {shape}")
        if isinstance(shape, OpShape):
            try:
                return self._ops.measure(shape, run_id=run_id)
            except MeasurementError:
                raise
            except Exception as error:
                raise MeasurementError(f"ONNX Runtime could not run {shape}: {_first_line(error)}") from error
        copies = _copies(shape)
        sampled = self._increment(
            lambda n: conv_copies(shape, n, seed=self._seed), shape, copies, self._policy
        )
        return measurement(sampled, method="host-increment", run_id=run_id, minus=self._sink(shape))

    def _sink(self, shape: ConvShape) -> Sampled:
        # Grouped and depthwise outputs may be in another layout than a dense convolution's.
        grouping = "depthwise" if shape.depthwise else shape.groups
        key = (shape.batch, shape.out_channels, shape.out_height, shape.out_width, grouping)
        if key not in self._sinks:
            self._sinks[key] = self._increment(
                lambda count: sink_copies(shape, count, seed=self._seed), shape, _SINKS, _SINK_POLICY
            )
        return self._sinks[key]

    def _increment(
        self, build: Callable[[int], bytes], shape: ConvShape, copies: int, policy: Policy
    ) -> Sampled:
        feed = {INPUT: input_array(shape, seed=self._seed)}
        one, many = (self._runner(build(count), feed) for count in (1, copies))

        def draw() -> float:
            short, long = one(), many()
            return (long - short) / (copies - 1)

        try:
            warm_up(draw, policy=policy)
            return collect(draw, policy=policy)
        except Exception as error:
            raise MeasurementError(f"ONNX Runtime could not run {shape}: {_first_line(error)}") from error

    def _runner(self, model: bytes, feed: Mapping[str, Any]) -> Callable[[], float]:
        opened = self._open(model)
        return lambda: self._timer(lambda: opened.run(None, feed))

    def _open(self, model: bytes) -> ort.InferenceSession:
        try:
            return session(model, threads=self._threads, optimisation=self._optimisation)
        except Exception as error:  # ONNX Runtime raises a type of its own for each status code
            raise MeasurementError(f"ONNX Runtime refused a graph: {_first_line(error)}") from error

    def time_networks(
        self, models: Sequence[bytes], *, seed: int = 0, rounds: int = 20, run_id: str = ""
    ) -> list[Measurement]:
        """Return the time of a run of each network, by turns of ``1 + 4`` runs, ``rounds`` times.

        The first run of a turn is not counted: it finds the caches full of another network.
        """
        timers = []
        for model in models:
            opened = self._open(model)
            run = functools.partial(opened.run, None, _random_feed(opened, seed))
            timers.append(functools.partial(self._timer, run))
        times: list[list[float]] = [[] for _ in timers]
        try:
            for timer in timers:
                warm_up(timer, policy=_NETWORK_POLICY)
            for _ in range(rounds):
                for timer, seen in zip(timers, times, strict=True):
                    timer()
                    seen.extend(timer() for _ in range(_TURN))
        except Exception as error:
            raise MeasurementError(f"ONNX Runtime could not run a network: {_first_line(error)}") from error
        return [
            measurement(summarise(seen, policy=_NETWORK_POLICY), method="host", run_id=run_id)
            for seen in times
        ]


def _random_feed(opened: ort.InferenceSession, seed: int) -> dict[str, Any]:
    """Return normal noise for every input of a session; a free batch or size is an error."""
    rng, feed = np.random.default_rng(seed), {}
    for entry in opened.get_inputs():
        if entry.type not in _DTYPES or not all(isinstance(size, int) for size in entry.shape):
            raise MeasurementError(
                f"the input {entry.name} ({entry.type}, {entry.shape}) cannot be filled with random numbers; "
                "export the network with fixed sizes and floating-point inputs"
            )
        feed[entry.name] = rng.standard_normal(entry.shape).astype(_DTYPES[entry.type])
    return feed


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
