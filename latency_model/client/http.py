"""One request to one server, by httpx: where a token and a body may go, and how long an answer may take."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from latency_model.client.token import checked_token
from latency_model.client.version import version
from latency_model.errors import InputError, ServerError

__all__ = ["Answer", "Http"]

_CONNECT_S = 10.0
_REDIRECTS = 5
_MOST_BYTES = 1 << 30
_PART = 1 << 18
_DEADLINE = "gharial.deadline"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: status, headers, whatever the case of their names, body, and the ``origin`` it came from."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    origin: str = ""

    @property
    def retry_after_s(self) -> float | None:
        """The seconds that it asks to wait, None where it says none that can be read."""
        text = self.headers.get("retry-after")
        if text is None:
            return None
        with suppress(ValueError):
            return max(0.0, min(1e9, float(text)))
        with suppress(ValueError, TypeError, OverflowError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        return None


class Http:
    """Sends requests to the server at ``url``; threads may share one.

    The token goes to the origin of ``url`` alone. Redirects are followed, but not from https to http, and to another
    origin only what is a GET. ``timeout_s`` is for a whole answer, and for every silence: a head that comes a byte at
    a time is given up when it is there. Methods raise ``httpx.RequestError`` where no whole answer comes, and
    ``ServerError`` for a redirect that is not followed or an answer of more than 1 GiB.
    """

    def __init__(self, url: str, *, token: str | None, timeout_s: float, plain_token: bool) -> None:
        address = _address(url)
        self.url, self.origin = str(address).rstrip("/"), _origin(address)
        local = _is_loopback(address.host)
        private = local or plain_token or address.scheme == "https"
        sent = checked_token(token, self.origin, private=private)
        self._authorization = {"Authorization": f"Bearer {sent}"} if sent else {}
        self._timeout_s = timeout_s
        try:
            self._client = httpx.Client(
                headers={"User-Agent": f"gharial/{version()}", "Accept-Encoding": "identity"},
                timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
                # What is for this machine, which may be a token, goes through no proxy.
                mounts={self.origin: None} if local else None,
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise InputError(
                f"the proxy for {self.origin} cannot be used ({error}); set {address.scheme}_proxy, or no_proxy"
            ) from error

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return a whole answer, whatever its status."""
        return self.whole(self.open(method, target, body, headers))

    def open(
        self,
        method: str,
        target: str,
        body: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return an answer, from where redirects lead, of which the body is still to be read."""
        given = {**(headers or {}), **self._authorization}
        if isinstance(body, Path):
            given["Content-Length"] = str(body.stat().st_size)
        request = self._client.build_request(
            method,
            self.url + target,
            content=_File(body) if isinstance(body, Path) else body,
            headers=given,
            extensions={_DEADLINE: time.monotonic() + self._timeout_s},
        )
        for _ in range(_REDIRECTS + 1):
            response = self._client.send(request, stream=True)
            if response.next_request is None:
                return response
            response.close()
            request = self._redirected(response.request, response.next_request)
        raise ServerError(
            f"{self.url} redirects more than {_REDIRECTS} times; give the address where it leads"
        )

    def whole(self, response: httpx.Response) -> Answer:
        """Return an answer with its body, read in what is left of its time."""
        found, origin = bytearray(), _origin(response.url)
        with closing(response):
            for part in response.iter_bytes():
                found += part
                if len(found) > _MOST_BYTES:
                    raise ServerError(
                        f"{origin} sends more than {_MOST_BYTES} bytes; is it a Gharial server?"
                    )
                if time.monotonic() > response.request.extensions[_DEADLINE]:
                    raise httpx.ReadTimeout("timed out", request=response.request)
        return Answer(response.status_code, response.headers, bytes(found), origin)

    def _redirected(self, old: httpx.Request, new: httpx.Request) -> httpx.Request:
        """Return what httpx makes of a redirect, with the token only if it is for this server."""
        here, there = _origin(old.url), _origin(new.url)
        if not _is_server(new.url) or new.url.userinfo:
            raise ServerError(f"{here} redirects to {str(new.url)[:200]!r}, which is no server")
        if old.url.scheme == "https" and new.url.scheme != "https":
            raise ServerError(f"{here} redirects to {there}, which is not encrypted; give the right --server")
        if old.method != "GET" and (new.method != old.method or there != self.origin):
            raise ServerError(f"{here} redirects to {there}; give that address, if it is the one you mean")
        new.headers.pop("Authorization", None)
        new.headers.update(self._authorization if there == self.origin else {})
        return new

    def close(self) -> None:
        """End the connections."""
        self._client.close()


@dataclass(frozen=True, slots=True)
class _File:
    """The parts of a file, from its start each time that they are sent."""

    path: Path

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from iter(lambda: file.read(_PART), b"")


def _address(text: str) -> httpx.URL:
    """Return the URL of a server without its query; ``InputError`` for what is none."""
    wanted = f"not the URL of a server: {text!r}; write it like http://host:8765"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InputError(f"{wanted} ({error})") from error
    if url.userinfo:
        raise InputError("a server's URL holds no name and no password; put the token into GHARIAL_TOKEN")
    if not _is_server(url) or " " in text:
        raise InputError(wanted)
    return url.copy_with(query=None, fragment=None)


def _is_server(url: httpx.URL) -> bool:
    return url.scheme in _PORTS and bool(url.host) and (url.port or 0) < 1 << 16


def _origin(url: httpx.URL) -> str:
    """Return the scheme, host and port of a URL: a token that is for one origin is for no other."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" + ("" if url.port in (None, _PORTS.get(url.scheme)) else f":{url.port}")


def _is_loopback(host: str) -> bool:
    """Whether it is this machine, so that nothing that is sent leaves it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
