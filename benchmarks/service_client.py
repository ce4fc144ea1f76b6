"""A client that is faster than the service: a plain protocol of asyncio on kept connections to this machine.

``closed_loop`` sends as many requests as are answered, ``open_loop`` a fixed number a second; ``post`` sends one and
returns its answer. Answers must say their length, as those of the service do.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import cast

__all__ = ["closed_loop", "open_loop", "post"]

# What is to be sent next, and since when its latency counts; none for now.
Following = Callable[[], tuple[bytes, float] | None]


class Connection(asyncio.Protocol):
    """One keep-alive connection: sends prepared requests, one at a time, and notes how long answers took."""

    transport: asyncio.Transport

    def __init__(self, following: Following, done: Callable[[float, int], None]) -> None:
        self.following, self.done = following, done
        self.due = 0.0
        self.left = -1
        self.head = b""
        self.status = 0
        self.idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all methods of a transport and are no subclass of it.
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        found = self.following()
        if found is None:
            self.idle = True
            return
        self.idle = False
        request, self.due = found
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.left < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            self.status = int(self.head[9:12])
            at = self.head.find(b"content-length: ") + 16
            self.left = int(self.head[at : self.head.find(b"\r", at)])
            data = self.head[end + 4 :]
            self.head = b""
        self.left -= len(data)
        if self.left == 0:
            self.left = -1
            self.done(time.perf_counter() - self.due, self.status)
            self.ask()


class Connections:
    """Several connections that take their requests from one place: ``async with`` opens and closes them."""

    def __init__(self, port: int, count: int, following: Following) -> None:
        self.port, self.count, self.following = port, count, following
        self.opened: list[Connection] = []
        self.times: list[float] = []
        self.errors = 0

    async def __aenter__(self) -> Connections:
        loop = asyncio.get_running_loop()
        for _ in range(self.count):
            made = await loop.create_connection(
                lambda: Connection(self.following, self.done), "127.0.0.1", self.port
            )
            self.opened.append(made[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self.opened:
            connection.transport.close()

    def done(self, took: float, status: int) -> None:
        self.times.append(took)
        self.errors += status != 200


async def closed_loop(
    port: int, requests: list[bytes], seconds: float, connections: int
) -> tuple[list[float], int, float]:
    """Send as many as are answered; return the latencies in seconds, the errors, and the seconds of all."""
    stop = time.perf_counter() + seconds
    place = 0

    def following() -> tuple[bytes, float] | None:
        nonlocal place
        now = time.perf_counter()
        if now > stop:
            return None
        place = (place + 1) % len(requests)
        return requests[place], now

    async with Connections(port, connections, following) as clients:
        start = time.perf_counter()
        for connection in clients.opened:
            connection.ask()
        while not all(connection.idle for connection in clients.opened):
            await asyncio.sleep(0.01)
        return clients.times, clients.errors, time.perf_counter() - start


async def open_loop(
    port: int, requests: list[bytes], seconds: float, rate: float, connections: int
) -> tuple[list[float], int, float]:
    """Send ``rate`` a second, whether or not answers came; who waits for a connection waits on the clock.

    Returns as ``closed_loop`` does; what has no answer ten seconds after the last was sent is an error.
    """
    waiting: deque[tuple[bytes, float]] = deque()
    total, sent = int(rate * seconds), 0
    async with Connections(port, connections, lambda: waiting.popleft() if waiting else None) as clients:
        start = time.perf_counter()
        while sent < total:
            due = min(total, int((time.perf_counter() - start) * rate) + 1)
            while sent < due:
                waiting.append((requests[sent % len(requests)], start + sent / rate))
                sent += 1
            for connection in clients.opened:
                if not waiting:
                    break
                if connection.idle:
                    connection.ask()
            await asyncio.sleep(0.0005)
        limit = time.perf_counter() + 10
        while len(clients.times) < total and time.perf_counter() < limit:
            await asyncio.sleep(0.01)
        took, times = time.perf_counter() - start, clients.times
        return times, clients.errors + total - len(times), took


def post(sock: socket.socket, path: str, body: bytes, kind: str) -> tuple[int, bytes, float]:
    """Send one request on a kept connection; return status, body, seconds."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    start = time.perf_counter()
    sock.sendall(head.encode())
    sock.sendall(body)
    found = bytearray()
    while (end := found.find(b"\r\n\r\n")) < 0:
        found += sock.recv(1 << 18)
    at = found.find(b"content-length: ") + 16
    size = int(found[at : found.find(b"\r", at)])
    answer = bytearray(found[end + 4 :])
    while len(answer) < size:
        answer += sock.recv(1 << 20)
    return int(found[9:12]), bytes(answer), time.perf_counter() - start
