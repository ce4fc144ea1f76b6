"""One connection to a server: TCP or TLS, directly or through a proxy, with an end to waiting for an answer.

The standard library's ``http.client``, because a machine that only asks a server need not install one: it keeps
connections alive and streams both ways. What it lacks is here: a time for a whole answer, not for each byte of it.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import unquote, urlsplit

from latency_model.errors import InputError

__all__ = ["CONNECT_S", "Connection", "Origin", "split_url"]

CONNECT_S = 10.0
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server is: a token that is for one origin is for no other."""

    scheme: str
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether it is this machine, so that nothing that is sent leaves it."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def netloc(self) -> str:
        """Host and port as they stand in a URL and in the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def split_url(url: str) -> tuple[Origin, str]:
    """Return the origin of a URL and what follows it; ``InputError`` for what is no URL of HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(
            f"not the URL of a server: {url!r} ({error}); write it like http://host:8765"
        ) from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InputError(f"not the URL of a server: {url!r}; write it like http://host:8765")
    if parts.username is not None or parts.password is not None:
        raise InputError("a server's URL holds no name and no password; put the token into GHARIAL_TOKEN")
    rest = parts.path + (f"?{parts.query}" if parts.query else "")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise InputError(f"not the URL of a server: {url!r}; it has characters that no URL has")
    return Origin(parts.scheme, parts.hostname, port or _PORTS[parts.scheme]), rest


class _Timed(io.RawIOBase):
    """What a socket sends, until ``connection.deadline``; ``TimeoutError`` after it."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        # The socket stays open for this reader when the connection is closed before the answer is read.
        self._sock, self._raw, self._connection = sock, sock.makefile("rb", buffering=0), connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._connection.wait_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        self._connection, self._sock = connection, sock

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Timed(self._sock, self._connection), 1 << 16)


class Connection:
    """One connection to ``origin`` that is used for one request after the other, by one thread at a time.

    ``silence_s`` is how long the server may be silent. ``deadline`` is when an answer must be whole, None for no limit.
    """

    def __init__(self, origin: Origin, *, silence_s: float) -> None:
        self.origin, self._silence_s = origin, silence_s
        self.deadline: float | None = None
        self.used = 0
        proxy = _proxy(origin)
        self._prefix, self._headers = "", dict[str, str]()
        kind = HTTPSConnection if origin.scheme == "https" else HTTPConnection
        if proxy is None:
            self._http = kind(origin.host, origin.port, timeout=CONNECT_S)
        else:
            through, authorization = proxy
            self._http = kind(through.host, through.port, timeout=CONNECT_S)
            if origin.scheme == "https":
                self._http.set_tunnel(origin.host, origin.port, headers=authorization)
            else:
                self._prefix, self._headers = str(origin), authorization
        self._http.response_class = self._answer  # type: ignore[assignment]

    def _answer(self, sock: socket.socket, *given: Any, **named: Any) -> HTTPResponse:
        return HTTPResponse(_TimedSocket(self, sock), *given, **named)  # type: ignore[arg-type]

    def wait_s(self) -> float:
        """Return how long the socket may wait now; ``TimeoutError`` when there is no time left."""
        if self.deadline is None:
            return self._silence_s
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(self._silence_s, left)

    def connect(self) -> None:
        """Open the connection unless it is; ``OSError`` where that fails."""
        if self._http.sock is None:
            self._http.connect()
            assert self._http.sock is not None
            self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> HTTPResponse:
        """Send a request and return the answer, of which the body is still to be read.

        A server that refuses a body half-way has answered: that answer is returned.
        """
        self.used += 1
        self._http.sock.settimeout(self.wait_s())
        try:
            self._http.request(method, self._prefix + target, body, {**headers, **self._headers})
        except (BrokenPipeError, ConnectionResetError):
            if body is None:
                raise
            return self._http.getresponse()
        return self._http.getresponse()

    def close(self) -> None:
        """End the connection."""
        self._http.close()


def _proxy(origin: Origin) -> tuple[Origin, dict[str, str]] | None:
    """Return the proxy that this user's settings have for ``origin``, and the header that opens it."""
    if origin.loopback:
        return None
    from urllib.request import getproxies, proxy_bypass

    url = getproxies().get(origin.scheme)
    if not url or proxy_bypass(origin.netloc):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise InputError(
            f"the proxy of {origin.scheme} is not one of http://; set {origin.scheme}_proxy, or no_proxy"
        )
    headers = {}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(secret).decode()
    return Origin("http", parts.hostname, parts.port or 80), headers
