"""Generated requests to every path of the service, over a real connection: no server error, nothing undocumented.

    python benchmarks/service_schemathesis.py [--cases 2400]

Starts the service on an empty port with the shipped tables, once for a caller without a token and once for one with
every scope. What is generated meets nothing that exists, so in two requests of three the environments, configurations,
jobs, leases, offers and files in it are real ones, the files with some bytes changed. Writes
service_schemathesis.csv: for each path how many requests were sent, with which statuses, and what broke the OpenAPI
document.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import httpx
import schemathesis
from common import commit, write_lines
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from latency_model.columns import ConvColumns
from latency_model.harvest import harvest
from latency_model.lookup.arrow import columns_to_arrow
from latency_model.network_json import network_to_json
from latency_model.service.api.lookup import ARROW
from latency_model.service.api.tables import PARQUET
from latency_model.service.store.database import open_database
from latency_model.service.store.tokens import create_token
from latency_model.shapes import ConvShape
from latency_model.shipped import find_table
from latency_model.table import LatencyTable
from latency_model.zoo import load_model
from profiler.onnx_export import export_onnx

TABLE = "amd-epyc-f26m2-onnxruntime1.32-cpu-1thread"
OUT = Path(__file__).with_suffix(".csv")
CHECKS = (
    "not_a_server_error",
    "response_schema_conformance",
    "status_code_conformance",
    "content_type_conformance",
)


@schemathesis.serializer(ARROW, PARQUET)
def as_it_is(_, value):
    return value if isinstance(value, bytes) else str(value).encode()


def start(folder: Path) -> tuple[subprocess.Popen, int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    environment = {
        **os.environ,
        "GHARIAL_DATABASE_URL": f"sqlite:///{folder / 'rows.db'}",
        "GHARIAL_CACHE_DIR": str(folder / "cache"),
        "GHARIAL_RATE_PER_S": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gharial", "serve", "--port", str(port)],
        env=environment,
        stderr=(folder / "server.log").open("wb"),
    )
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise SystemExit((folder / "server.log").read_text())


def real_ones(port: int, secret: str) -> dict[str, list]:
    """Return values that exist, by the names of the parameters and fields that hold such; jobs are made for it."""
    net = load_model("resnet20", seed=0)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer(secret), timeout=60) as client:
        keys = [found["key"] for found in client.get("/v1/environments").raise_for_status().json()]
        rows = (
            client.get(f"/v1/environments/{keys[0]}/rows", params={"format": "json"})
            .raise_for_status()
            .json()
        )
        configs = [row["config"] for row in rows["rows"][:50]]
        jobs = []
        for number in range(12):
            wanted = ConvShape(1, 5 + number, 9, 9, 7).text
            answer = client.post("/v1/jobs", json={"configs": [wanted]}).raise_for_status()
            jobs.append(answer.json()["id"])
        environment = LatencyTable.load(find_table(TABLE)).environment.to_json()
        offer = {"environment": environment, "precisions": ["fp32"], "times_ops": True}
        leases = []
        for number in range(4):
            answer = client.post("/v1/leases", json={"worker": f"w{number}", "offer": offer})
            leases.append(answer.raise_for_status().json()["lease"])
    return {
        "key": keys,
        "environment": keys,
        "config": configs,
        "configs": configs,
        "job": jobs,
        "lease": leases,
        "offer": [offer],
        PARQUET: [find_table(TABLE).read_bytes()],
        ARROW: [columns_to_arrow(ConvColumns.of([ConvShape(1, 16, 32, 32, 16)] * 3))],
        "application/octet-stream": [export_onnx(net.module, net.input_shape, batch=1)],
        "POST /v1/estimate/network": [network_to_json(harvest(net, batch=1))],
    }


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def with_real(value, real: dict[str, list], chance: random.Random, name: str = ""):
    """Return ``value`` with what has one of the names of ``real`` replaced, two times of three."""
    if name in real and isinstance(value, str | bytes | dict) and chance.random() < 2 / 3:
        found = chance.choice(real[name])
        return changed(found, chance) if isinstance(found, bytes) else found
    if isinstance(value, dict):
        return {key: with_real(part, real, chance, key) for key, part in value.items()}
    if isinstance(value, list):
        return [with_real(part, real, chance, name) for part in value]
    return value


def changed(file: bytes, chance: random.Random) -> bytes:
    """Return ``file`` with up to three bytes replaced, or its end missing."""
    bad = bytearray(file)
    for _ in range(chance.randrange(4)):
        bad[chance.randrange(len(bad))] = chance.randrange(256)
    return bytes(bad[: chance.choice([len(bad), len(bad), chance.randrange(len(bad))])])


def run(operation, headers, real, examples: int, number: int) -> tuple[Counter, list[str]]:
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    statuses, broken = Counter(), []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @seed(number)
    @given(case=operation.as_strategy(), chance=st.randoms(use_true_random=False))
    def ask(case, chance):
        for part in ("path_parameters", "query", "body"):
            whole = operation.label if operation.label in real else str(case.media_type)
            name = whole if part == "body" else ""
            setattr(case, part, with_real(getattr(case, part), real, chance, name))
        answer = case.call(headers=headers, timeout=60)
        statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=checks, headers=headers)
        except Exception as error:
            broken.append(f"{answer.status_code}: {error}".replace("\n", " ")[:400])

    try:
        ask()
    except Exception as error:
        broken.append(f"{type(error).__name__}: {error}"[:400])
    return statuses, broken


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--cases", type=int, default=2400)
    asked.add_argument("--out", type=Path, default=OUT)
    given_ = asked.parse_args()
    rows, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, port = start(folder)
        atexit.register(process.kill)
        database = open_database(f"sqlite:///{folder / 'rows.db'}")
        _, secret = create_token(database, "generated", ["admin"])
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        real = real_ones(port, secret)
        each = -(-given_.cases // (2 * len(operations)))
        for who, headers in (("nobody", {}), ("admin", bearer(secret))):
            for number, operation in enumerate(operations):
                statuses, broken = run(operation, headers, real, each, number)
                rows.append(
                    {
                        "who": who,
                        "operation": operation.label,
                        "cases": sum(statuses.values()),
                        "server_errors": sum(
                            count for status, count in statuses.items() if status >= 500 and status != 503
                        ),
                        "broken": len(broken),
                        "statuses": json.dumps(dict(sorted(statuses.items()))),
                        "first": broken[0] if broken else "",
                    }
                )
                print(rows[-1], flush=True)
        alive = process.poll() is None
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        log = (folder / "server.log").read_text()
        database.close()
    total = {key: sum(row[key] for row in rows) for key in ("cases", "server_errors", "broken")}
    about = {
        **total,
        "alive": alive,
        "exit_code": code,
        "traces": log.count('"trace"'),
        "seconds": round(time.perf_counter() - began, 1),
        "schemathesis": version("schemathesis"),
        "commit": commit(short=False),
    }
    print(about)
    write_lines(given_.out, rows, head=f"# {json.dumps(about)}\n", end="\r\n")


if __name__ == "__main__":
    main()
