"""A fleet: workers on the nodes of a Ray cluster, each a supervisor of one worker process there.

A configuration that crashes or hangs takes the worker process down, which its supervisor replaces. Only when
the supervisor itself is gone, with its node or by force, is a worker lost, and others take its work over.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from latency_model import errors
from latency_model.errors import DependencyError, GharialError, InputError
from profiler.spec import BackendSpec
from profiler.workers.base import TIME_LIMIT_S, Description, Died, Done, Event, Ready, Task, same
from profiler.workers.local import LocalWorkers

__all__ = ["ClusterWorkers", "NodeWorker"]

_POLL_S = 5.0
_Refused = tuple[
    str, str
]  # the class of an error of ours and its sentence: Ray would wrap the exception itself


class NodeWorker:
    """What runs on a node, as a Ray actor. Every answer is a value; nothing is raised."""

    def __init__(self, spec: BackendSpec, time_limit_s: float) -> None:
        self._workers = LocalWorkers([spec], time_limit_s=time_limit_s)

    def open(self) -> tuple[str, int, Description] | _Refused:
        """Open the back end; return where this is, this process's id, and what the back end says of itself."""
        try:
            self._workers.__enter__()
        except GharialError as error:
            return type(error).__name__, str(error)
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        where = socket.gethostname() + (f" gpu {gpus}" if gpus else "")
        return where, os.getpid(), self._workers.description

    def exchange(self, task: Task | None, seconds: float) -> list[Event] | _Refused:
        """Begin ``task`` if there is one, and return what happens within ``seconds``, at the first event."""
        try:
            if task is not None:
                self._workers.submit(0, task)
            return list(self._workers.wait(seconds))
        except GharialError as error:
            return type(error).__name__, str(error)

    def renew(self) -> _Refused | None:
        """Go on in a fresh process."""
        try:
            self._workers.renew()
        except GharialError as error:
            return type(error).__name__, str(error)
        return None


class ClusterWorkers:
    """Workers on a Ray cluster: ``count`` of them, by default one for each GPU, or one a node for a CPU.

    Each takes one GPU of its node, or ``resources`` (names and amounts of Ray's resources), and sees its GPU as
    ``cuda:0``. Gharial must be installed on every node. Raises ``InputError`` when the cluster cannot be
    reached or is too small, and when the nodes are not of one environment; ``GharialError`` when no worker is
    left.
    """

    names: tuple[str, ...]
    description: Description

    def __init__(
        self,
        spec: BackendSpec,
        *,
        address: str = "auto",
        count: int | None = None,
        resources: dict[str, float] | None = None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self._on_gpu = spec.device.startswith("cuda")
        self._spec = replace(spec, device="cuda:0") if self._on_gpu else spec
        self._address, self._count, self._time_limit_s = address, count, time_limit_s
        self._resources = resources
        self._ray = _ray()
        self._ours = False
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self.pids: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        try:
            self._connect()
            count = self._count or self._default_count()
            actor = self._ray.remote(NodeWorker).options(
                num_gpus=1 if self._on_gpu and self._resources is None else 0,
                num_cpus=0 if self._resources is not None else 1,
                resources=self._resources or {},
                scheduling_strategy="SPREAD",
                max_restarts=0,
            )
            self._actors = {index: actor.remote(self._spec, self._time_limit_s) for index in range(count)}
            opened = self._open()
        except BaseException:
            self._end()
            raise
        self.names = tuple(f"{where} worker {index}" for index, (where, _, _) in enumerate(opened))
        self.pids = tuple(pid for _, pid, _ in opened)
        try:
            self.description = same(self.names, [described for _, _, described in opened])
        except InputError:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def submit(self, worker: int, task: Task) -> None:
        """Send ``task`` to a worker that waits for one."""
        self._call(worker, task)

    def renew(self) -> None:
        """Let every node go on in a fresh worker process."""
        for call in [actor.renew.remote() for actor in self._actors.values()]:
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayError:
                continue  # its next task says that it is lost
            if answer is not None:
                raise _refusal(answer)

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what the workers have sent, waiting for the first event if need be."""
        if not self._actors:
            raise GharialError(
                f"every worker of the cluster {self._address} is gone; when its nodes are back, the same command "
                "goes on where this run stopped"
            )
        answered, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        events: list[Event] = []
        for call in answered:
            worker = self._calls.pop(call)
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                events.append(self._lost(worker, error))
                continue
            if isinstance(answer, tuple):
                raise _refusal(answer)
            events += [replace(event, worker=worker) for event in answer]
            # Idle after its task, or when it was replaced: all else is still to be waited for.
            if not (answer and isinstance(answer[-1], Done | Ready)):
                self._call(worker, None)
        return events

    def _call(self, worker: int, task: Task | None) -> None:
        self._calls[self._actors[worker].exchange.remote(task, _POLL_S)] = worker

    def _lost(self, worker: int, error: Exception) -> Died:
        del self._actors[worker]
        return Died(worker, f"was lost ({_first_line(error)})", lost=True)

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"cannot reach a Ray cluster at {self._address} ({_first_line(error)}); start one with: "
                "ray start --head"
            ) from error
        self._ours = True

    def _default_count(self) -> int:
        if not self._on_gpu:
            return sum(bool(node["Alive"]) for node in self._ray.nodes())
        count = int(self._ray.cluster_resources().get("GPU", 0))
        if not count:
            raise InputError(
                f"the cluster {self._address} has no GPU; start its nodes with ray start --num-gpus, or use "
                "--device cpu"
            )
        return count

    def _open(self) -> list[tuple[str, int, Description]]:
        calls = [actor.open.remote() for actor in self._actors.values()]
        _, late = self._ray.wait(calls, num_returns=len(calls), timeout=self._time_limit_s)
        if late:
            raise InputError(
                f"{len(late)} of {len(calls)} workers found no place on the cluster {self._address} within "
                f"{self._time_limit_s:.0f} s; free its nodes or ask for fewer with --workers"
            )
        try:
            answers = self._ray.get(calls)
        except self._ray.exceptions.RayError as error:
            raise InputError(
                f"a worker could not be started on the cluster ({_first_line(error)}); Gharial must be "
                "installed on each of its nodes"
            ) from error
        for answer in answers:
            if len(answer) == 2:
                raise _refusal(answer)
        return list(answers)

    def _end(self) -> None:
        # With its supervisor gone a worker process ends by itself.
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors, self._calls = {}, {}
        if self._ours:
            self._ray.shutdown()
            self._ours = False


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise DependencyError(
            "a cluster needs Ray; install it with: pip install 'gharial[cluster]'"
        ) from error


def _refusal(answer: _Refused) -> GharialError:
    kind = getattr(errors, answer[0], InputError)
    refusal: GharialError = kind(answer[1])
    return refusal


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
