"""The clock of a CUDA device: events on the runtime's stream, and traces through torch's profiler (CUPTI).

Kernels belong to the step whose host-side call launched them: the profiler gives a kernel and the CUDA call
that launched it one correlation id, and each step is a range on the same clock as the calls. Neither names
nor gaps are used, and memory sets and copies count like kernels: a convolution that clears its workspace
spends that time.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from latency_model.errors import InputError, MeasurementError
from profiler.gpu.nvml import Nvml
from profiler.gpu.program import GpuState, Kernel
from profiler.gpu.reading import TraceError

__all__ = ["CudaClock", "Traced", "attribute"]

_RANGE = "gharial step "
_L2_DEFAULT = 64 << 20


@dataclass(frozen=True, slots=True)
class Traced:
    """What the profiler recorded of some runs, times in nanoseconds of one clock.

    ``ranges`` are (start, end) of the steps on the host, in order. ``calls`` are (start, correlation id) of
    the calls into CUDA. ``work`` are (start, duration, correlation id, name) of what ran on the device.
    ``marked`` says that the first call of each step is one that launches nothing.
    """

    ranges: tuple[tuple[int, int], ...]
    calls: tuple[tuple[int, int], ...]
    work: tuple[tuple[int, int, int, str], ...]
    marked: bool = False


def attribute(traced: Traced) -> list[list[Kernel]]:
    """Return the kernels of each range, in order of their start.

    Some calls of the driver are not recorded. The work of such a call belongs where the call with the next
    smaller correlation id was made, as ids count up; unless each step is marked, the next larger one must
    say the same. Raises ``TraceError`` for work that belongs to no range, or to one of two.
    """
    begins = [start for start, _ in traced.ranges]

    def range_of(start: int) -> int | None:
        k = bisect.bisect_right(begins, start) - 1
        return k if k >= 0 and start <= traced.ranges[k][1] else None

    calls = sorted((correlation, range_of(start)) for start, correlation in traced.calls)
    ids = [correlation for correlation, _ in calls]
    out: list[list[Kernel]] = [[] for _ in traced.ranges]
    origin = min((start for start, *_ in traced.work), default=0)
    for start, duration, correlation, name in sorted(traced.work):
        k = bisect.bisect_right(ids, correlation) - 1
        place = calls[k][1] if k >= 0 else None
        exact = k >= 0 and ids[k] == correlation
        if not exact and not traced.marked and k + 1 < len(calls) and calls[k + 1][1] != place:
            raise TraceError(f"the trace does not say which step launched {name}")
        if place is None:
            raise TraceError(f"no step launched {name}; another thread may use the device")
        out[place].append(Kernel(name, (start - origin) / 1e3, duration / 1e3))
    return out


class CudaClock:
    """Times on the device ``index`` of this process, on ``stream``: a stream of torch's or a raw handle.

    The runtime must enqueue on that stream. Needs torch with CUDA, and nvidia-ml-py for ``state``.
    """

    def __init__(self, *, index: int = 0, stream: torch.cuda.Stream | int | None = None) -> None:
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise InputError(
                f"there is no CUDA device {index}; check the driver, CUDA_VISIBLE_DEVICES and that torch "
                "was installed with CUDA"
            )
        self._index = index
        properties: Any = torch.cuda.get_device_properties(index)
        if isinstance(stream, int):
            stream = torch.cuda.ExternalStream(stream, device=index)
        self._stream = stream or torch.cuda.Stream(device=index)
        self._l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or _L2_DEFAULT
        self._filler: torch.Tensor | None = None
        self._nvml = Nvml(uuid=str(getattr(properties, "uuid", "")), pci_bus_id=_bus_id(properties))
        self._start, self._end, self._mark = (
            torch.cuda.Event(enable_timing=timing) for timing in (True, True, False)
        )

    @property
    def stream(self) -> torch.cuda.Stream:
        """The stream that is timed."""
        return self._stream

    @property
    def nvml(self) -> Nvml:
        """The driver's view of the device."""
        return self._nvml

    def _current(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def elapsed_us(self, run: Callable[[], None], *, runs: int = 1) -> float:
        """Return the time between two events around ``runs`` calls, over ``runs``."""
        with _device_errors(), self._current():
            self._start.record(self._stream)
            for _ in range(runs):
                run()
            self._end.record(self._stream)
            self._end.synchronize()
            return float(self._start.elapsed_time(self._end)) * 1e3 / runs

    def trace(self, steps: Sequence[Callable[[], None]], *, runs: int) -> list[list[list[Kernel]]]:
        """Run ``steps`` ``runs`` times under the profiler and return the kernels of each step of each run.

        ``TraceError`` when the profiler gives nothing, or what it gives cannot be attributed.
        """
        self.synchronise()
        with _device_errors(), self._current():
            # The host's side is recorded too: the ranges and the calls of CUDA are there.
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as done:
                for _ in range(runs):
                    for step in steps:
                        with record_function(_RANGE):
                            # A call that is always recorded, ahead of those of the step that may not be.
                            self._mark.record(self._stream)
                            step()
                self._stream.synchronize()
            traced = read_events(done.profiler.kineto_results.events(), index=self._index)  # type: ignore[union-attr]
        if len(traced.ranges) != runs * len(steps):
            raise TraceError(f"the trace has {len(traced.ranges)} steps instead of {runs * len(steps)}")
        if not traced.work:
            raise TraceError(
                "the profiler shows no kernel; it may not be permitted on this device (see the driver's option "
                "NVreg_RestrictProfilingToAdminUsers) or another profiler holds it; use --method graph-increment"
            )
        parts = attribute(traced)
        return [parts[k : k + len(steps)] for k in range(0, len(parts), len(steps))]

    def evict(self) -> None:
        """Enqueue a write of twice the size of the last-level cache."""
        with _device_errors(), self._current():
            if self._filler is None:
                size = 2 * self._l2_bytes
                self._filler = torch.empty(size, dtype=torch.uint8, device=f"cuda:{self._index}")
            self._filler.fill_(1)

    def synchronise(self) -> None:
        """Wait for the stream."""
        with _device_errors():
            self._stream.synchronize()

    def state(self) -> GpuState:
        """Return what NVML says now."""
        return self._nvml.state()


def read_events(events: Sequence[Any], *, index: int) -> Traced:
    """Return what matters of the events of torch's profiler: ranges, calls into CUDA, work of device ``index``."""
    ranges, calls, work, marks = [], [], [], []
    for event in events:
        name, start = event.name(), event.start_ns()
        if str(event.device_type()).endswith("CUDA"):
            # A range also appears on the device's side, as an annotation that spans its kernels.
            if (
                event.device_index() == index
                and not name.startswith(_RANGE)
                and not event.is_user_annotation()
            ):
                work.append((start, event.duration_ns(), event.correlation_id(), name))
        elif name.startswith(_RANGE):
            ranges.append((start, start + event.duration_ns()))
        elif (
            name.startswith("cu") and "::" not in name
        ):  # cudaLaunchKernel, cuLaunchKernelEx, cudaGraphLaunch …
            calls.append((start, event.correlation_id()))
            if name.startswith("cudaEventRecord"):
                marks.append(start)
    ranges.sort()
    starts = sorted(start for start, _ in calls)
    first = [starts[k] for k in (bisect.bisect_left(starts, begin) for begin, _ in ranges) if k < len(starts)]
    marked = len(first) == len(ranges) and set(first) <= set(marks)
    return Traced(tuple(ranges), tuple(calls), tuple(work), marked)


def _bus_id(properties: Any) -> str:
    if not hasattr(properties, "pci_bus_id"):
        return ""
    domain = getattr(properties, "pci_domain_id", 0)
    return f"{domain:08x}:{properties.pci_bus_id:02x}:{getattr(properties, 'pci_device_id', 0):02x}.0"


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn whatever the device or the runtime raises into a ``MeasurementError``."""
    try:
        yield
    except MeasurementError:
        raise
    except Exception as error:  # torch and the runtimes have types of their own for errors of the device
        lines = str(error).splitlines() or [type(error).__name__]
        raise MeasurementError(f"the device reports: {lines[0]}") from error
