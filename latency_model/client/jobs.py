"""Jobs of a server: what is to be measured, and what has become of it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from latency_model.errors import InputError, MeasurementError, ServerError
from latency_model.ops import Config

if TYPE_CHECKING:
    from latency_model.client.transport import Transport

__all__ = ["Job", "Jobs"]

_LONGEST_KEY = 128
_ENDED = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server last told of it: ``done`` of ``total`` items have a row.

    ``state`` is queued, leased, done, failed or cancelled; ``failures`` says why items could not be measured, and
    ``data`` is everything that the server says.
    """

    id: str
    kind: str
    state: str
    total: int
    done: int
    error: str | None
    environment: str | None
    failures: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will be measured."""
        return self.state in _ENDED

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Return what the server says of a job."""
        return cls(
            id=str(data["id"]),
            kind=str(data["kind"]),
            state=str(data["state"]),
            total=int(data["total"]),
            done=int(data["done"]),
            error=data["error"],
            environment=data["environment"],
            failures=dict(data["failures"]),
            data=dict(data),
        )


class Jobs:
    """The jobs of the server that a ``Client`` talks to; submitting and cancelling take a token with jobs:write."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(
        self,
        what: Iterable[Config | str] | Path | str,
        *,
        wants: Mapping[str, Any] | None = None,
        batch: int | None = None,
        precision: str | None = None,
        priority: int = 0,
        max_attempts: int = 5,
        idempotency_key: str | None = None,
    ) -> Job:
        """Ask for configurations, or the whole network of an ONNX file, to be measured, and return the job.

        ``wants`` says on what: ``{"device": "h100", "runtime": "tensorrt"}``, or the key of an ``environment``. What
        is measured there already is not measured again. ``batch`` and ``precision`` are of an ONNX file, whose
        weights are not sent. The same ``idempotency_key`` makes one job however often it is submitted; without one
        each call has its own, under which a lost answer is asked for again.
        """
        key = idempotency_key or secrets.token_hex(16)
        if len(key) > _LONGEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"an idempotency key has up to {_LONGEST_KEY} printable ASCII characters and no spaces"
            )
        headers = {"Idempotency-Key": key}
        common = {"priority": priority, "max_attempts": max_attempts}
        if isinstance(what, Path) or (isinstance(what, str) and what.lower().endswith(".onnx")):
            from latency_model.client.estimates import skeleton

            wanted = None if wants is None else json.dumps(dict(wants))
            query = {
                **common,
                "name": Path(what).stem[:80],
                "batch": batch,
                "precision": precision,
                "wants": wanted,
            }
            headers["Content-Type"] = "application/octet-stream"
            return self._job("POST", "/v1/jobs", query=query, body=skeleton(Path(what)), headers=headers)
        if batch is not None or precision is not None:
            raise InputError("a batch and a precision are for an ONNX file; configurations have their own")
        configs = (
            [what]
            if isinstance(what, str)
            else [each if isinstance(each, str) else each.text for each in what]
        )
        data = {"configs": configs, "wants": dict(wants or {}), **common}
        headers["Content-Type"] = "application/json"
        return self._job("POST", "/v1/jobs", body=json.dumps(data).encode(), headers=headers)

    def status(self, job: Job | str) -> Job:
        """Return a job as it is now."""
        return self._job("GET", f"/v1/jobs/{_id(job)}")

    def list(self, state: str | None = None, *, limit: int = 100) -> list[Job]:
        """Return jobs, the latest first, without their failures."""
        listed = self._transport.json("GET", "/v1/jobs", query={"state": state, "limit": limit})
        return self._transport.read(lambda data: [Job.from_json(one) for one in data], listed)

    def items(self, job: Job | str) -> dict[str, str]:
        """Return the state of each configuration of a job: waiting, stored or failed."""
        listed = self._transport.json("GET", f"/v1/jobs/{_id(job)}/items")
        return self._transport.read(lambda data: {str(i["config"]): str(i["state"]) for i in data}, listed)

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job; what was measured so far stays. One that has ended stays as it is."""
        return self._job("POST", f"/v1/jobs/{_id(job)}/cancel")

    def wait(self, job: Job | str, *, timeout_s: float | None = None, poll_s: float = 1.0) -> Job:
        """Return the job when it is done, asking every ``poll_s`` seconds.

        Raises ``MeasurementError`` when it failed or was cancelled, ``ServerError`` when it has not ended after
        ``timeout_s``; the job goes on then.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not (found := self.status(job)).ended:
            if until is not None and time.monotonic() + poll_s > until:
                raise ServerError(
                    f"job {found.id} has {found.done} of {found.total} rows after {timeout_s:g} s; it goes on"
                )
            time.sleep(poll_s)
        if found.state != "done":
            raise MeasurementError(f"job {found.id} is {found.state}: {found.error or 'no reason is known'}")
        return found

    def _job(self, method: str, path: str, **given: Any) -> Job:
        return self._transport.read(Job.from_json, self._transport.json(method, path, **given))


def _id(job: Job | str) -> str:
    return job.id if isinstance(job, Job) else quote(job, safe="")
