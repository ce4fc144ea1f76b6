"""Requests to one server: connections that are kept, what is sent again and when, and where a token goes.

Every request here may be sent twice: reading changes nothing, an import of rows that are there changes nothing, and
a job is submitted under a key of its own. So one that finds no server, or one that asks to come later, is repeated.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin

from latency_model.client.connection import Connection, Origin, split_url
from latency_model.client.pool import Pool
from latency_model.client.problems import problem_of
from latency_model.client.token import checked_token
from latency_model.client.version import skew, version
from latency_model.errors import InputError, ServerError

__all__ = ["Answer", "Transport"]

_LATER = frozenset({429, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
_REDIRECTS = 5
_FIRST_S, _LONGEST_S = 0.2, 8.0
_MOST_BYTES = 1 << 30
_PART = 1 << 18
_FAILED = (OSError, HTTPException)
_T = TypeVar("_T")
_Opened = tuple[Connection, HTTPResponse]


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or what was asked to be accepted: status, headers by small names, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class _Later(Exception):  # noqa: N818 - it is caught here, and only here
    """The same request may succeed later; ``error`` is raised if it is not sent again."""

    def __init__(self, error: Exception, wait_s: float | None = None) -> None:
        super().__init__()
        self.error, self.wait_s = error, wait_s


class Transport:
    """Asks the server at ``url``; threads may share one.

    ``timeout_s`` is for one answer, or for each silence in one that is streamed. ``retries`` is how often a request is
    sent again that found no server, ``patience_s`` how long in all while the server says when to come back.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        timeout_s: float,
        retries: int,
        patience_s: float,
        plain_token: bool,
    ) -> None:
        self.origin, base = split_url(url)
        self._base = base.partition("?")[0].rstrip("/")
        self._token = checked_token(token, self.origin, plain_token=plain_token)
        self._timeout_s, self._retries, self._patience_s = timeout_s, retries, patience_s
        self._pool = Pool(silence_s=timeout_s)
        self._theirs: str | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return f"{self.origin}{self._base}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """Return the whole answer; statuses other than success and ``accept`` raise what the same mistake does here."""
        return self._asked(method, path, query, body, headers or {}, accept, stream=False)[0]

    def json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON that is answered; ``ServerError`` for an answer that is none."""
        answer = self.ask(method, path, query=query, body=body, headers=headers)
        return self.read(json.loads, answer.body)

    def read(self, read: Callable[[Any], _T], data: Any) -> _T:
        """Return ``read(data)``; ``ServerError`` where it makes no sense, as of a server of another version."""
        try:
            return read(data)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            RecursionError,
            InputError,
        ) as error:
            known = self.skew() or "is it a Gharial server?"
            reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {_why(error)}"
            raise ServerError(f"an answer of {self.url} {reason}; {known}") from error

    def unless(self, answer: Answer, kind: str) -> None:
        """Raise what an accepted refusal says, unless it is of the type ``kind``."""
        if problem_of(answer.status, answer.body).type != kind:
            self._refused(self.origin, answer)

    def expect(self, found: int, asked: int) -> None:
        """Raise ``ServerError`` for an answer with another number of rows than were asked for."""
        if found != asked:
            raise ServerError(f"{self.url} answered {found} of {asked} lookups; {self.skew() or 'try again'}")

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Yield the head of an answer and the parts of its body, which is whole or ends in ``ServerError``."""
        answer, opened = self._asked("GET", path, query, None, headers or {}, accept, stream=True)
        if opened is None:
            yield answer, iter(())
            return
        try:
            yield answer, self._streamed(opened[1])
        finally:
            self._pool.put_back(*opened)

    def _streamed(self, response: HTTPResponse) -> Iterator[bytes]:
        try:
            yield from _parts(response)
        except _FAILED as error:
            raise ServerError(
                f"{self.url} broke off in the middle of an answer ({_why(error)}); try again"
            ) from error

    def _asked(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | Path | None,
        headers: Mapping[str, str],
        accept: tuple[int, ...],
        *,
        stream: bool,
    ) -> tuple[Answer, _Opened | None]:
        target = self._base + path
        if query := {name: value for name, value in (query or {}).items() if value is not None}:
            target += "?" + urlencode({n: _text(v) for n, v in query.items()}, quote_via=quote)
        began, tries = time.monotonic(), 0
        while True:
            try:
                return self._once(method, target, body, headers, accept, stream=stream)
            except _Later as later:
                tries += 1
                wait_s = random.uniform(0.5, 1.0) * min(_LONGEST_S, _FIRST_S * 2.0**tries)
                if later.wait_s is None:
                    if tries > self._retries:
                        raise later.error from later.__cause__
                else:
                    wait_s = max(wait_s, later.wait_s)
                    if time.monotonic() - began + wait_s > self._patience_s:
                        raise later.error from later.__cause__
            time.sleep(wait_s)

    def _once(
        self,
        method: str,
        target: str,
        body: bytes | Path | None,
        headers: Mapping[str, str],
        accept: tuple[int, ...],
        *,
        stream: bool,
    ) -> tuple[Answer, _Opened | None]:
        """Ask once, at the place where redirects lead; ``_Later`` for what may be asked again."""
        origin = self.origin
        for _ in range(_REDIRECTS + 1):
            connection, response = self._sent(origin, method, target, body, headers)
            status, found = response.status, {n.lower(): v for n, v in response.getheaders()}
            wanted = 200 <= status < 300
            if wanted and stream:
                connection.deadline = None
                return Answer(status, found), (connection, response)
            answer = Answer(status, found, self._whole(connection, response))
            if wanted or status in accept:
                return answer, None
            if status not in _MOVED:
                self._refused(origin, answer)
            origin, target = self._moved(origin, method, target, answer)
        raise ServerError(
            f"{self.url} redirects more than {_REDIRECTS} times; give the address where it leads"
        )

    def _whole(self, connection: Connection, response: HTTPResponse) -> bytes:
        found, size = [], 0
        try:
            for part in _parts(response):
                found.append(part)
                size += len(part)
                if size > _MOST_BYTES:
                    raise ServerError(
                        f"{connection.origin} sends more than {_MOST_BYTES} bytes; is it a Gharial server?"
                    )
        except TimeoutError as error:
            raise self._silent() from error
        except _FAILED as error:
            raise _Later(
                ServerError(f"{connection.origin} broke off in the middle of an answer ({_why(error)})")
            ) from error
        finally:
            self._pool.put_back(connection, response)
        return b"".join(found)

    def _sent(
        self, origin: Origin, method: str, target: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[Connection, HTTPResponse]:
        sent = {"User-Agent": f"gharial/{version()}", "Host": origin.netloc, **headers}
        if self._token is not None and origin == self.origin:
            sent["Authorization"] = f"Bearer {self._token}"
        if isinstance(body, Path):
            sent["Content-Length"] = str(body.stat().st_size)
        while True:
            connection = self._pool.take(origin)
            connection.deadline = time.monotonic() + self._timeout_s
            fresh = not connection.used
            try:
                connection.connect()
                if isinstance(body, Path):
                    with body.open("rb") as file:
                        return connection, connection.ask(method, target, sent, file)
                return connection, connection.ask(method, target, sent, body)
            except _FAILED as error:
                connection.close()
                if not fresh and not isinstance(error, TimeoutError):
                    continue  # the server ended a connection that nobody used, which is no failure
                if isinstance(error, TimeoutError) and connection.used:
                    raise self._silent() from error
                problem = ServerError(f"{origin} does not answer ({_why(error)}); is it running?")
                if type(error).__name__ == "SSLCertVerificationError":  # it will be no better a moment later
                    raise problem from error
                raise _Later(problem) from error

    def _silent(self) -> ServerError:
        return ServerError(
            f"{self.url} did not answer within {self._timeout_s:g} s; ask for less, or wait longer"
        )

    def _refused(self, origin: Origin, answer: Answer) -> None:
        """Raise what an answer says that is neither a success nor a redirect."""
        problem = problem_of(answer.status, answer.body)
        error = problem.error(str(origin), skew=self.skew() if problem.foreign else "")
        if answer.status in (401, 403) and origin != self.origin:
            error = InputError(f"{error} - it was not sent to {origin}, to which {self.origin} redirects")
        if answer.status in _LATER:
            raise _Later(error, _retry_after(answer.headers.get("retry-after")))
        raise error

    def _moved(self, origin: Origin, method: str, target: str, answer: Answer) -> tuple[Origin, str]:
        """Return where a redirect leads; what is sent goes to no other host."""
        place = urljoin(f"{origin}{target}", answer.headers.get("location", ""))
        try:
            new, rest = split_url(place)
        except InputError as error:
            raise ServerError(f"{origin} redirects to {place[:200]!r}, which is no server") from error
        if origin.scheme == "https" and new.scheme != "https":
            raise ServerError(f"{origin} redirects to {new}, which is not encrypted; give the right --server")
        if method != "GET" and (answer.status in (301, 302, 303) or new != self.origin):
            raise ServerError(f"{origin} redirects to {new}; give that address, if it is the one you mean")
        return new, rest or "/"

    def skew(self) -> str:
        """Return a phrase about the server's version where it is not this one; "" where it is, or says none."""
        if self._theirs is None:
            self._theirs = ""
            with suppress(Exception):
                self._theirs = skew(self.ask("GET", "/healthz").body)
        return self._theirs

    def close(self) -> None:
        """End the connections."""
        self._pool.close()


def _parts(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the parts of a body; ``IncompleteRead`` for one that is shorter than its head says."""
    while part := response.read(_PART):
        yield part
    if response.length:
        raise IncompleteRead(b"", response.length)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _why(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _retry_after(text: str | None) -> float | None:
    """Return the seconds that a header asks to wait, None when there is none that can be read."""
    if text is None:
        return None
    with suppress(ValueError):
        return max(0.0, min(1e9, float(text)))
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
