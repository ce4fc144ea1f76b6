"""The server as a worker sees it: one method a request, and three kinds of bad news."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from latency_model.client.problems import problem_of
from latency_model.client.token import plain_allowed
from latency_model.errors import DependencyError, GharialError, InputError, ServerError
from profiler.workers.base import Description

if TYPE_CHECKING:
    from latency_model.client.http import Answer

__all__ = ["AwayError", "Leased", "OverError", "RefusedError", "Server"]

_JSON = {"Content-Type": "application/json"}
_PARQUET = {"Content-Type": "application/vnd.apache.parquet"}
_ANSWER_S, _LONGEST_S = 120.0, 300.0
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class AwayError(GharialError):
    """No answer, or one that asks to come later: the same request again, after a while, can do no harm.

    ``later_s`` is what the server asked for, 0 if it did not say.
    """

    def __init__(self, message: str, later_s: float = 0.0) -> None:
        super().__init__(message)
        self.later_s = later_s


class OverError(GharialError):
    """The lease is not this worker's any more."""


class RefusedError(InputError):
    """The server will not take this, now or later. ``status`` is that of HTTP, 0 without one."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Leased:
    """A job to be measured: the texts of its configurations, and its network where ``network`` is set."""

    lease: str
    lease_s: float
    job: str
    attempt: int
    configs: tuple[str, ...]
    network: bool
    request: Mapping[str, Any]


class Server:
    """The jobs of a server at ``url``, for a worker called ``worker``; a context manager. Threads may share it.

    Every method raises ``AwayError``, ``RefusedError``, and ``OverError`` where it is about a lease. Opening it raises
    ``DependencyError`` without httpx, ``InputError`` for what is no URL, and for a token that others could read.
    """

    def __init__(self, url: str, *, worker: str, token: str | None = None) -> None:
        try:
            import httpx

            from latency_model.client.http import Http
        except ModuleNotFoundError as error:
            raise DependencyError(
                f"a worker needs {error.name} to talk to its server; install it with: pip install 'gharial[client]'"
            ) from error
        self._http = Http(url, token=token, timeout_s=_ANSWER_S, plain_token=plain_allowed())
        self._failed = httpx.RequestError
        self.url, self.worker = self._http.url, worker

    def lease(self, description: Description) -> Leased | None:
        """Return a job that suits what this worker can do, None when none waits."""
        offer = {
            "environment": description.environment.to_json(),
            "precisions": list(description.precisions),
            "times_ops": description.times_ops,
        }
        answer = self._ask("POST", "/v1/leases", data={"worker": self.worker, "offer": offer})
        if answer.status == 204:
            return None
        data = json.loads(answer.body)
        return Leased(
            data["lease"],
            float(data["lease_s"]),
            data["job_id"],
            int(data["attempt"]),
            tuple(data["configs"]),
            bool(data["network"]),
            data["request"],
        )

    def heartbeat(self, lease: str) -> str:
        """Prolong a lease and return the state of its job: anything but ``leased`` means to stop."""
        return _state(self._ask("POST", f"/v1/leases/{lease}/heartbeat"))

    def post_rows(self, lease: str, table: bytes) -> str:
        """Post rows, a latency table as Parquet; return the state of the job."""
        return _state(self._ask("POST", f"/v1/leases/{lease}/rows", table, _PARQUET))

    def post_late(self, table: bytes) -> None:
        """Post rows whose lease is over."""
        self._ask("POST", f"/v1/leases/late/rows?worker={quote(self.worker, safe='')}", table, _PARQUET)

    def complete(self, lease: str, failures: Mapping[str, str]) -> None:
        """Say that all of a job is measured, but for ``failures``."""
        self._ask("POST", f"/v1/leases/{lease}/complete", data={"failures": dict(failures)})

    def fail(self, lease: str, reason: str) -> None:
        """Say that this attempt has failed."""
        self._ask("POST", f"/v1/leases/{lease}/fail", data={"reason": reason})

    def give_back(self, lease: str) -> None:
        """Give a job back without fault, for another worker to go on at once."""
        self._ask("POST", f"/v1/leases/{lease}/release")

    def model(self, lease: str) -> bytes:
        """Return the ONNX file of a leased job."""
        return self._ask("GET", f"/v1/leases/{lease}/model").body

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = _JSON,
        *,
        data: Mapping[str, Any] | None = None,
    ) -> Answer:
        if data is not None:
            body = json.dumps(data).encode()
        try:
            answer = self._http.ask(method, path, body, headers)
        except self._failed as error:
            reason = str(error).strip() or type(error).__name__
            raise AwayError(f"{self.url} does not answer ({reason})") from error
        except ServerError as error:  # it redirects to where this may not go
            raise RefusedError(str(error), 0) from error
        if answer.status < 300:
            return answer
        problem = problem_of(answer.status, answer.body)
        if answer.status in _LATER:
            wait_s = min(_LONGEST_S, answer.retry_after_s or 0.0)
            raise AwayError(f"{self.url} is not ready ({answer.status}: {problem.message})", wait_s)
        if answer.status in (401, 403):
            raise RefusedError(
                f"{self.url} refuses the token ({problem.message}); give one with the scope `work` as "
                "GHARIAL_TOKEN, made there with: gharial tokens create",
                answer.status,
            )
        if problem.type == "lease-lost-error":
            raise OverError(problem.message)
        raise RefusedError(
            f"{self.url} refuses {method} {path.partition('?')[0][:20]}…: {problem.message}", answer.status
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _state(answer: Answer) -> str:
    return str(json.loads(answer.body)["state"])
