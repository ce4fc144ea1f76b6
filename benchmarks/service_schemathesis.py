"""Generated requests to every path of the service, over a real connection: no server error, nothing undocumented.

    python benchmarks/service_schemathesis.py [--cases 2400]

Starts the service on an empty port with the shipped tables, once for a caller without a token and once for one with
every scope. Writes service_schemathesis.csv: for each path how many requests were sent, with which statuses, and what
broke the OpenAPI document.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import schemathesis
from common import commit, write_lines
from hypothesis import HealthCheck, Phase, given, seed, settings

from latency_model.service.api.lookup import ARROW
from latency_model.service.api.tables import PARQUET
from latency_model.service.store.database import open_database
from latency_model.service.store.tokens import create_token

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


def run(operation, headers, examples: int, number: int) -> tuple[Counter, list[str]]:
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
    @given(case=operation.as_strategy())
    def ask(case):
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
        database = open_database(f"sqlite:///{folder / 'rows.db'}")
        _, secret = create_token(database, "generated", ["admin"])
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        each = -(-given_.cases // (2 * len(operations)))
        for who, headers in (("nobody", {}), ("admin", {"Authorization": f"Bearer {secret}"})):
            for number, operation in enumerate(operations):
                statuses, broken = run(operation, headers, each, number)
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
