"""The server as a worker sees it: one method a request, and three kinds of bad news."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from latency_model.client.connection import split_url
from latency_model.client.token import checked_token, plain_allowed
from latency_model.errors import DependencyError, GharialError, InputError
from profiler.workers.base import Description

__all__ = ["AwayError", "Leased", "OverError", "RefusedError", "Server"]

_PARQUET = {"content-type": "application/vnd.apache.parquet"}
_CONNECT_S, _ANSWER_S = 5.0, 120.0
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
    """The server will not take this, now or later. ``status`` is that of HTTP."""

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
        except ImportError as error:
            raise DependencyError(
                "a worker talks to its server with httpx; install it with: pip install 'gharial[service]'"
            ) from error
        if not url.startswith(("http://", "https://")) or not url.partition("://")[2].strip("/"):
            raise InputError(f"not the URL of a server: {url!r}; write it like http://host:8765")
        sent = checked_token(token, split_url(url)[0], plain_token=plain_allowed())
        self.url, self.worker = url.rstrip("/"), worker
        self._failed = httpx.HTTPError
        self._client = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {sent}"} if sent else {},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
        )

    def lease(self, description: Description) -> Leased | None:
        """Return a job that suits what this worker can do, None when none waits."""
        offer = {
            "environment": description.environment.to_json(),
            "precisions": list(description.precisions),
            "times_ops": description.times_ops,
        }
        answer = self._ask("POST", "/v1/leases", json={"worker": self.worker, "offer": offer})
        if answer.status_code == 204:
            return None
        data = answer.json()
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
        return str(self._ask("POST", f"/v1/leases/{lease}/heartbeat").json()["state"])

    def post_rows(self, lease: str, table: bytes) -> str:
        """Post rows, a latency table as Parquet; return the state of the job."""
        answer = self._ask("POST", f"/v1/leases/{lease}/rows", content=table, headers=_PARQUET)
        return str(answer.json()["state"])

    def post_late(self, table: bytes) -> None:
        """Post rows whose lease is over."""
        self._ask(
            "POST", "/v1/leases/late/rows", content=table, headers=_PARQUET, params={"worker": self.worker}
        )

    def complete(self, lease: str, failures: Mapping[str, str]) -> None:
        """Say that all of a job is measured, but for ``failures``."""
        self._ask("POST", f"/v1/leases/{lease}/complete", json={"failures": dict(failures)})

    def fail(self, lease: str, reason: str) -> None:
        """Say that this attempt has failed."""
        self._ask("POST", f"/v1/leases/{lease}/fail", json={"reason": reason})

    def give_back(self, lease: str) -> None:
        """Give a job back without fault, for another worker to go on at once."""
        self._ask("POST", f"/v1/leases/{lease}/release")

    def model(self, lease: str) -> bytes:
        """Return the ONNX file of a leased job."""
        return bytes(self._ask("GET", f"/v1/leases/{lease}/model").content)

    def _ask(self, method: str, path: str, **given: Any) -> Any:
        try:
            answer = self._client.request(method, path, **given)
        except self._failed as error:
            reason = str(error).strip() or type(error).__name__
            raise AwayError(f"{self.url} does not answer ({reason})") from error
        if answer.status_code < 300:
            return answer
        kind, message = _problem(answer)
        if answer.status_code in _LATER:
            raise AwayError(f"{self.url} is not ready ({answer.status_code}: {message})", _later_s(answer))
        if answer.status_code in (401, 403):
            raise RefusedError(
                f"{self.url} refuses the token ({message}); give one with the scope `work` as GHARIAL_TOKEN, "
                "made there with: gharial tokens create",
                answer.status_code,
            )
        if kind == "lease-lost-error":
            raise OverError(message)
        raise RefusedError(
            f"{self.url} refuses {method} {path.partition('?')[0][:20]}…: {message}", answer.status_code
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _problem(answer: Any) -> tuple[str, str]:
    try:
        error = answer.json()["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):  # not ours: a proxy's page
        return "", f"HTTP {answer.status_code}"


def _later_s(answer: Any) -> float:
    try:
        return min(300.0, max(0.0, float(answer.headers.get("retry-after", 0))))
    except ValueError:
        return 0.0
