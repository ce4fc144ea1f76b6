"""The worker: leases a job, measures it in isolated processes a stretch at a time, brings back each stretch."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from latency_model.errors import GharialError, InputError, ModelError
from latency_model.ops import Config, parse_config
from profiler.remote.delivery import Delivery
from profiler.remote.heartbeat import Heartbeat
from profiler.remote.outbox import Outbox
from profiler.remote.patience import Patience
from profiler.remote.server import AwayError, Leased, OverError, RefusedError, Server
from profiler.remote.stretches import Stretches
from profiler.runner import Network, profile
from profiler.spec import BackendSpec
from profiler.workers import TIME_LIMIT_S, Workers, open_workers

__all__ = ["RemoteWorker"]

_POLL_S = (0.5, 5.0)  # between questions for a job, from the first to the longest


class _StopError(Exception):
    """Not to be measured any further; ``why`` is ``stop``, or what the heartbeat learned."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class RemoteWorker:
    """Measures for ``server`` on the device of ``spec`` until ``stop`` is set, with ``once`` until no job waits.

    Rows are in ``folder`` from the moment they are measured until the server has them: a worker that is killed
    and started again with the same folder sends them. After ``stop`` the configuration that is being measured is
    finished, what there is is sent, and the job is given back. ``tell`` is told sentences for the user.
    """

    def __init__(
        self,
        server: Server,
        spec: BackendSpec,
        folder: Path,
        *,
        stop: threading.Event | None = None,
        once: bool = False,
        time_limit_s: float = TIME_LIMIT_S,
        stretch_s: float = 60.0,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._server, self._spec, self._folder = server, spec, folder
        self._stop, self._once = stop or threading.Event(), once
        self._time_limit_s, self._stretch_s = time_limit_s, stretch_s
        self._tell = tell or (lambda _: None)
        self._patience = Patience(self._stop, self._tell)

    def run(self) -> int:
        """Work, and return how many jobs were completed.

        Raises ``InputError`` when the device cannot be opened or the token is refused, ``GharialError`` when the
        device is lost: the job has then failed, with that as the reason.
        """
        completed = 0
        with Outbox(self._folder, tell=self._tell) as outbox:
            delivery = Delivery(self._server, outbox, self._patience, tell=self._tell)
            try:
                delivery.earlier()
                while not self._stop.is_set():
                    # Opened anew after an interruption: it may still be busy with what nobody wants any more.
                    with open_workers([self._spec], time_limit_s=self._time_limit_s) as workers:
                        while (lease := self._next(workers)) is not None:
                            done = _Work(self, workers, outbox, delivery, lease).run()
                            completed += done == "done"
                            if done == "interrupted":
                                break
                        else:
                            break
            except AwayError as away:
                if not self._stop.is_set():
                    raise
                self._tell(f"{away}; what is not sent stays in {self._folder} for the next worker")
        return completed

    def _next(self, workers: Workers) -> Leased | None:
        """Return the next job, None when it is time to end."""
        wait_s, longest_s = _POLL_S
        while not self._stop.is_set():
            lease = self._patience.ask(lambda: self._server.lease(workers.description))
            if lease is not None or self._once:
                return lease
            self._stop.wait(wait_s * random.uniform(0.75, 1.25))
            wait_s = min(longest_s, wait_s * 1.5)
        return None


class _Work:
    """One lease: what is done with the job, to its end or to where it was interrupted."""

    def __init__(
        self, worker: RemoteWorker, workers: Workers, outbox: Outbox, delivery: Delivery, lease: Leased
    ) -> None:
        self._worker, self._workers, self._outbox, self._delivery = worker, workers, outbox, delivery
        self._lease = lease
        self._server, self._patience, self._tell = worker._server, worker._patience, worker._tell
        self._beat = Heartbeat(worker._server, lease.lease, lease.lease_s)

    def run(self) -> str:
        """Return ``done``, ``failed`` or ``interrupted``; the part that is measured is sent in any case."""
        lease = self._lease
        network = " and the whole network" if lease.network else ""
        self._tell(f"job {lease.job}, attempt {lease.attempt}: {len(lease.configs)} configurations{network}")
        try:
            with self._beat:
                try:
                    failures = self._measure()
                except _StopError as interrupted:
                    return self._interrupted(interrupted.why)
                except (GharialError, OSError) as error:
                    self._failed(str(error))
                    raise
                return self._complete(failures)
        except OverError as over:
            self._tell(f"job {lease.job}: {over}")
            return "interrupted"

    def _measure(self) -> dict[str, str]:
        """Measure everything, and return why what has no row has none, where the rows do not say it."""
        configs = list(map(parse_config, self._lease.configs))
        # In random order, slow drift of the machine does not look like a slope over the channel counts.
        random.Random(0).shuffle(configs)
        stretches = Stretches(self._worker._stretch_s, at_once=self._workers.description.at_once)
        while configs:
            part, configs = configs[: stretches.size], configs[stretches.size :]
            began = time.monotonic()
            self._stretch(part)
            stretches.took(len(part), time.monotonic() - began)
            self._look(self._delivery.offer())
        if not self._lease.network:
            return {}
        return self._network()

    def _stretch(self, configs: Sequence[Config], networks: Sequence[Network] = ()) -> list[str]:
        notes: list[str] = []
        self._look()
        part = self._outbox.begin(self._lease.lease)
        profile(
            self._workers,
            configs,
            out=part.table,
            networks=networks,
            progress=lambda *_: self._look(),
            note=notes.append,
        )
        for note in notes:
            self._tell(note)
        return notes

    def _look(self, state: str = "leased") -> None:
        """Stop between two configurations when there is a reason to."""
        if state not in ("leased", "away"):
            raise _StopError(state)
        if self._beat.over:
            raise _StopError(self._beat.over)
        if self._worker._stop.is_set():
            raise _StopError("stop")

    def _network(self) -> dict[str, str]:
        """Time the whole network, and what only this runtime does between its operators; return why not."""
        name = str(self._lease.request["name"])
        item = f"network {name}"
        data = self._patience.ask(lambda: self._server.model(self._lease.lease))
        try:
            network, reorders = self._read(name, data)
        except ModelError as error:
            return {item: str(error)}
        notes = self._stretch(reorders, [network])
        self._look(self._delivery.wait())
        return {item: "; ".join(notes) or "the worker could not time it"}

    def _read(self, name: str, data: bytes) -> tuple[Network, list[Config]]:
        from latency_model.harvest import harvest_onnx, onnx_at_batch
        from profiler.remote.weights import with_weights

        request, described = self._lease.request, self._workers.description
        batch, precision = request["batch"], request["precision"]
        cost = harvest_onnx(data, batch=batch, precision=precision, name=name)
        shapes: list[Config] = [shape for _, shape in cost.shapes()]
        ops, reorders = described.times_ops, described.reorders
        others = [shape for _, shape in cost.op_shapes(reorders=reorders)] if ops else []
        known = {shape for _, shape in cost.op_shapes()}
        extra: list[Config] = [shape for shape in dict.fromkeys(others) if shape not in known]
        return (name, with_weights(onnx_at_batch(data, batch=batch)), (*shapes, *others)), extra

    def _complete(self, failures: dict[str, str]) -> str:
        if self._delivery.wait() == "lost":
            return "interrupted"
        try:
            self._patience.ask(lambda: self._server.complete(self._lease.lease, failures))
        except RefusedError as refused:
            if refused.status in (401, 403):
                raise
            self._failed(str(refused))
            return "failed"
        self._tell(f"job {self._lease.job} is done")
        return "done"

    def _interrupted(self, why: str) -> str:
        self._delivery.wait()
        if why == "stop":
            self._patience.ask(lambda: self._server.give_back(self._lease.lease))
        reason = {"stop": "given back", "lost": "taken over by another worker"}.get(why, why)
        self._tell(f"job {self._lease.job} is {reason}; its rows so far are stored")
        return "interrupted"

    def _failed(self, reason: str) -> None:
        """Bring what there is, and the reason; an error on the way must not hide that one."""
        try:
            self._delivery.offer()
            self._server.fail(self._lease.lease, reason)
        except (AwayError, OverError, InputError) as error:
            self._tell(f"job {self._lease.job} failed, which could not be reported: {error}")
