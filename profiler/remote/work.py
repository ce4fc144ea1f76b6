"""One job on this device: measured a stretch at a time, each stretch sent, and then ended one way or another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latency_model.errors import GharialError, InputError, ModelError
from latency_model.ops import Config, parse_config
from profiler.remote.delivery import Delivery
from profiler.remote.heartbeat import Heartbeat
from profiler.remote.outbox import Outbox
from profiler.remote.patience import Patience
from profiler.remote.server import AwayError, Leased, OverError, RefusedError, Server
from profiler.remote.stretches import Stretches
from profiler.runner import Network, profile
from profiler.workers import Workers

__all__ = ["Work"]


class _StopError(Exception):
    """Not to be measured any further; ``why`` is ``stop``, or what the heartbeat learned."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(kw_only=True)
class Work:
    """One lease: what is done with the job, to its end or to where it was interrupted."""

    lease: Leased
    server: Server
    workers: Workers
    outbox: Outbox
    delivery: Delivery
    patience: Patience
    stop: threading.Event
    stretch_s: float
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self._beat = Heartbeat(self.server, self.lease.lease, self.lease.lease_s)

    def run(self) -> str:
        """Return ``done``, ``failed`` or ``interrupted``; the part that is measured is sent in any case."""
        lease = self.lease
        network = " and the whole network" if lease.network else ""
        self.tell(f"job {lease.job}, attempt {lease.attempt}: {len(lease.configs)} configurations{network}")
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
            self.tell(f"job {lease.job}: {over}")
            return "interrupted"

    def _measure(self) -> dict[str, str]:
        """Measure everything, and return why what has no row has none, where the rows do not say it."""
        configs = list(map(parse_config, self.lease.configs))
        # In random order, slow drift of the machine does not look like a slope over the channel counts.
        random.Random(0).shuffle(configs)
        stretches = Stretches(self.stretch_s, at_once=self.workers.description.at_once)
        while configs:
            part, configs = configs[: stretches.size], configs[stretches.size :]
            began = time.monotonic()
            self._stretch(part)
            stretches.took(len(part), time.monotonic() - began)
            self._look(self.delivery.offer())
        if not self.lease.network:
            return {}
        return self._network()

    def _stretch(self, configs: Sequence[Config], networks: Sequence[Network] = ()) -> list[str]:
        notes: list[str] = []
        self._look()
        part = self.outbox.begin(self.lease.lease)
        profile(
            self.workers,
            configs,
            out=part.table,
            networks=networks,
            progress=lambda *_: self._look(),
            note=notes.append,
        )
        for note in notes:
            self.tell(note)
        return notes

    def _look(self, state: str = "leased") -> None:
        """Stop between two configurations when there is a reason to."""
        if state not in ("leased", "away"):
            raise _StopError(state)
        if self._beat.over:
            raise _StopError(self._beat.over)
        if self.stop.is_set():
            raise _StopError("stop")

    def _network(self) -> dict[str, str]:
        """Time the whole network, and what only this runtime does between its operators; return why not."""
        name = str(self.lease.request["name"])
        item = f"network {name}"
        data = self.patience.ask(lambda: self.server.model(self.lease.lease))
        try:
            network, reorders = self._read(name, data)
        except ModelError as error:
            return {item: str(error)}
        notes = self._stretch(reorders, [network])
        self._look(self.delivery.wait())
        return {item: "; ".join(notes) or "the worker could not time it"}

    def _read(self, name: str, data: bytes) -> tuple[Network, list[Config]]:
        from latency_model.harvest import harvest_onnx, onnx_at_batch
        from profiler.remote.weights import with_weights

        request, described = self.lease.request, self.workers.description
        batch, precision = request["batch"], request["precision"]
        cost = harvest_onnx(data, batch=batch, precision=precision, name=name)
        shapes: list[Config] = [shape for _, shape in cost.shapes()]
        ops, reorders = described.times_ops, described.reorders
        others = [shape for _, shape in cost.op_shapes(reorders=reorders)] if ops else []
        known = {shape for _, shape in cost.op_shapes()}
        extra: list[Config] = [shape for shape in dict.fromkeys(others) if shape not in known]
        return (name, with_weights(onnx_at_batch(data, batch=batch)), (*shapes, *others)), extra

    def _complete(self, failures: dict[str, str]) -> str:
        if self.delivery.wait() == "lost":
            return "interrupted"
        try:
            self.patience.ask(lambda: self.server.complete(self.lease.lease, failures))
        except RefusedError as refused:
            if refused.status in (401, 403):
                raise
            self._failed(str(refused))
            return "failed"
        self.tell(f"job {self.lease.job} is done")
        return "done"

    def _interrupted(self, why: str) -> str:
        self.delivery.wait()
        if why == "stop":
            self.patience.ask(lambda: self.server.give_back(self.lease.lease))
        reason = {"stop": "given back", "lost": "taken over by another worker"}.get(why, why)
        self.tell(f"job {self.lease.job} is {reason}; its rows so far are stored")
        return "interrupted"

    def _failed(self, reason: str) -> None:
        """Bring what there is, and the reason; an error on the way must not hide that one."""
        try:
            self.delivery.offer()
            self.server.fail(self.lease.lease, reason)
        except (AwayError, OverError, InputError) as error:
            self.tell(f"job {self.lease.job} failed, which could not be reported: {error}")
