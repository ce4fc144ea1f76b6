"""Requests to one server: what is sent again and when, and what becomes of an answer that is no success.

Every request here may be sent twice: reading changes nothing, an import of rows that are there changes nothing, and
a job is submitted under a key of its own. So one that finds no server, or one that asks to come later, is repeated.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx

from latency_model.client.http import Answer, Http
from latency_model.client.problems import problem_of
from latency_model.client.version import skew
from latency_model.errors import InputError, ServerError

__all__ = ["Answer", "Transport"]

_LATER = frozenset({429, 502, 503, 504})
_FIRST_S, _LONGEST_S = 0.2, 8.0
_T = TypeVar("_T")
_Query = Mapping[str, Any] | None
_Headers = Mapping[str, str] | None


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
        self._http = Http(url, token=token, timeout_s=timeout_s, plain_token=plain_token)
        self._timeout_s, self._retries, self._patience_s = timeout_s, retries, patience_s
        self._theirs: str | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return self._http.url

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: _Query = None,
        body: bytes | Path | None = None,
        headers: _Headers = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """Return the whole answer; statuses other than success and ``accept`` raise what the same mistake does here."""
        return self._asked(method, path, query, body, headers, accept)[0]

    def json(
        self,
        method: str,
        path: str,
        *,
        query: _Query = None,
        body: bytes | Path | None = None,
        headers: _Headers = None,
    ) -> Any:
        """Return the JSON that is answered; ``ServerError`` for an answer that is none."""
        return self.read(json.loads, self._asked(method, path, query, body, headers)[0].body)

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
            self._refused(answer)

    def expect(self, found: int, asked: int) -> None:
        """Raise ``ServerError`` for an answer with another number of rows than were asked for."""
        if found != asked:
            raise ServerError(f"{self.url} answered {found} of {asked} lookups; {self.skew() or 'try again'}")

    @contextmanager
    def stream(
        self, path: str, *, query: _Query = None, headers: _Headers = None, accept: tuple[int, ...] = ()
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Yield the head of an answer and the parts of its body, which is whole or ends in ``ServerError``."""
        answer, response = self._asked("GET", path, query, None, headers, accept, stream=True)
        try:
            yield answer, self._parts(response)
        finally:
            response.close()

    def _parts(self, response: httpx.Response) -> Iterator[bytes]:
        if response.is_closed:  # one that was accepted, and read
            return
        try:
            yield from response.iter_bytes()
        except httpx.RequestError as error:
            raise ServerError(
                f"{self.url} broke off in the middle of an answer ({_why(error)}); try again"
            ) from error

    def _asked(
        self,
        method: str,
        path: str,
        query: _Query,
        body: bytes | Path | None,
        headers: _Headers,
        accept: tuple[int, ...] = (),
        *,
        stream: bool = False,
    ) -> tuple[Answer, httpx.Response]:
        if query := {name: _text(value) for name, value in (query or {}).items() if value is not None}:
            path += "?" + urlencode(query, quote_via=quote)
        began, tries = time.monotonic(), 0
        while True:
            try:
                with self._failures("does not answer ({}); is it running?"):
                    response = self._http.open(method, path, body, headers)
                if stream and response.is_success:
                    return Answer(response.status_code, response.headers), response
                with self._failures("broke off in the middle of an answer ({})"):
                    answer = self._http.whole(response)
                if not response.is_success and answer.status not in accept:
                    self._refused(answer)
                return answer, response
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

    @contextmanager
    def _failures(self, said: str) -> Iterator[None]:
        """Raise ``ServerError`` for an answer that takes too long, ``_Later`` for one that did not come."""
        try:
            yield
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise ServerError(
                f"{self.url} did not answer within {self._timeout_s:g} s; ask for less, or wait longer"
            ) from error
        except httpx.RequestError as error:
            problem = ServerError(f"{self.url} {said.format(_why(error))}")
            if "CERTIFICATE_VERIFY" in str(error):  # it will be no better a moment later
                raise problem from error
            raise _Later(problem) from error

    def _refused(self, answer: Answer) -> None:
        """Raise what an answer says that is no success."""
        problem = problem_of(answer.status, answer.body)
        error = problem.error(answer.origin, skew=self.skew() if problem.foreign else "")
        if answer.status in (401, 403) and answer.origin != self._http.origin:
            error = InputError(
                f"{error} - it was not sent to {answer.origin}, to which {self._http.origin} redirects"
            )
        if answer.status in _LATER:
            raise _Later(error, answer.retry_after_s)
        raise error

    def skew(self) -> str:
        """Return a phrase about the server's version where it is not this one; "" where it is, or says none."""
        if self._theirs is None:
            self._theirs = ""
            with suppress(Exception):
                self._theirs = skew(self.ask("GET", "/healthz").body)
        return self._theirs

    def close(self) -> None:
        """End the connections."""
        self._http.close()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _why(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
