"""Errors as JSON: ``{"error": {"type", "message", "request_id"}}`` and never a trace.

Problem                 what a handler refuses, with its status and type
├── NotMeasured         404: no row of a configuration; a job can ask for it
├── UnknownEnvironment  404
├── TooLarge            413
└── Forbidden           401 without a good token, 403 with one of another scope

Every other ``InputError`` is a 400 with the name of its class as type, what nobody expected a 500.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from latency_model.errors import GharialError, InputError

__all__ = [
    "PROBLEMS",
    "Busy",
    "Forbidden",
    "NotMeasured",
    "Problem",
    "ProblemBody",
    "TooLarge",
    "UnknownEnvironment",
    "add_handlers",
    "problem_body",
    "problem_of",
]

_log = logging.getLogger("gharial.service")
_NAMES: Mapping[int, str] = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    413: "too-large",
    422: "invalid",
    429: "rate-limited",
    503: "unavailable",
}


class Problem(InputError):  # noqa: N818 - what RFC 9457 calls it
    """A request that is refused; ``extra`` are more fields of the answer's ``error``."""

    status = 400
    type = "bad-request"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status = status or self.status
        self.type = type or self.type
        self.headers = dict(headers or {})
        self.extra = extra


class NotMeasured(Problem):
    """Nothing is known of a configuration."""

    status, type = 404, "not-measured"


class UnknownEnvironment(Problem):
    """No environment has such a key."""

    status, type = 404, "unknown-environment"


class TooLarge(Problem):
    """A body beyond a limit."""

    status, type = 413, "too-large"


class Busy(Problem):
    """Something is not ready, or there is too much to do; asking again later helps."""

    status, type = 503, "unavailable"


class Forbidden(Problem):
    """No token, a bad one (401), or one of another scope (403)."""

    status, type = 401, "unauthorized"


class ProblemDetail(BaseModel):
    """What went wrong: one sentence, and the id under which the log has it."""

    type: str
    message: str
    request_id: str


class ProblemBody(BaseModel):
    """The body of every answer that is no success."""

    error: ProblemDetail


# What every route may answer beside its success, for the OpenAPI document.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemBody, "description": text}
    for status, text in (
        (400, "Something in the request cannot be used"),
        (401, "A token is needed"),
        (403, "The token is not for this"),
        (404, "No such thing"),
        (408, "The request took too long to arrive"),
        (413, "Too large"),
        (422, "A parameter is missing or malformed"),
        (429, "Too many requests"),
        (503, "Not ready, or too busy"),
    )
}


def problem_body(type: str, message: str, request_id: str, extra: Mapping[str, Any] | None = None) -> bytes:
    """Return the JSON of a problem."""
    error = {"type": type, "message": message, "request_id": request_id, **(extra or {})}
    return json.dumps({"error": error}, separators=(",", ":"), default=str).encode()


def problem_of(error: Exception) -> Problem:
    """Return what a client is told of ``error``; of one that is not ours nothing but that there was one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, GharialError):
        name = type(error).__name__
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
        status = getattr(error, "status", 400) if isinstance(error, InputError) else 500
        return Problem(str(error), status=status, type=kind)
    if isinstance(error, HTTPException):
        kind = _NAMES.get(error.status_code, "error")
        return Problem(
            str(error.detail) + ".", status=error.status_code, type=kind, headers=error.headers or {}
        )
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Problem(f"{where}: {first['msg']}", status=422, type="invalid")
    return Problem("the server failed; its log has more under this id", status=500, type="internal")


def response_of(request: Request, error: Exception) -> Response:
    """Return the answer for ``error``, which is logged when it is the server's own."""
    request_id = str(request.scope.get("gharial.request_id", ""))
    problem = problem_of(error)
    if problem.status >= 500 and problem.type != "unavailable":
        _log.error("failed", exc_info=error, extra={"request_id": request_id})
    body = problem_body(problem.type, str(problem), request_id, problem.extra)
    return Response(body, problem.status, {**problem.headers}, "application/json")


def add_handlers(app: FastAPI) -> None:
    """Let ``app`` answer errors as problems."""

    async def handle(request: Request, error: Exception) -> Response:
        return response_of(request, error)

    for kind in (GharialError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)
