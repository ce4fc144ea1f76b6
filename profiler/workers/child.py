"""The worker process: opens a back end, times what it is sent, and sends each outcome back at once.

It talks on the pipes that were its stdin and stdout, and ends when the parent does, however that ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO

from latency_model.errors import DeviceLostError, GharialError, MeasurementError
from latency_model.ops import Config, parse_config
from profiler.backends.base import Backend
from profiler.rows import row_to_json
from profiler.spec import BackendSpec
from profiler.workers.base import Description
from profiler.workers.frames import read_frame, write_frame

__all__ = ["main", "poisons"]

# Errors after which CUDA refuses every further call of the process, in the words of the driver and the runtimes.
_POISON = re.compile(
    r"illegal (memory access|address|instruction)|misaligned address|unspecified launch (failure|timeout)"
    r"|device-side assert|launch timed out|uncorrectable ECC|hardware stack error|invalid program counter"
    r"|context is destroyed|cudaError(IllegalAddress|LaunchFailure|MisalignedAddress|IllegalInstruction|Assert"
    r"|ECCUncorrectable|ContextIsDestroyed)|CUDA_ERROR_(ILLEGAL|LAUNCH_FAILED|MISALIGNED|ASSERT)",
    re.IGNORECASE,
)
_PR_SET_PDEATHSIG = 1
_GRACE_S = 3.0


def poisons(error: BaseException) -> bool:
    """Whether after ``error`` this process can time nothing more (the device's context is destroyed)."""
    return isinstance(error, DeviceLostError) or _POISON.search(str(error)) is not None


def main() -> None:
    """Serve the parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    incoming, outgoing = _take_pipes()
    first = read_frame(incoming)
    if first is None:
        return
    hello, _ = first
    _die_with(hello["parent"])
    tasks: queue.SimpleQueue[tuple[dict[str, Any], list[bytes]] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, tasks), daemon=True).start()
    try:
        backend = BackendSpec.from_json(hello["spec"]).open()
    except GharialError as error:
        write_frame(outgoing, {"kind": "refused", "error": type(error).__name__, "text": str(error)})
        return
    with backend:
        _describe(outgoing, backend)
        while (task := tasks.get()) is not None:
            try:
                _serve(outgoing, backend, *task)
            except Exception as error:
                # Not only a destroyed context: after a bug nobody knows what state the runtime is in.
                traceback.print_exc()
                text = (str(error).splitlines() or [""])[0]
                write_frame(outgoing, {"kind": "broken", "text": f"{type(error).__name__}: {text}"})
                os._exit(1)  # leaving in order may never end on a broken device


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to the parent, and let whatever prints to stdout print to stderr."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return incoming, outgoing


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the parent ends, even when the runtime never lets Python run."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _listen(incoming: BinaryIO, tasks: queue.SimpleQueue[Any]) -> None:
    while (frame := read_frame(incoming)) is not None:
        tasks.put(frame)
    tasks.put(None)
    # The pipe is closed: either this process is idle and ends by itself now, or nobody waits for its work.
    time.sleep(_GRACE_S)
    os._exit(1)


def _describe(outgoing: BinaryIO, backend: Backend) -> None:
    write_frame(outgoing, {"kind": "ready", **Description.of(backend).to_json()})


def _serve(outgoing: BinaryIO, backend: Backend, task: dict[str, Any], models: list[bytes]) -> None:
    done: dict[str, Any] = {"kind": "done"}
    if models:
        try:
            rows = backend.time_networks(models, run_id=task["run_id"])
            done["networks"] = [row_to_json(row) for row in rows]
        except MeasurementError as error:
            if poisons(error):
                raise
            done["failed"] = str(error)
    else:
        configs: list[Config] = [parse_config(text) for text in task["configs"]]
        for config, outcome in backend.measure_many(configs, run_id=task["run_id"]):
            if isinstance(outcome, MeasurementError):
                if poisons(outcome):
                    raise outcome
                write_frame(outgoing, {"kind": "failed", "config": config.text, "text": str(outcome)})
                continue
            try:
                write_frame(outgoing, {"kind": "row", "config": config.text, "row": row_to_json(outcome)})
            except ValueError as error:  # a NaN: the row says nothing, and the other rows are fine
                text = f"the back end gave a row with a number that is not finite: {error}"
                write_frame(outgoing, {"kind": "failed", "config": config.text, "text": text})
    write_frame(outgoing, done)


if __name__ == "__main__":
    main()
