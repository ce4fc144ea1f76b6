"""A back end made of a runtime and a clock: packs configurations into programs, settles searches, fills rows."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Self

from latency_model.environment import Environment
from latency_model.errors import DeviceLostError, InputError, MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config
from profiler.backends.base import Outcome
from profiler.gpu.builds import METHODS, Builder
from profiler.gpu.check import Numbers, inputs_of
from profiler.gpu.interval import SpreadPool
from profiler.gpu.program import Clock, GpuState, Runtime
from profiler.gpu.reading import TraceError
from profiler.gpu.rows import RowBuilder, state_flags
from profiler.gpu.settle import SettleRule
from profiler.sampling import Policy, measurement, summarise, warm_up

__all__ = ["GPU_POLICY", "GpuBackend"]

# Seconds are for one configuration of a program: a pack of 64 may take two seconds of traces.
GPU_POLICY = Policy(min_samples=40, max_samples=600, max_seconds=0.03)
_NETWORK_POLICY = Policy(relative=0.02, warm_up_seconds=1.0)
_TURN = 4  # timed runs of a network before the next one's turn, after one run that refills the caches


class GpuBackend:
    """Times configurations on a GPU through ``runtime`` by ``clock``; owns both and closes them.

    ``method`` is one of the runtime's own, or ``auto``: the first of them that works on this device, and for
    a configuration whose traces are not believed the next one. ``builds`` and ``most_builds`` are those of
    ``SettleRule``. ``policy`` holds for a row: one build is sampled to ``sqrt(builds)`` times its widths. The
    interval of a row is wider where its builds differ by more (see ``profiler.gpu.interval``). The flag
    ``unstable`` says that the samples of a build were not as narrow as asked for.

    ``cold`` adds the latency with empty caches, ``check`` compares outputs with a reference of the numbers
    that ``inputs`` gives, computed on ``check_device``. ``process_spread`` is the relative standard deviation
    between processes that was found on the device, if any.
    """

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        *,
        method: str = "auto",
        policy: Policy | None = None,
        builds: int = 4,
        most_builds: int = 8,
        quote: str = "repeated",
        cold: bool = True,
        check: bool = True,
        seed: int = 0,
        process_spread: float = 0.0,
        inputs: Callable[[Config, int], Numbers] = inputs_of,
        check_device: str = "cpu",
    ) -> None:
        known = [name for name in runtime.methods if name in METHODS]
        if method != "auto" and method not in known:
            raise InputError(
                f"unknown method {method!r} for this runtime; known are auto, {', '.join(known)}"
            )
        self.precisions, self.at_once = runtime.precisions, runtime.at_once
        self.times_ops = runtime.times_ops
        self._runtime, self._clock, self._process_spread = runtime, clock, process_spread
        self._methods: tuple[str, ...] | None = None if method == "auto" else (method,)
        self._rule = SettleRule(least=builds, most=max(most_builds, builds), quote=quote)
        policy = policy or GPU_POLICY
        self._builder = Builder(
            runtime=runtime,
            clock=clock,
            policy=dataclasses.replace(
                policy,
                relative=policy.relative * math.sqrt(builds),
                absolute_us=policy.absolute_us * math.sqrt(builds),
            ),
            cold=cold,
            inputs=inputs if check else None,
            seed=seed,
            check_device=check_device,
        )
        self._pool = SpreadPool()
        self._closed = False

    @property
    def environment(self) -> Environment:
        """That of the runtime."""
        return self._runtime.environment

    def close(self) -> None:
        """Free what the runtime holds; may be called twice."""
        if not self._closed:
            self._closed = True
            self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, config: Config, *, run_id: str) -> Measurement:
        """Return the latency of one configuration in programs of its own."""
        ((_, outcome),) = self.measure_many([config], run_id=run_id)
        if isinstance(outcome, MeasurementError):
            raise outcome
        return outcome

    def measure_many(self, configs: Sequence[Config], *, run_id: str) -> Iterator[Outcome]:
        """Yield the outcome of each of ``configs`` once it is settled, ``at_once`` of them to a program.

        Raises ``DeviceLostError`` when the device does not answer any more: what was not yielded by then is
        not measured, and only a new process can go on.
        """
        unique = list(dict.fromkeys(configs))
        for start in range(0, len(unique), self.at_once):
            yield from self._settled(unique[start : start + self.at_once], run_id)

    def _settled(self, configs: Sequence[Config], run_id: str) -> Iterator[Outcome]:
        rows = {config: RowBuilder(config, self._rule) for config in configs}
        pending = list(configs)
        while pending:
            for method in self._usable(configs):
                chosen = [c for c in pending if (rows[c].method or self._usable(configs)[0]) == method]
                if chosen:
                    self._build(chosen, rows, method)
            finished = [config for config in pending if rows[config].done]
            pending = [config for config in pending if not rows[config].done]
            # All of them first: each row's interval leans on the spread between builds of the others.
            for row in (rows[config] for config in finished if rows[config].results):
                self._pool.add(row.quoted_us)
            for config in finished:
                yield config, self._outcome(rows[config], run_id)

    def _build(self, configs: Sequence[Config], rows: dict[Config, RowBuilder], method: str) -> None:
        results = self._builder.build(
            configs, method=method, is_new=lambda config, key: rows[config].is_new(key)
        )
        later = self._usable(configs)[self._usable(configs).index(method) + 1 :]
        for config, outcome in results.items():
            if isinstance(outcome, TraceError) and later and not rows[config].results:
                self._build([config], rows, later[0])
            else:
                rows[config].add(outcome)

    def _outcome(self, row: RowBuilder, run_id: str) -> Measurement | MeasurementError:
        medians = row.quoted_us if row.results else []
        if medians:
            self._pool.add(medians, times=-1)
        try:
            return row.row(pool=self._pool, process_spread=self._process_spread, run_id=run_id)
        except MeasurementError as error:
            return error
        finally:
            if medians:
                self._pool.add(medians)

    def _usable(self, configs: Sequence[Config]) -> tuple[str, ...]:
        """Return the methods that work on this device, best first; traces are tried once with ``configs``."""
        if self._methods is None:
            known = tuple(name for name in self._runtime.methods if name in METHODS)
            others = tuple(name for name in known if name != "kernel-trace")
            works = not others or "kernel-trace" not in known or self._builder.traces(configs)
            self._methods = known if works else others
        return self._methods

    def time_networks(
        self, models: Sequence[bytes], *, seed: int = 0, rounds: int = 20, run_id: str = ""
    ) -> list[Measurement]:
        """Return the time of one graph replay of each network, by turns of ``1 + 4`` runs, ``rounds`` times.

        The first run of a turn is not counted: it finds the caches full of another network. The launch of
        the graph is part of the time.
        """
        times: list[list[float]] = [[] for _ in models]
        states: list[list[GpuState]] = [[] for _ in models]
        try:
            with ExitStack() as stack:
                programs = [
                    stack.enter_context(closing(self._runtime.build_network(model, seed=seed)))
                    for model in models
                ]
                for program in programs:
                    warm_up(functools.partial(self._clock.elapsed_us, program.run), policy=_NETWORK_POLICY)
                for _ in range(rounds):
                    for program, seen, state in zip(programs, times, states, strict=True):
                        program.run()
                        seen.extend(self._clock.elapsed_us(program.run) for _ in range(_TURN))
                        state.append(self._clock.state())
        except MeasurementError:
            self._alive()
            raise
        return [
            measurement(
                summarise(seen, policy=_NETWORK_POLICY),
                method="graph-replay",
                run_id=run_id,
                flags=state_flags(state),
            )
            for seen, state in zip(times, states, strict=True)
        ]

    def _alive(self) -> None:
        try:
            self._clock.synchronise()
        except MeasurementError as error:
            raise DeviceLostError(f"the device does not answer any more ({error})") from error
