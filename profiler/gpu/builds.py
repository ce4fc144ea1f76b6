"""One build of several configurations, measured; what cannot be built or traced together is tried apart."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from latency_model.errors import DeviceLostError, MeasurementError
from latency_model.ops import Config
from profiler.gpu.check import Numbers, deviation
from profiler.gpu.cold import cold_passes, cold_policy, hot_passes
from profiler.gpu.increment import Incrementer
from profiler.gpu.program import Clock, GpuState, Program, Runtime
from profiler.gpu.reading import Reading, TraceError
from profiler.gpu.trace import Tracer
from profiler.sampling import Policy

__all__ = ["METHODS", "BuildResult", "Builder", "Results"]

METHODS = ("kernel-trace", "graph-increment")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What one build gave for one configuration, and the state of the device meanwhile.

    ``among`` is how many configurations were enqueued together. ``cold_us`` and ``error`` are None where
    they were not asked for or cannot be had.
    """

    reading: Reading
    method: str
    state: GpuState
    among: int = 1
    cold_us: float | None = None
    error: float | None = None


Results: TypeAlias = dict[Config, BuildResult | MeasurementError]
# Whether the kernels that a configuration ran are new, so that their outputs and cold time are wanted.
IsNew: TypeAlias = Callable[[Config, str], bool]


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builds and measures; ``inputs`` gives the numbers of a configuration, None for no check of outputs."""

    runtime: Runtime
    clock: Clock
    policy: Policy
    cold: bool
    inputs: Callable[[Config, int], Numbers] | None
    seed: int
    check_device: str = "cpu"

    def build(self, configs: Sequence[Config], *, method: str, is_new: IsNew) -> Results:
        """Return the result of each of ``configs``, from one build by ``method``.

        Raises ``DeviceLostError`` when the device does not answer any more.
        """
        if method == "graph-increment":
            return {config: self._incremented(config, is_new) for config in configs}
        return self._traced(list(configs), is_new)

    def traces(self, configs: Sequence[Config]) -> bool:
        """Whether a trace of the first of ``configs`` that can be built shows any kernel."""
        for config in configs:
            try:
                program = self.runtime.build([config], seed=self.seed)
            except MeasurementError:
                self._alive()
                continue
            with closing(program):
                try:
                    return any(self.clock.trace([program.run], runs=1)[0][0])
                except MeasurementError:
                    self._alive()
                    return False
        return True

    def _alive(self) -> None:
        try:
            self.clock.synchronise()
        except MeasurementError as error:
            raise DeviceLostError(
                f"the device does not answer any more ({error}); go on in a new process"
            ) from error

    def _traced(self, configs: list[Config], is_new: IsNew) -> Results:
        try:
            with closing(self.runtime.build(configs, seed=self.seed)) as program:
                results = self._trace(program, is_new)
        except MeasurementError as error:
            self._alive()
            if len(configs) == 1:
                return {configs[0]: error}
            middle = len(configs) // 2
            return self._traced(configs[:middle], is_new) | self._traced(configs[middle:], is_new)
        if len(configs) > 1:
            for config in [c for c, result in results.items() if isinstance(result, TraceError)]:
                results |= self._traced([config], is_new)
        return results

    def _trace(self, program: Program, is_new: IsNew) -> Results:
        tracer = Tracer(
            clock=self.clock, marker=self.runtime.marker, boundary=self.runtime.boundary, policy=self.policy
        )
        tracer.warm_up(program)
        steps = list(program.steps)
        configs = [config for step in steps for config in step.configs]
        among = [len(step.configs) for step in steps for _ in step.configs]
        readings = tracer.read(steps, hot_passes)
        state = self.clock.state()
        new = [
            isinstance(reading, Reading) and is_new(config, reading.key)
            for config, reading in zip(configs, readings, strict=True)
        ]
        errors = self._errors(program, configs, new)
        results: Results = {
            config: BuildResult(reading, "kernel-trace", state, count, None, error)
            if isinstance(reading, Reading)
            else reading
            for config, reading, count, error in zip(configs, readings, among, errors, strict=True)
        }
        if self.cold:
            wanted = {config for config, yes in zip(configs, new, strict=True) if yes}
            for config, cold_us in self._cold(tracer, program, wanted).items():
                if isinstance(result := results[config], BuildResult):
                    results[config] = dataclasses.replace(result, cold_us=cold_us)
        return results

    def _cold(self, tracer: Tracer, program: Program, wanted: Collection[Config]) -> dict[Config, float]:
        """Return the cold times of ``wanted``; a configuration whose cold trace is not believed has none."""
        steps = [step for step in program.steps if not set(step.configs).isdisjoint(wanted)]
        if not steps:
            return {}
        self.clock.synchronise()
        readings = tracer.read(steps, cold_passes(self.clock), policy=cold_policy(self.policy))
        configs = [config for step in steps for config in step.configs]
        return {
            config: reading.sampled.median_us
            for config, reading in zip(configs, readings, strict=True)
            if config in wanted and isinstance(reading, Reading)
        }

    def _errors(self, program: Program, configs: Sequence[Config], new: Sequence[bool]) -> list[float | None]:
        if self.inputs is None or not any(new):
            return [None] * len(configs)
        program.run()
        outputs = program.outputs()
        if len(outputs) != len(configs):
            raise MeasurementError(
                f"the program has {len(outputs)} outputs for {len(configs)} configurations"
            )
        return [
            self._error(config, output) if yes else None
            for config, output, yes in zip(configs, outputs, new, strict=True)
        ]

    def _error(self, config: Config, output: NDArray[Any]) -> float | None:
        if self.inputs is None:
            return None
        return deviation(config, output, self.inputs(config, self.seed), device=self.check_device)

    def _incremented(self, config: Config, is_new: IsNew) -> BuildResult | MeasurementError:
        incrementer = Incrementer(clock=self.clock, runtime=self.runtime, policy=self.policy)
        try:
            done = incrementer.read(
                config,
                seed=self.seed,
                cold=self.cold,
                output=self.inputs is not None,
                is_new=functools.partial(is_new, config),
            )
        except MeasurementError as error:
            self._alive()
            return error
        error_of = None if done.output is None else self._error(config, done.output)
        return BuildResult(done.reading, "graph-increment", self.clock.state(), 1, done.cold_us, error_of)
