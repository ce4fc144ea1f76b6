"""Damaged ONNX models, oversized bodies, bad tokens and slow clients against a running service.

    python benchmarks/service_hostile.py --model NET.onnx [--mutants 600] [--seed 0]

Starts the service, private, on the shipped tables. Writes service_hostile.csv, a line for each kind of attack: how
many, which statuses came back, the slowest answer, and the largest memory of the server and of its readers. A kind
fails when the server dies, answers 500, or hangs.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import onnx
from common import commit, write_lines
from service_schemathesis import start

from latency_model.harvest.onnx_skeleton import skeleton_of, varint
from latency_model.service.store.database import open_database
from latency_model.service.store.tokens import create_token

OUT = Path(__file__).with_suffix(".csv")


def mutant(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    at = draw.randrange(len(found))
    match draw.randrange(7):
        case 0:
            for _ in range(draw.choice((1, 3, 30, 300))):
                found[draw.randrange(len(found))] = draw.randrange(256)
        case 1:
            del found[at:]
        case 2:
            del found[at : at + draw.randrange(1, 2000)]
        case 3:
            to = draw.randrange(len(found))
            found[at:at] = found[to : to + draw.randrange(1, 3000)]
        case 4:
            found[at : at + 1] = varint(draw.choice((2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1, 0)))
        case 5:
            found[draw.randrange(min(4000, len(found)))] ^= 1 << draw.randrange(8)
        case _:
            found[at:at] = draw.randbytes(draw.randrange(1, 500))
    return bytes(found)


def crafted(data: bytes, draw: random.Random) -> bytes:
    """Return a model that parses and says something impossible."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    node = graph.node[draw.randrange(len(graph.node))]
    match draw.randrange(8):
        case 0:
            tensor = graph.initializer[draw.randrange(len(graph.initializer))]
            del tensor.dims[:]
            tensor.dims.extend(
                draw.choice(([2**62, 2**62], [-1, 3, 3, 3], [0, 0, 0, 0], [2**31 - 1] * 4, []))
            )
        case 1:
            for size in graph.input[0].type.tensor_type.shape.dim:
                size.dim_value = draw.choice((0, -5, 2**40, 2**62, 1))
        case 2:
            for attribute in node.attribute:
                if attribute.ints:
                    attribute.ints[0] = draw.choice((0, -1, 2**31, 2**62))
        case 3:
            node.output[0] = graph.node[0].input[0]
        case 4:
            del node.input[:]
        case 5:
            node.op_type = draw.choice(("Loop", "If", "Scan", "Conv", "Constant", "x" * 10_000, ""))
        case 6:
            graph.node.extend([node] * draw.choice((1, 100, 5000)))
        case _:
            graph.initializer[0].data_type = draw.choice((0, 7, 8, 99))
    return model.SerializeToString()


def bombs() -> dict[str, bytes]:
    empty_nodes = b"\x0a\x00" * 15_000_000
    deep = b"\x52\x00"
    for _ in range(3000):
        attribute = b"\x32" + varint(len(deep)) + deep
        node = b"\x2a" + varint(len(attribute)) + attribute
        deep = b"\x0a" + varint(len(node)) + node
    value = b"\x0a\x00"
    for _ in range(20_000):
        inner = b"\x0a" + varint(len(value)) + value
        value = b"\x22" + varint(len(inner)) + inner
    info = b"\x0a\x01x\x12" + varint(len(value)) + value
    deep_type = b"\x5a" + varint(len(info)) + info
    return {
        "15 million empty nodes": b"\x3a" + varint(len(empty_nodes)) + empty_nodes,
        "3000 graphs deep": b"\x3a" + varint(len(deep)) + deep,
        "20000 types deep": b"\x3a" + varint(len(deep_type)) + deep_type,
        "a length of 2^63": b"\x3a" + varint(2**63 - 1),
        "a megabyte of groups": b"\x0b" * 1_000_000,
        "30 MB of names": b"\x3a" + varint(30_000_006) + b"\x12" + varint(30_000_001) + b"n" * 30_000_001,
        "numbers without end": b"\xff" * 1_000_000,
    }


class Memory:
    """The largest resident memory of a process and of all below it, in MB."""

    def __init__(self, pid: int) -> None:
        self.pid, self.server, self.readers = pid, 0.0, 0.0

    def look(self) -> None:
        self.server = max(self.server, self._peak(self.pid))
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for child in listed:
            self.readers = max(self.readers, self._peak(int(child)))

    @staticmethod
    def _peak(pid: int) -> float:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
            return int(text.split("VmHWM:")[1].split()[0]) / 1e3
        except (OSError, IndexError):
            return 0.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--model", type=Path, required=True)
    asked.add_argument("--mutants", type=int, default=600)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=OUT)
    given = asked.parse_args()
    os.environ |= {"GHARIAL_PUBLIC_READS": "false", "GHARIAL_HEADER_TIMEOUT_S": "2", "GHARIAL_REQUEST_TIMEOUT_S": "30",
                   "GHARIAL_HARVEST_MEMORY_BYTES": str(2 << 30)}  # fmt: skip
    rows: list[dict] = []
    draw = random.Random(given.seed)
    data = given.model.read_bytes()
    skeleton = skeleton_of([data])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, port = start(folder)
        atexit.register(process.kill)
        memory = Memory(process.pid)
        database = open_database(f"sqlite:///{folder / 'rows.db'}")
        _, secret = create_token(database, "hostile", ["read"])
        database.close()
        good = {"Authorization": f"Bearer {secret}"}
        host = f"Host: x\r\nAuthorization: Bearer {secret}\r\n"
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        key = client.get("/v1/environments", headers=good).json()[0]["key"]

        def attack(what: str, count: int, send) -> None:
            statuses, slowest = Counter(), 0.0
            for number in range(count):
                began = time.perf_counter()
                try:
                    statuses[str(send(number))] += 1
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                slowest = max(slowest, time.perf_counter() - began)
                if number % 20 == 0:
                    memory.look()
            memory.look()
            alive = process.poll() is None and client.get("/healthz").status_code == 200
            rows.append(
                {
                    "what": what,
                    "count": count,
                    "statuses": json.dumps(dict(sorted(statuses.items()))),
                    "slowest_s": round(slowest, 3),
                    "server_errors": sum(
                        n for status, n in statuses.items() if status.startswith("5") and status != "503"
                    ),
                    "alive": alive,
                    "server_mb": round(memory.server),
                    "reader_mb": round(memory.readers),
                }
            )
            print(rows[-1], flush=True)

        def estimate(body: bytes) -> int:
            path = f"/v1/estimate?environment={key}"
            return client.post(path, content=body, headers=good).status_code

        attack("damaged bytes, whole file", given.mutants // 6, lambda _: estimate(mutant(data, draw)))
        attack("damaged bytes, skeleton", given.mutants // 2, lambda _: estimate(mutant(skeleton, draw)))
        attack("impossible models", given.mutants // 3, lambda _: estimate(crafted(skeleton, draw)))
        for what, body in bombs().items():
            attack(f"bomb: {what}", 3, lambda _, body=body: estimate(body))

        def reads(headers: dict[str, str]) -> int:
            """Return the best status of every path that reads."""
            found = []
            for path in ("/v1/environments", f"/v1/environments/{key}", f"/v1/environments/{key}/rows",
                         f"/v1/environments/{key}/table", f"/v1/environments/{key}/fit", "/metrics",
                         f"/v1/lookup?environment={key}&config=x",
                         f"/v1/staircase?environment={key}&config=x"):  # fmt: skip
                answer = client.get(path, headers=headers)
                assert key not in answer.text, path
                found.append(answer.status_code)
            return min(found)

        tokens = ["", "Bearer", "Bearer ", f"Bearer {secret}x", f"Bearer {secret[:-1]}", f"Basic {secret}",
                  "Bearer " + "g" * 20_000,
                  "Bearer \xff\xfe", f"bearer  {secret[4:]}", "Bearer ghl_' OR 1=1 --"]  # fmt: skip
        attack(
            "bad tokens, 8 paths each",
            100,
            lambda n: reads({"Authorization": tokens[n % len(tokens)].encode("latin-1")}),
        )

        def oversized(number: int) -> str:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                head = f"POST /v1/lookup HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
                try:
                    if number % 2:
                        sock.sendall((head + f"Content-Length: {10**12}\r\n\r\n").encode())
                    else:
                        sock.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
                        for _ in range(200):
                            sock.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                except OSError:
                    pass
                try:
                    return sock.recv(4096)[9:12].decode() or "closed"
                except OSError:
                    return "closed"

        attack("bodies too large, half of them chunked", 20, oversized)

        def slow(number: int) -> str:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                try:
                    if number % 3 == 0:
                        for _ in range(200):
                            sock.sendall(b"G")
                            time.sleep(0.1)
                    elif number % 3 == 1:
                        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
                        for _ in range(200):
                            sock.sendall(b"X-A: b\r\n")
                            time.sleep(0.1)
                    else:
                        sock.sendall(f"POST /v1/estimate?environment={key} HTTP/1.1\r\n{host}"
                                     "Content-Length: 100000\r\n\r\n".encode())  # fmt: skip
                        for _ in range(400):
                            sock.sendall(b"x")
                            time.sleep(0.1)
                    return sock.recv(4096)[9:12].decode() or "closed"
                except OSError:
                    return "closed"

        attack("slow clients", 6, slow)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        traces = (folder / "server.log").read_text().count('"trace"')
    about = {
        "commit": commit(short=False),
        "exit_code": code,
        "traces": traces,
        "seed": given.seed,
        "python": sys.version.split()[0],
    }
    print(about)
    write_lines(given.out, rows, head=f"# {json.dumps(about)}\n", end="\r\n")


if __name__ == "__main__":
    main()
