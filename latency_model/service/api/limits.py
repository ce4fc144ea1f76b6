"""The outermost layer: request ids, limits of size, time and rate, one line of log and one count a request."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latency_model.service.api.problems import Busy, Problem, TooLarge, problem_body, problem_of
from latency_model.service.state import Service

__all__ = ["COSTS", "Limits", "Rates"]

_log = logging.getLogger("gharial.requests")
_failures = logging.getLogger("gharial.service")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

# Units of the rate limit that a request takes; any other takes one.
COSTS: Mapping[str, float] = {
    "/v1/lookup/arrow": 10.0,
    "/v1/estimate": 20.0,
    "/v1/estimate/network": 20.0,
    "/v1/tables": 100.0,
    "/v1/jobs": 20.0,
}
# Paths whose bodies have a limit of their own, by the name of the setting.
_SIZES: Mapping[str, str] = {
    "/v1/lookup/arrow": "max_arrow_bytes",
    "/v1/estimate": "max_onnx_bytes",
    "/v1/jobs": "max_onnx_bytes",
    "/v1/tables": "max_table_bytes",
}
# Paths whose bodies go through or to a file as they arrive.
_STREAMED = frozenset({"/v1/estimate", "/v1/tables"})
_MOST_CLIENTS = 10_000
_GONE = 499  # in the log, of a client that did not wait for an answer
# Not logged one by one unless asked for, when all is well: there are thousands a second.
_MANY = frozenset({"/v1/lookup", "/healthz", "/readyz", "/metrics"})


class Rates:
    """A bucket of units for each client: it fills at ``per_s`` up to ``burst``."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, max(burst, max(COSTS.values()))
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, client: str, cost: float, now: float) -> float:
        """Take ``cost`` units and return 0, or take none and return after how many seconds there are enough."""
        if not self._per_s:
            return 0.0
        level, at = self._buckets.get(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_s)
        if level < cost:
            return (cost - level) / self._per_s
        self._buckets[client] = level - cost, now
        if len(self._buckets) > _MOST_CLIENTS:
            full = now - self._burst / self._per_s
            self._buckets = {who: b for who, b in self._buckets.items() if b[1] > full} or {}
            while len(self._buckets) > _MOST_CLIENTS:
                self._buckets.pop(next(iter(self._buckets)))
        return 0.0


class Limits:
    """ASGI middleware around the whole application.

    ``direct`` are applications that GET requests of a path go to at once, past the framework, which takes as long
    as the rest of a lookup. They read no body.
    """

    def __init__(self, app: ASGIApp, service: Service, direct: Mapping[str, ASGIApp] | None = None) -> None:
        self._app, self._service, settings = app, service, service.settings
        self._direct = dict(direct or {})
        self._rates = Rates(settings.rate_per_s, settings.rate_burst)
        self._sizes = {path: int(getattr(settings, name)) for path, name in _SIZES.items()}
        self._most = settings.max_body_bytes
        self._most_buffered, self.buffered = settings.max_buffered_bytes, 0
        self._timeout_s = settings.request_timeout_s
        self._log_all = settings.log_lookups
        self._ids = map((secrets.token_hex(4) + "-%x").__mod__, itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            # No route takes a web socket; the server answers the end of this one by itself.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        await _Request(self, scope, receive, send).run()


class _Request:
    """One request on its way through the limits."""

    __slots__ = (
        "_limits", "_receive", "_send", "_start", "app", "held", "id", "most", "over", "read", "scope", "started",
        "status", "timer", "whole",
    )  # fmt: skip

    def __init__(self, limits: Limits, scope: Scope, receive: Receive, send: Send) -> None:
        self._limits, self.scope, self._receive, self._send = limits, scope, receive, send
        self._start = time.perf_counter()
        self.status, self.started, self.read, self.whole = 0, False, 0, False
        self.held = 0
        self.over: Problem | None = None
        self.most = limits._sizes.get(scope["path"], limits._most)
        self.timer: asyncio.Timeout | None = None
        self.id = ""

    async def run(self) -> None:
        limits, scope = self._limits, self.scope
        self.id = self._id()
        scope["gharial.request_id"] = self.id
        metrics = limits._service.metrics
        metrics.in_flight.inc()
        try:
            self._admit()
            if (direct := limits._direct.get(scope["path"])) is not None and scope["method"] == "GET":
                await direct(scope, self._receive, self._sending)
                return
            async with asyncio.timeout(limits._timeout_s) as self.timer:
                await limits._app(scope, self._receiving, self._sending)
        except ClientDisconnect:
            self.status = _GONE
        except Exception as error:  # what no handler expected, or the end of its time
            problem = self.over or problem_of(error)
            if isinstance(error, TimeoutError) and self.timer is not None and self.timer.expired():
                problem = Problem(
                    f"the request took longer than {limits._timeout_s:g} s", status=408, type="timeout"
                )
            if problem.status >= 500:
                _failures.error("failed", exc_info=error, extra={"request_id": self.id})
            await self._refuse(problem)
        finally:
            metrics.in_flight.dec()
            limits.buffered -= self.held
            self.over = None  # its trace would keep what was read until the next collection
            seconds = time.perf_counter() - self._start
            route = _route(scope, limits._direct)
            metrics.request(scope["method"] if route != "other" else "any", route, self.status, seconds)
            self._note(route, seconds)

    def _id(self) -> str:
        for name, value in self.scope["headers"]:
            if name == b"x-request-id" and _ID.fullmatch(value):
                return str(value.decode())
        return str(next(self._limits._ids))

    def _admit(self) -> None:
        """Raise the problem of a request that comes too soon or says that it is too large."""
        scope = self.scope
        client = scope.get("client")
        wait = self._limits._rates.wait_s(
            client[0] if client else "", COSTS.get(scope["path"], 1.0), time.monotonic()
        )
        if wait:
            raise Problem(
                "too many requests; come back later",
                status=429,
                type="rate-limited",
                headers={"Retry-After": str(int(wait) + 1)},
            )
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit() or len(value) > 18 or int(value) > self.most:
                    raise self._too_large()
                return

    def _unread(self) -> bool:
        """Whether more of the body may be on its way, which nobody should wait for."""
        return not self.whole and self.scope["method"] not in ("GET", "HEAD")

    def _too_large(self) -> Problem:
        return TooLarge(f"the body has more than the {self.most} bytes that this path takes")

    async def _receiving(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.read += size
            self.whole = not message.get("more_body", False)
            if self.read > self.most:
                self.over = self._too_large()
                raise self.over
            if self.scope["path"] not in _STREAMED:
                self.held += size
                self._limits.buffered += size
                if self._limits.buffered > self._limits._most_buffered:
                    self.over = Busy(
                        "too many large requests at once; send it again", headers={"Retry-After": "2"}
                    )
                    raise self.over
        return message

    async def _sending(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.over is not None:  # the framework took our refusal for its own error
                return
            self.started, self.status = True, message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
            if self.status >= 400 and self._unread():
                message["headers"].append((b"connection", b"close"))
            if self.timer is not None:
                self.timer.reschedule(None)  # how long sending may take the connection decides
        elif self.over is not None and not self.started:
            if not message.get("more_body"):
                await self._refuse(self.over)
            return
        await self._send(message)

    async def _refuse(self, problem: Problem) -> None:
        """Answer with ``problem``; an answer that was begun is cut off."""
        if self.started:
            if self.status < 500 and self.over is None:
                raise _CutOff(str(problem))
            return
        body = problem_body(problem.type, str(problem), self.id, problem.extra)
        self.started, self.status = True, problem.status
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self.id.encode()),
            (b"x-content-type-options", b"nosniff"),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        if self._unread():
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _note(self, route: str, seconds: float) -> None:
        if not self._limits._log_all and route in _MANY and self.status < 400:
            return
        client = self.scope.get("client")
        said: dict[str, Any] = {
            "request_id": self.id,
            "method": self.scope["method"],
            "path": self.scope["path"],
            "status": self.status,
            "ms": round(seconds * 1e3, 3),
            "received": self.read,
            "client": client[0] if client else None,
        }
        if "gharial.token" in self.scope:
            said["token"] = self.scope["gharial.token"]
        _log.info("request", extra=said)


def _route(scope: Scope, direct: Mapping[str, ASGIApp]) -> str:
    """Return the path as its route has it, "other" where there is none: paths that clients make up are endless."""
    found = scope.get("route")
    if found is not None:
        return str(getattr(found, "path", "other"))
    return scope["path"] if scope["path"] in direct else "other"


class _CutOff(Exception):  # noqa: N818 - never seen by anybody: it makes the server drop the connection
    """An answer that was begun and cannot be ended."""
