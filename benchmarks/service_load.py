"""How many requests the service answers, and how soon: a load generator on loopback, bounded in time.

    python benchmarks/service_prepare.py --work FOLDER
    python benchmarks/service_load.py --work FOLDER [--seconds 10] [--server-core 0] [--client-core 1]

Starts ``gharial serve`` on the database that ``service_prepare.py`` made and measures, each a line of
service_load.csv: the cold start with and without the cache; single lookups over keep-alive connections, as many as
go (closed loop) and at fixed rates (open loop: a latency counts from the moment at which the request was due);
bulk lookups as Arrow; estimates of ResNet-50. Client and server share the machine's cores.

The client is that of ``service_client.py``: libraries for people's use offer less than the server takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import numpy as np
import uvloop
from common import commit, write_lines
from service_client import closed_loop, open_loop, post

from latency_model.harvest import harvest_onnx
from latency_model.harvest.onnx_skeleton import skeleton_of
from latency_model.lookup import LookupTable
from latency_model.lookup.arrow import columns_to_arrow, result_from_arrow
from latency_model.network_json import network_to_json

OUT = Path(__file__).with_suffix(".csv")
COLUMNS = (
    "what",
    "requests",
    "seconds",
    "per_s",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "p999_ms",
    "worst_ms",
    "errors",
    "note",
)
CONNECTIONS = 16
LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pyarrow", "numpy")


def summary(
    what: str, times: list[float], errors: int, seconds: float, note: str = "", *, each: int = 1
) -> dict:
    ms = np.array(times or [np.nan]) * 1e3
    p = np.percentile(ms, [50, 95, 99, 99.9, 100])
    row = dict(
        zip(
            COLUMNS,
            (what, len(times), seconds, len(times) * each / seconds, *p.tolist(), errors, note),
            strict=True,
        )
    )
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return row


class Server:
    """``gharial serve`` as a process of its own."""

    def __init__(self, work: Path, port: int, core: int | None) -> None:
        self.port = port
        environment = {
            **os.environ,
            "GHARIAL_DATABASE_URL": f"sqlite:///{work / 'gharial.db'}",
            "GHARIAL_CACHE_DIR": str(work / "cache"),
            "GHARIAL_RATE_PER_S": "0",
            "OMP_NUM_THREADS": "1",
        }
        pin = [] if core is None else ["taskset", "-c", str(core)]
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [*pin, sys.executable, "-m", "gharial", "serve", "--port", str(port)],
            env=environment,
            stderr=(work / "server.log").open("ab"),
        )

    def first(self, request: bytes) -> tuple[float, int]:
        """Return seconds from the start to the first answer, and its status."""
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=60) as sock:
                    sock.sendall(request)
                    head = sock.recv(4096)
                return time.perf_counter() - self.started, int(head[9:12])
            except (ConnectionRefusedError, ConnectionResetError):
                if self.process.poll() is not None:
                    raise SystemExit("the server ended; see server.log") from None
                time.sleep(0.005)

    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> float:
        start = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.perf_counter() - start


def lookup_request(key: str, text: str) -> bytes:
    return (
        f"GET /v1/lookup?environment={key}&config={quote(text)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )


def ready(port: int, key: str) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while part := sock.recv(65536):
            data += part
    return bool(json.loads(data.split(b"\r\n\r\n", 1)[1])["environments"][key] == "ready")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--work", type=Path, required=True)
    asked.add_argument("--seconds", type=float, default=10.0)
    asked.add_argument("--port", type=int, default=18766)
    asked.add_argument("--server-core", type=int)
    asked.add_argument("--client-core", type=int)
    asked.add_argument("--estimates", type=int, default=60)
    asked.add_argument("--note", default="")
    asked.add_argument("--out", type=Path, default=OUT)
    given = asked.parse_args()
    if given.client_core is not None:
        os.sched_setaffinity(0, {given.client_core})
    key = (given.work / "environment.txt").read_text()
    model = (given.work / "resnet50.onnx").read_bytes()
    network = harvest_onnx(model)
    known = lookup_request(key, network.sites[0].shape.text)
    rows: list[dict] = []

    def note(
        what: str, times: list[float], errors: int, seconds: float, text: str = "", *, each: int = 1
    ) -> None:
        rows.append(summary(what, times, errors, seconds, text or given.note, each=each))

    shutil.rmtree(given.work / "cache", ignore_errors=True)
    server = Server(given.work, given.port, given.server_core)
    took, status = server.first(known)
    note("cold start to the first lookup, cache missing", [took], int(status != 200), took)
    while not ready(given.port, key):
        time.sleep(0.2)
    took = time.perf_counter() - server.started
    note("cold start to mapped lookups, cache missing", [took], 0, took)
    stopped = server.stop()
    starts = []
    for _ in range(3):
        server = Server(given.work, given.port, given.server_core)
        starts.append(server.first(known)[0])
        assert ready(given.port, key)
        if len(starts) < 3:
            stopped = server.stop()
    note(
        "cold start to the first lookup, 1 million rows mapped",
        starts,
        0,
        sum(starts),
        f"stops in {stopped:.2f} s",
    )

    mapped = LookupTable.load(next((given.work / "cache").glob(f"{key}-*.lookup")))
    columns = mapped.columns
    draw = np.random.default_rng(1)
    some = columns.take(draw.integers(0, len(columns), 20_000))
    requests = [lookup_request(key, shape.text) for shape in some]
    uvloop.run(closed_loop(given.port, requests, 2.0, CONNECTIONS))  # warm
    times, errors, seconds = uvloop.run(closed_loop(given.port, requests, given.seconds, CONNECTIONS))
    note(f"single lookups, closed loop, {CONNECTIONS} connections", times, errors, seconds)
    for rate in (3000, 4000):
        times, errors, seconds = uvloop.run(open_loop(given.port, requests, given.seconds, rate, CONNECTIONS))
        note(f"single lookups, {rate}/s offered, {CONNECTIONS} connections", times, errors, seconds)

    sock = socket.create_connection(("127.0.0.1", given.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for count, repeats in ((10_000, 50), (100_000, 20), (1_000_000, 5)):
        asked_for = columns.take(draw.integers(0, len(columns), count))
        body = columns_to_arrow(asked_for)
        path = f"/v1/lookup/arrow?environment={key}"
        times, errors = [], 0
        for _ in range(repeats):
            status, answer, took = post(sock, path, body, "application/vnd.apache.arrow.stream")
            times.append(took)
            errors += status != 200
        result = result_from_arrow(answer)
        expected = mapped.lookup(asked_for)
        errors += not (np.array_equal(result.latency_us, expected.latency_us) and result.found.all())
        note(f"lookups as Arrow, {count} a request", times, errors, sum(times), each=count)

    began, path = time.perf_counter(), f"/v1/estimate?environment={key}"
    while post(sock, path, skeleton_of([model]), "application/octet-stream")[0] == 503:
        time.sleep(0.5)
    took = time.perf_counter() - began
    note("model of a million rows, fitted at the first estimate", [took], 0, took)

    skeleton = skeleton_of([model])
    harvested = json.dumps(network_to_json(network)).encode()
    for what, path, body, kind in (
        (
            f"estimate of ResNet-50, ONNX of {len(model) >> 20} MiB",
            "/v1/estimate",
            model,
            "application/octet-stream",
        ),
        (
            f"estimate of ResNet-50, skeleton of {len(skeleton) >> 10} KiB",
            "/v1/estimate",
            skeleton,
            "application/octet-stream",
        ),
        (
            "estimate of ResNet-50, harvested by the client",
            "/v1/estimate/network",
            harvested,
            "application/json",
        ),
    ):
        for fresh in (False, True):
            times, errors = [], 0
            for place in range(given.estimates + 1):
                # Another confidence is another estimate of a network that was read before.
                confidence = (
                    0.5 + place * 1e-4 + (1e-5 if path.endswith("network") else 0.0) if fresh else 0.9
                )
                extra = f"?environment={key}&confidence={confidence!r}&name={len(body)}"
                status, answer, took = post(sock, path + extra, body, kind)
                if place:
                    times.append(took)
                errors += status != 200
                if place == 0 and not fresh:
                    note(f"{what}, first", [took], int(status != 200), took)
            assert json.loads(answer)["latency_us"] > 0
            state = "network known, estimated anew" if fresh else "asked before"
            note(f"{what}, {state}", times, errors, sum(times))
    sock.close()
    note("memory of the server, MB", [server.memory_mb() / 1e3], 0, 1.0, "the numbers are megabytes")
    server.stop()

    about = {
        "commit": commit(short=False),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "cores": os.cpu_count(),
    }
    write_lines(given.out, rows, fields=COLUMNS, head=f"# {json.dumps(about)}\n", end="\r\n")


if __name__ == "__main__":
    main()
