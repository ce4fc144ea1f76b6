"""A million rows into the service's database and out of it, SQLite and PostgreSQL: rows per second and memory.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/store.py

Makes a table of 1,000,000 convolutions (seed 0) in the order in which tables are saved, and does with it, each in a
fresh process: import the file into an empty database, import it again (all identical), import a later measurement of
every row, read the texts and latencies alone, stream every row, save the table as a file, back up and restore. Times
are by the clock; processor time is that of the process alone, which for PostgreSQL leaves out the server, and
`peak_mib` its greatest resident memory, of which `start_mib` were there before the work began. The server runs on the
same core, with fsync off, in a temporary folder. Writes store.json beside this file. Linux only.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from common import commit

HERE = Path(__file__).resolve().parent
STEPS = ("import", "identical", "replaced", "latencies", "stream", "save_table", "backup", "restore")


def make(path: Path, rows: int, when: str) -> None:
    """Write a table of ``rows`` convolutions to ``path``."""
    import pyarrow as pa

    from latency_model.environment import Environment
    from latency_model.measurement import Measurement
    from latency_model.shapes import ConvShape
    from latency_model.table import LatencyTable
    from latency_model.table_file import write_columns

    rng = random.Random(f"0 {when}")
    environment = Environment("NVIDIA H100", "cuda", "tensorrt", "10.3", options=(("precision", "fp16"),))
    counts = range(8, 8 * 101, 8)

    def parts() -> Iterator[pa.Table]:
        found: dict[ConvShape, Measurement] = {}
        places = product((1, 8), counts, (7, 14, 28, 56, 112, 224), counts, (1, 3, 5, 7), (1, 2))
        for number, (batch, inputs, size, outputs, k, s) in enumerate(places):
            if number == rows:
                break
            shape = ConvShape(batch, inputs, size, size, outputs, (k, k), (s, s), (k // 2,) * 4)
            us = rng.lognormvariate(4, 1)
            low, high = us * 0.99, us * (1 + rng.random() / 50)
            found[shape] = Measurement(
                *(us, low, high, us * 0.9, us * 0.97, us * 1.03, us * 1.1, us * 0.89, 50, "kernel-trace"),
                kernels=((f"sm90_xmma_fprop_tilesize{inputs % 5}x128", 0.9), ("bias_relu", 0.1)),
                sm_clock_mhz=1980.0,
                temperature_c=44.0,
                power_w=310.5,
                run_id="7f3c2a",
                measured_at=when,
            )
            if len(found) == 20_000:
                yield LatencyTable(environment, found).to_columns()
                found = {}
        if found:
            yield LatencyTable(environment, found).to_columns()

    write_columns(path, environment, parts())


def step(name: str, url: str, folder: Path) -> dict[str, Any]:
    """Do one step in this process and return what it took."""
    from latency_model.service.store import rows
    from latency_model.service.store.backup import backup, restore
    from latency_model.service.store.database import open_database

    database = open_database(url)
    database.migrate()
    key = next((info.key for info in rows.environments(database)), "")
    start_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu = time.perf_counter(), time.process_time()
    match name:
        case "import" | "identical":
            report = rows.put_file(database, folder / "first.parquet")
            assert (report.new if name == "import" else report.identical) > 0
        case "replaced":
            assert rows.put_file(database, folder / "later.parquet").replaced
        case "latencies":
            with rows.latencies(database, key) as (_, parts):
                assert sum(len(part.configs) for part in parts)
        case "stream":
            assert sum(1 for _ in rows.stream(database, key))
        case "save_table":
            rows.save_table(database, key, folder / "saved.parquet")
        case "backup":
            backup(database, folder / f"{database.engine.dialect.name}.zip")
        case "restore":
            restore(folder / f"{database.engine.dialect.name}.zip", database)
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"s": wall, "cpu_s": used, "start_mib": round(start_mib), "peak_mib": round(peak)}


def main() -> None:
    """Run every step on both databases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=HERE / "store.json")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
    if given.step:
        name, url, folder = given.step
        print(json.dumps(step(name, url, Path(folder))))
        return
    import alembic
    import postgres
    import sqlalchemy

    folder = Path(tempfile.mkdtemp(prefix="gharial-store-"))
    results: dict[str, Any] = {
        "commit": commit(short=False),
        "rows": given.rows,
        "python": platform.python_version(),
        "sqlalchemy": sqlalchemy.__version__,
        "alembic": alembic.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    try:
        make(folder / "first.parquet", given.rows, "2026-01-01T00:00:00")
        if "replaced" in given.steps:
            make(folder / "later.parquet", given.rows, "2026-02-01T00:00:00")
        results["file_mib"] = round((folder / "first.parquet").stat().st_size / 2**20, 1)
        if "sqlite" in given.databases:
            names = iter(("first", "second"))
            results["sqlite"] = run(given, folder, lambda: f"sqlite:///{folder}/{next(names)}.db")
            results["sqlite"]["database_mib"] = round((folder / "first.db").stat().st_size / 2**20, 1)
        if "postgresql" in given.databases:
            with postgres.server() as new:
                results["postgresql"] = run(given, folder, new)
    finally:
        shutil.rmtree(folder)
    given.out.write_text(json.dumps(results, indent=2) + "\n")


def run(given: argparse.Namespace, folder: Path, new: Any) -> dict[str, Any]:
    """Run the steps on one kind of database."""
    url, found = new(), {}
    for name in given.steps.split(","):
        command = [sys.executable, __file__, "--step", name, new() if name == "restore" else url, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr}")
        found[name] = json.loads(done.stdout)
        found[name] = {"rows_per_s": round(given.rows / found[name]["s"]), **found[name]}
        print(name, found[name], file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
