"""Who asks: the token of a request, and whether it is for what is asked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from latency_model.service.api.problems import Forbidden
from latency_model.service.state import Service
from latency_model.service.store.tokens import TokenBook, TokenInfo

__all__ = ["READS", "Checked", "authorise", "reads", "require"]

_LONGEST = 200
_MOST = 1024

_bearer = HTTPBearer(auto_error=False, description="A token that gharial tokens create made")


class Checked:
    """Tokens that were good a moment ago, so that not every request waits for a thread."""

    def __init__(self, book: TokenBook, *, keep_s: float) -> None:
        self._book, self._keep_s = book, keep_s
        self._known: dict[str, tuple[float, TokenInfo]] = {}

    async def check(self, secret: str) -> TokenInfo | None:
        """Return the token of a secret, None when it is not valid, or was not ``keep_s`` seconds ago."""
        now = time.monotonic()
        known = self._known.get(secret)
        if known is not None and now - known[0] < self._keep_s and known[1].valid():
            return known[1]
        self._known.pop(secret, None)
        found = await run_in_threadpool(self._book.check, secret)
        if found is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[secret] = now, found
        return found


async def authorise(scope: dict[str, Any], service: Service, need: str | None) -> TokenInfo | None:
    """Return the token of a request, None when it has none and needs none; ``Forbidden`` otherwise.

    A token that is no good is refused even where none is needed: its owner should know.
    """
    given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
    if given is None:
        if need is None:
            return None
        raise Forbidden(
            f"this needs a token with the scope {need}: Authorization: Bearer ghl_…; gharial tokens create makes one",
            headers={"WWW-Authenticate": "Bearer"},
        )
    kind, _, secret = given.partition(b" ")
    token = None
    if kind.lower() == b"bearer" and 0 < len(secret) <= _LONGEST:
        token = await service.checked.check(secret.decode("latin-1").strip())
    if token is None:
        raise Forbidden(
            "this token is unknown, expired or revoked",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    scope["gharial.token"] = token.id
    if need is not None and not token.allows(need):
        raise Forbidden(
            f"this needs a token with the scope {need}; {token.name} has {' '.join(token.scopes)}",
            status=403,
            type="forbidden",
        )
    return token


def require(need: str) -> Callable[..., Awaitable[TokenInfo]]:
    """Return a dependency that gives the token of the request, which must be for ``need``."""

    async def token(
        request: Request, _: HTTPAuthorizationCredentials | None = Security(_bearer)
    ) -> TokenInfo:
        found = await authorise(request.scope, request.app.state.service, need)  # type: ignore[arg-type]
        assert found is not None
        return found

    return token


async def reads(
    request: Request, _: HTTPAuthorizationCredentials | None = Security(_bearer)
) -> TokenInfo | None:
    """Let pass who may read: everybody, or by setting who has a token with the scope ``read``."""
    service: Service = request.app.state.service
    return await authorise(request.scope, service, service.settings.reads_need)  # type: ignore[arg-type]


READS = Depends(reads)
