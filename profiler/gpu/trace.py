"""The method ``kernel-trace``: the latency of a configuration is the sum of its kernels' times in a trace.

A program runs many configurations in a row, so one short trace times them all. The kernels of a step that
holds several configurations are told apart by marker kernels; those that only change the layout or the type at
a program's ends are kept apart. Traces are not believed blindly: every run of a configuration must show the
same kernels.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from profiler.gpu.program import Clock, Kernel, Program, Step
from profiler.gpu.reading import Reading, TraceError, shares
from profiler.sampling import Policy, Sampled, summarise, warm_up

__all__ = ["Tracer", "split_step"]


def split_step(kernels: Sequence[Kernel], configs: int, *, marker: re.Pattern[str]) -> list[list[Kernel]]:
    """Return the kernels of each of the ``configs`` configurations of a step, without its markers.

    Raises ``TraceError`` when there is not one marker for each, or a kernel before the first.
    """
    if configs == 1:
        return [[kernel for kernel in kernels if not marker.search(kernel.name)]]
    parts: list[list[Kernel]] = []
    for kernel in kernels:
        if marker.search(kernel.name):
            parts.append([])
        elif parts:
            parts[-1].append(kernel)
        else:
            raise TraceError(f"the trace has a kernel before the first marker: {kernel.name}")
    if len(parts) != configs:
        raise TraceError(f"the trace has {len(parts)} markers for {configs} configurations")
    return parts


@dataclass
class _Seen:
    """The samples of one configuration so far, and the kernels that every run of it must show."""

    kernels: list[Kernel] | None = None
    times_us: list[list[float]] = field(default_factory=list)
    boundary_us: list[float] = field(default_factory=list)
    bad_rounds: int = 0
    error: TraceError | None = None
    sampled: Sampled | None = None


@dataclass(frozen=True, kw_only=True)
class Tracer:
    """Traces programs: ``runs`` runs a round, until each configuration is known as ``policy`` asks.

    The caps of ``policy`` are for one configuration: ``max_seconds`` is multiplied by their number, and at
    least a second. A round whose trace is malformed is repeated ``retries`` times.
    """

    clock: Clock
    marker: re.Pattern[str]
    boundary: re.Pattern[str]
    policy: Policy
    runs: int = 20
    retries: int = 2

    def warm_up(self, program: Program) -> None:
        """Run the program until its time settles: lazy loading and the ramp of the clock are over then."""
        warm_up(lambda: self.clock.elapsed_us(program.run), policy=self.policy)

    def read(
        self,
        steps: Sequence[Step],
        passes: Callable[[Step], Sequence[Callable[[], None]]],
        *,
        policy: Policy | None = None,
    ) -> list[Reading | TraceError]:
        """Return the reading of each configuration of ``steps`` in order, or why its trace is not believed.

        ``passes`` says what to enqueue for a step; only the last pass counts.
        """
        policy = policy or self.policy
        seen = [[_Seen() for _ in step.configs] for step in steps]
        configs = sum(map(len, seen))
        late = time.perf_counter() + max(1.0, policy.max_seconds * configs)
        while True:
            pending = [
                k
                for k, parts in enumerate(seen)
                if any(p.error is None and not _done(p, policy) for p in parts)
            ]
            if not pending:
                break
            self._round([steps[k] for k in pending], [seen[k] for k in pending], passes)
            for part in (part for k in pending for part in seen[k]):
                if part.times_us:
                    part.sampled = summarise([sum(row) for row in part.times_us], policy=policy)
            if time.perf_counter() > late and all(p.sampled or p.error for parts in seen for p in parts):
                break
        return [_reading(part, self.boundary) for parts in seen for part in parts]

    def _round(
        self,
        steps: Sequence[Step],
        seen: Sequence[Sequence[_Seen]],
        passes: Callable[[Step], Sequence[Callable[[], None]]],
    ) -> None:
        calls = [list(passes(step)) for step in steps]
        try:
            traced = self.clock.trace([call for each in calls for call in each], runs=self.runs)
            if len(traced) != self.runs or any(len(run) != sum(map(len, calls)) for run in traced):
                raise TraceError("the trace lacks steps of some runs")
        except TraceError as error:
            for part in (part for parts in seen for part in parts):
                self._reject(part, str(error))
            return
        last = -1
        for step, parts, each in zip(steps, seen, calls, strict=True):
            last += len(each)
            self._take(step, parts, [run[last] for run in traced])

    def _take(self, step: Step, parts: Sequence[_Seen], runs: Sequence[Sequence[Kernel]]) -> None:
        """Add the runs of one step to what was seen of its configurations."""
        try:
            split = [split_step(kernels, len(parts), marker=self.marker) for kernels in runs]
        except TraceError as error:
            for part in parts:
                self._reject(part, str(error))
            return
        for k, (config, part) in enumerate(zip(step.configs, parts, strict=True)):
            mine = [run[k] for run in split]
            if complaint := _complaint(part, mine):
                self._reject(part, f"{complaint}: {config}")
                continue
            part.kernels = part.kernels or list(mine[0])
            part.bad_rounds = 0
            for kernels in mine:
                ends = [kernel.duration_us for kernel in kernels if self.boundary.search(kernel.name)]
                part.boundary_us.append(sum(ends))
                part.times_us.append(
                    [kernel.duration_us for kernel in kernels if not self.boundary.search(kernel.name)]
                )
            if not part.times_us[0]:
                part.error = TraceError(f"no kernel of its own is in the trace: {config}")

    def _reject(self, part: _Seen, why: str) -> None:
        part.bad_rounds += 1
        if part.bad_rounds > self.retries:
            part.error = TraceError(f"{why} ({part.bad_rounds} traces)")


def _done(part: _Seen, policy: Policy) -> bool:
    if part.sampled is None or len(part.times_us) < policy.min_samples:
        return False
    return part.sampled.stable or len(part.times_us) >= policy.max_samples


def _complaint(part: _Seen, runs: Sequence[Sequence[Kernel]]) -> str:
    """Return what is wrong with the kernels of the runs of one configuration; empty when nothing is."""
    seen = Counter(tuple(kernel.name for kernel in run) for run in runs)
    if part.kernels is not None:
        seen[tuple(kernel.name for kernel in part.kernels)] += 0
    if len(seen) == 1:
        return ""
    (usual, _), (other, count) = seen.most_common(2)[:2]
    differing = sorted(set(usual) ^ set(other))
    what = differing[0] if differing else f"{len(other)} instead of {len(usual)} kernels"
    return f"{max(count, 1)} of {len(runs)} traced runs show other kernels than the rest ({what})"


def _reading(part: _Seen, boundary: re.Pattern[str]) -> Reading | TraceError:
    if part.error is not None or part.sampled is None or part.kernels is None:
        return part.error or TraceError("no trace of it could be used")
    own = [kernel for kernel in part.kernels if not boundary.search(kernel.name)]
    medians = np.median(np.asarray(part.times_us), axis=0)
    return Reading(part.sampled, shares(own, [float(m) for m in medians]), float(np.median(part.boundary_us)))
