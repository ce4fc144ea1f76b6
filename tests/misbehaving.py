"""A TCP server that answers what a test tells it to, byte by byte: what no web framework would send."""

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field

from latency_model import Client, errors

CONFIG = "1x16x8x8 ->16 k3 s1 p1 g1 conv fp32 nchw"
KEY = "0123456789ab"
FOUND = {"config": CONFIG, "latency_us": 0.1 + 0.2, "low_us": 0.25, "high_us": 1.0, "found": True}


def answer(body=b"{}", *, status="200 OK", length=None, headers=()):
    """Return the bytes of an answer; ``length`` is what its head claims, by default the truth."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if length != "none":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def problem(status, kind, message="said so", *, headers=()):
    return answer(
        {"error": {"type": kind, "message": message, "request_id": "r-1"}},
        status=f"{status} X",
        headers=headers,
    )


CLOSE = object()
"""Instead of bytes: end the connection."""


@dataclass
class Misbehaving:
    """``script`` says what to do with each request in turn: bytes, CLOSE, or a function of the socket."""

    script: list
    requests: list = field(default_factory=list)
    connections: int = 0

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open, self._lock = [], threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @property
    def port(self):
        return self._listener.getsockname()[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError):
            while (request := self._request(connection)) is not None:
                with self._lock:
                    self.requests.append(request)
                    action = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if action is CLOSE:
                    break
                if callable(action):
                    action(connection)
                    break
                connection.sendall(action)
                if b"connection: close" in action.lower() or b"content-length" not in action.lower():
                    break
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _request(self, connection):
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        method, target, _ = first.split(" ")
        return Request(method, target, headers, body)


@dataclass
class Request:
    method: str
    target: str
    headers: dict
    body: bytes


def asked(*script, **given):
    """Look one configuration up at a server with this script; return the row or the error, and the server."""
    with Misbehaving(list(script)) as server, Client(server.url, **{"timeout_s": 5.0, **given}) as client:
        try:
            return client.lookup(CONFIG, KEY), server
        except errors.GharialError as error:
            return error, server
