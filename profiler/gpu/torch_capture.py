"""Capturing what PyTorch enqueues, and what an error of the device means: the thinnest layer over CUDA.

``CudaCapture`` needs a GPU. ``EagerCapture`` has the same methods on the CPU, where replaying is running again.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from latency_model.errors import DeviceLostError, MeasurementError

__all__ = ["Capture", "CudaCapture", "EagerCapture", "explain"]

# Errors after which every later call of the process fails too, as the CUDA runtime documents them.
_STICKY = re.compile(
    r"illegal memory access|illegal address|misaligned address|illegal instruction|invalid program counter|"
    r"hardware stack error|unspecified launch failure|launch timed out|device-side assert|uncorrectable|"
    r"invalid address space",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|ALLOC_FAILED")


class Capture(Protocol):
    """What a program needs of a device: warm up, capture, wait, and free."""

    def warm_up(self, enqueue: Callable[[], None]) -> None:
        """Run ``enqueue`` on the program's stream until every search is done, and wait."""
        ...

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Return what enqueues again all that ``enqueue`` did; from any thread."""
        ...

    def synchronise(self) -> None:
        """Wait until all that was enqueued is done."""
        ...

    def free(self) -> None:
        """Give back to the device what nobody uses."""
        ...


class EagerCapture:
    """A capture that keeps the function and calls it."""

    def warm_up(self, enqueue: Callable[[], None]) -> None:
        """Call ``enqueue`` twice."""
        for _ in range(2):
            enqueue()

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Return ``enqueue`` itself, free of gradients in whatever thread calls it."""

        def replay() -> None:
            with torch.inference_mode():
                enqueue()

        return replay

    def synchronise(self) -> None:
        """Do nothing: a call on the CPU has ended when it returns."""

    def free(self) -> None:
        """Do nothing: the memory of the CPU is freed with its tensors."""


class CudaCapture:
    """CUDA graphs on ``stream``, all of one program in one memory pool.

    The graphs replay one after the other on that stream, so they may share what they write in between.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool: Any = None

    def warm_up(self, enqueue: Callable[[], None]) -> None:
        """Run ``enqueue`` twice on the stream: the first run searches, the second one runs what was found."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                enqueue()
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Return the replay of a CUDA graph of what ``enqueue`` does."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process, a monitor of the device say, may call CUDA meanwhile.
        options = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        # torch.cuda.graph waits for the current device first, which need not be the stream's.
        with torch.cuda.device(self._stream.device), torch.cuda.graph(graph, **options):
            enqueue()

        def replay() -> None:
            try:
                with torch.cuda.stream(self._stream):
                    graph.replay()
            except RuntimeError as error:
                raise explain(error, "a program", self) from None

        return replay

    def synchronise(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def free(self) -> None:
        """Empty the cache of the allocator."""
        with torch.cuda.device(self._stream.device):
            torch.cuda.empty_cache()


def explain(error: BaseException, what: str, capture: Capture) -> MeasurementError:
    """Return ``error`` as one of ours, and free what it holds: its traceback keeps the tensors of its frames.

    Out of memory is an error of ``what`` alone. For anything else the device is asked to wait: when that
    fails as well, or the message names an error that CUDA calls lasting, the device is lost to this process.
    """
    if isinstance(error, MeasurementError):
        return error
    # Leaving a capture that failed may fail as well: the cause is then the context of the error.
    causes = list(_chain(error))
    lines = str(causes[-1]).splitlines() or [type(causes[-1]).__name__]
    for cause in causes:
        traceback.clear_frames(cause.__traceback__)
    if any(isinstance(cause, torch.OutOfMemoryError) or _MEMORY.search(str(cause)) for cause in causes):
        capture.free()
        return MeasurementError(
            f"out of device memory for {what}; use a smaller batch, or fewer configurations at once"
        )
    lost = any(_STICKY.search(str(cause)) for cause in causes)
    if not lost:
        try:
            capture.synchronise()
        except RuntimeError:
            lost = True
    if lost:
        return DeviceLostError(f"the device failed while PyTorch ran {what} ({lines[0]}); end this process")
    return MeasurementError(f"PyTorch could not run {what}: {lines[0]}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and what led to it, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
