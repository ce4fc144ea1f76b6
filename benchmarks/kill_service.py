"""Kill a real server and its workers (SIGKILL) at random moments under load; look for lost or doubled jobs and rows.

    python benchmarks/kill_service.py --kills 200
    python benchmarks/kill_service.py --kills 50 --database postgresql

A client submits jobs of overlapping configurations without a pause, two workers with the fake device measure them.
The server, a worker, a worker's measuring process, or a worker with all its processes is killed, and started again
at once or a little later. Every job that was acknowledged, every row that was ever seen in the database, and every
row that was ever on a worker's disk must be there at the end: the job done, the row once, with the very latency that
the fake device gives.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from common import commit, write_lines
from job_load import Load
from processes import Process
from sqlalchemy import func, select

from latency_model.ops import parse_config
from latency_model.service.store.database import Database, open_database
from latency_model.service.store.rows import read
from latency_model.service.store.schema import environments, job_items, jobs, rows
from latency_model.service.store.tokens import create_token
from profiler.backends.fake import FakeDevice

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("server", "server", "worker", "worker", "child", "group")
_FINE = ("rows_nobody_asked_for", "rows_measured_again")
WORKERS, LEASE_S = 2, 3.0


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path[1:])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "GHARIAL_IMPORT_SHIPPED": "false",
        "GHARIAL_LEASE_S": str(LEASE_S),
    }


@dataclass
class Seen:
    """Every row that was ever in the database or on a worker's disk."""

    database: Database
    outboxes: list[Path]
    stored: dict[str, str] = field(default_factory=dict)
    on_disk: dict[str, str] = field(default_factory=dict)
    changed: int = 0

    def look(self) -> None:
        """Take a look now; a row that is older than it was counts as lost at once."""
        with self.database.read() as connection:
            found = dict(
                connection.execute(select(rows.c.key, rows.c.measured_at).where(rows.c.kind == "conv")).all()
            )
        for key, at in self.stored.items():
            if found.get(key, "") < at:
                self.changed += 1
        self.stored |= found
        for outbox in self.outboxes:
            for journal in outbox.glob("*.journal"):
                with contextlib.suppress(OSError):
                    for line in journal.read_bytes().split(b"\n")[:-1]:
                        data = json.loads(line)
                        if data["kind"] == "conv":
                            self.on_disk[data["config"]] = data["row"]["measured_at"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(url: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start")


@contextlib.contextmanager
def _database(kind: str, folder: Path):
    if kind == "sqlite":
        yield f"sqlite:///{folder}/service.db"
        return
    sys.path.append(str(ROOT / "tests"))
    import postgres

    with postgres.server() as make:
        yield make()


def _wait(processes: list[Process], database: Database, rng: random.Random, longest_s: float) -> str:
    """Wait until a random moment: of the start of what was killed last, or after rows have come again."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.0, 2.0))
        return "starting"
    before, deadline = _revision(database), time.monotonic() + 30
    while _revision(database) == before and time.monotonic() < deadline:
        for process in processes:
            process.check()
        time.sleep(0.02)
    time.sleep(rng.uniform(0.0, longest_s))
    return "working"


def _revision(database: Database) -> int:
    with database.read() as connection:
        return int(connection.scalar(select(func.sum(environments.c.revision))) or 0)


def _kill(processes: list[Process], rng: random.Random) -> tuple[str, float]:
    """Kill something, and start it again at once or a little later."""
    while True:
        target = rng.choice(TARGETS)
        process = processes[0] if target == "server" else rng.choice(processes[1:])
        seconds = time.monotonic() - process.began
        if process.kill(target):
            break
        for each in processes:
            each.check()
    if target != "child":
        time.sleep(rng.choice((0.0, rng.uniform(0.0, 1.5))))
        process.start()
    return target, seconds


def _judge(database: Database, load: Load, seen: Seen) -> dict[str, int]:
    """Compare what there is in the end with all that was ever promised."""
    device, problems = FakeDevice(delay_s=0.0), Counter()
    with database.read() as connection:
        states = dict(connection.execute(select(jobs.c.id, jobs.c.state)).all())
        waiting = select(job_items.c.job_id, func.count()).where(job_items.c.state != "stored")
        undone = dict(connection.execute(waiting.group_by(job_items.c.job_id)).all())
        count = connection.scalar(select(func.count()).select_from(rows))
    table = read(database, device.environment.key)
    problems["jobs_lost"] = sum(states.get(job) != "done" or job in undone for job in load.acknowledged)
    problems["jobs_doubled"] = len(states) - len(load.acknowledged)
    wanted = {config for configs in load.acknowledged.values() for config in configs}
    kept = {shape.text: row for shape, row in table.rows.items()}
    promised = {**dict.fromkeys(wanted, ""), **seen.stored}
    for text, at in seen.on_disk.items():
        promised[text] = max(at, promised.get(text, ""))
    older = sum(text not in kept or kept[text].measured_at < at for text, at in promised.items())
    problems["rows_lost"] = older + seen.changed
    # Another worker had taken the job over by then. No loss, but work that was done twice.
    problems["rows_measured_again"] = sum(
        text in kept and kept[text].measured_at > at for text, at in seen.on_disk.items()
    )
    problems["rows_doubled"] = int(count or 0) - len(kept)
    problems["rows_wrong"] = sum(
        row.latency_us != device.measure(parse_config(text), run_id="").latency_us
        for text, row in kept.items()
    )
    problems["rows_nobody_asked_for"] = len(set(kept) - wanted)
    problems["rows_not_sent"] = sum(len(list(box.glob("[0-9]*.parquet*"))) for box in seen.outboxes)
    return dict(problems)


def main() -> int:
    """Run the benchmark; 0 when nothing was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--pause", type=float, default=1.5, help="longest time from new rows to a kill, in seconds"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="where the CSV goes")
    given = parser.parse_args()
    target_file = given.out or Path(__file__).with_name(f"kill_service_{given.database}.csv")
    revision = commit()
    rng, start, records = random.Random(given.seed), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="kill-") as name, _database(given.database, Path(name)) as url:
        folder = Path(name)
        database = open_database(url)
        database.migrate()
        token = create_token(database, "benchmark", ["jobs:write", "work", "read"])[1]
        port = _free_port()
        here = f"http://127.0.0.1:{port}"
        environment = _environment() | {"GHARIAL_TOKEN": token}
        serve = ["serve", "--port", str(port), "--database", url, "--cache", str(folder / "cache")]
        processes = [Process("server", serve, folder / "server.log", environment)]
        boxes = [folder / f"outbox{n}" for n in range(WORKERS)]
        for number, box in enumerate(boxes):
            options = [
                "--runtime",
                "fake",
                "--option",
                "delay_s=0.02",
                "--stretch",
                "0.3",
                "--name",
                f"w{number}",
            ]
            command = ["worker", "--server", here, "--outbox", str(box), *options]
            processes.append(Process(f"worker{number}", command, folder / f"worker{number}.log", environment))
        for process in processes:
            process.start()
        _wait_until_up(here)
        load, seen = Load(here, token, random.Random(given.seed + 1)), Seen(database, boxes)
        load.start()
        for number in range(1, given.kills + 1):
            moment = _wait(processes, database, rng, given.pause)
            target, seconds = _kill(processes, rng)
            seen.look()
            records.append(
                {
                    "commit": revision,
                    "database": given.database,
                    "seed": given.seed,
                    "kill": number,
                    "target": target,
                    "moment": moment,
                    "at_s": round(time.monotonic() - start, 2),
                    "target_lived_s": round(seconds, 2),
                    "jobs_acknowledged": len(load.acknowledged),
                    "rows_stored": len(seen.stored),
                    "rows_seen_on_disk": len(seen.on_disk),
                }
            )
            if number % 20 == 0:
                print(records[-1], flush=True)
        _wait_until_up(here)
        load.stop()
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            for process in processes:
                process.check()
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
                states = load.states()
                if not states.keys() - {"done"}:
                    break
            time.sleep(0.5)
        codes = [process.end() for process in processes[1:]] + [processes[0].end()]
        found = _judge(database, load, seen)
        exits = {process.name: process.exits for process in processes if process.exits}
        if (
            exits
            or any(codes[:-1])
            or any(count for what, count in found.items() if what not in _FINE)
            or load.problems
        ):
            for process in processes:
                print(f"--- {process.name}\n{process.log.read_text(errors='replace')[-3000:]}")
        database.close()
    write_lines(target_file, records, end="\r\n")
    kinds = Counter(record["target"] for record in records)
    print(f"{len(records)} kills: {', '.join(f'{count} {what}' for what, count in sorted(kinds.items()))}")
    print(
        f"{len(load.acknowledged)} jobs acknowledged ({load.again} sent more than once), {len(seen.stored)} rows seen "
        f"stored, {len(seen.on_disk)} seen on a worker's disk, in {time.monotonic() - start:.0f} s on {given.database}"
    )
    print("states: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    print(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in found.items()))
    print(
        f"ended by themselves: {exits or 'none'}; exit codes at SIGTERM: {codes}; problems: {load.problems or 'none'}"
    )
    bad = {what: count for what, count in found.items() if count and what not in _FINE}
    return 1 if bad or load.problems or any(codes[:-1]) or codes[-1] not in (0, -signal.SIGTERM) else 0


if __name__ == "__main__":
    sys.exit(main())
