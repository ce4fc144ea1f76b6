"""Kill a real `gharial profile` at random moments, run it again each time, and look for lost or doubled rows.

    python benchmarks/kill_profile.py --kills 50
    python benchmarks/kill_profile.py --kills 50 --runtime onnxruntime

A run is killed (SIGKILL or SIGTERM to the command alone or to its whole process group, or SIGKILL to a worker) at
a random moment of its life, from its start to the writing of the table. The same command is then given again. When
it ends by itself, the table is compared with every row that any journal ever held, and a new table is begun.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common import write_lines
from processes import alive, children

from latency_model import LatencyTable
from profiler.journal import journal_path
from profiler.testing import small_network

TARGETS = ("command", "group", "worker")
# Channels and step of the grid: about 4,000 rows of a formula, or 70 that are really measured.
GRIDS = {"fake": (128, 2), "onnxruntime": (64, 8)}


@dataclass
class Life:
    """One table from its first run to its completion, and every row of it that was ever acknowledged.

    A row is known by when it was measured and its value. A configuration has several when it was read again: where
    the back end asks for several passes the journal says so, else only an unstable one may be. The table has one.
    """

    number: int
    out: Path
    rows: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    unstable: set[str] = field(default_factory=set)
    again: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    finished: bool = False

    @property
    def doubled(self) -> set[str]:
        """Configurations that were measured twice for no reason."""
        return {c for c, rows in self.rows.items() if len(rows) > 1 + self.again.get(c, 0)} - self.unstable

    def look(self) -> None:
        """Compare what is on the disk now with all that was there before."""
        kept: dict[str, list[tuple[str, float]]] = {}
        if self.out.exists():
            table = LatencyTable.load(self.out)
            measured = {**table.rows, **table.ops}
            kept = {shape.text: [(row.measured_at, row.latency_us)] for shape, row in measured.items()}
            # Made of several readings, of which this script may have seen only those before a kill.
            for shape, row in measured.items():
                if "agree" in row.note:
                    self.again[shape.text] = max(self.again.get(shape.text, 0), 3)
            self.failed |= {shape.text: why for shape, why in table.failures.items()}
        again: Counter[str] = Counter()
        for line in _lines(journal_path(self.out)):
            if line["kind"] == "conv":
                row = line["row"]
                kept.setdefault(line["config"], []).append((row["measured_at"], row["latency_us"]))
                again[line["config"]] += bool(line.get("again"))
                if "unstable" in row["flags"]:
                    self.unstable.add(line["config"])
        for config, count in again.items():
            self.again[config] = max(count, self.again.get(config, 0))
        for config, rows in self.rows.items():
            # Of several readings the table keeps the one that it quotes; a journal keeps them all.
            there = kept.get(config, [])
            if not there if self.again.get(config) else rows[-1] not in there:
                self.lost.add(config)
        for config, rows in kept.items():
            known = self.rows.setdefault(config, [])
            known += [row for row in dict.fromkeys(rows) if row not in known]


def _lines(journal: Path) -> list[dict]:
    if not journal.exists():
        return []
    whole = journal.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in whole]


def _start(model: Path, out: Path, runtime: str, step: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "gharial", "profile", str(model), "--runtime", runtime]
    command += ["--step", str(step), "--out", str(out), "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])},
    )


def _wait(process: subprocess.Popen, out: Path, rng: random.Random, longest_s: float) -> None:
    """Wait until a random moment: in the start, or after some more rows than there were."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.0, 1.5))
        return
    journal = journal_path(out)
    before = _size(journal)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if _size(journal) > before:
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, longest_s))


def _size(journal: Path) -> int:
    try:
        return journal.stat().st_size
    except FileNotFoundError:  # not begun, or just become a table
        return 0


def _kill(process: subprocess.Popen, target: str, number: int) -> bool:
    """Send the signal; False when there is nobody to send it to."""
    workers = children(process.pid)
    if process.poll() is not None or (target == "worker" and not workers):
        return False
    if target == "worker":
        os.kill(workers[0], number)
    elif target == "group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return True


def _run(life: Life, model: Path, runtime: str, rng: random.Random, kills: int, records: list[dict]) -> int:
    """Give the command once and kill it while kills are left; return how many workers outlived it."""
    process = _start(model, life.out, runtime, GRIDS[runtime][1])
    began, workers = time.monotonic(), set()
    while len(records) < kills and process.poll() is None:
        _wait(process, life.out, rng, longest_s=1.5 if runtime == "fake" else 4.0)
        workers |= set(children(process.pid))
        target = rng.choice(TARGETS)
        number = signal.SIGTERM if target != "worker" and rng.random() < 0.25 else signal.SIGKILL
        seconds = time.monotonic() - began
        if not _kill(process, target, number):
            continue
        if target != "worker":
            process.communicate(timeout=60)
            life.look()
        life.kills += 1
        records.append(
            {
                "kill": len(records) + 1,
                "table": life.number,
                "target": target,
                "signal": number.name,
                "seconds_after_start": round(seconds, 3),
                "rows_acknowledged": len(life.rows),
                "journal_left": journal_path(life.out).exists(),
                "rows_lost": len(life.lost),
                "rows_doubled": len(life.doubled),
            }
        )
    stdout, stderr = process.communicate(timeout=1200)
    life.look()
    if process.returncode == 0:
        report = json.loads(stdout)
        life.finished = True
        # A configuration that could not be timed (on a busy machine tiny ones cannot) is reported, not lost.
        if report["rows"] + len(report["failed"]) != report["configurations"]:
            life.lost.add("not measured")
    elif process.returncode not in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
        sys.exit(f"the command failed:\n{stderr.decode()}")
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return sum(map(alive, workers))


def main() -> int:
    """Run the benchmark; 0 when nothing was lost or doubled, and no worker outlived its command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runtime", choices=sorted(GRIDS), default="fake")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="where the CSV goes")
    given = parser.parse_args()
    target = given.out or Path(__file__).with_name(f"kill_profile_{given.runtime}.csv")
    rng, start = random.Random(given.seed), time.monotonic()
    records: list[dict] = []
    lives: list[Life] = []
    orphans = runs = 0
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "net.onnx"
        model.write_bytes(small_network(channels=GRIDS[given.runtime][0], size=8))
        while len(records) < given.kills or not lives[-1].finished:
            if not lives or lives[-1].finished:
                lives.append(Life(len(lives) + 1, Path(name) / f"table{len(lives)}.parquet"))
            orphans += _run(lives[-1], model, given.runtime, rng, given.kills, records)
            runs += 1
    write_lines(target, records, end="\r\n")
    lost, doubled = (sum(len(getattr(life, what)) for life in lives) for what in ("lost", "doubled"))
    kinds = Counter(f"{record['signal']} to the {record['target']}" for record in records)
    print(f"{len(records)} kills ({', '.join(f'{count} {what}' for what, count in sorted(kinds.items()))})")
    for life in lives:
        for config, why in life.failed.items():
            print(f"failed in table {life.number}: {config}: {why}")
    print(
        f"{runs} runs, {len(lives)} tables, {sum(len(life.rows) for life in lives)} rows: {lost} lost, "
        f"{doubled} doubled, {orphans} workers left over, in {time.monotonic() - start:.0f} s"
    )
    return 1 if lost or doubled or orphans else 0


if __name__ == "__main__":
    sys.exit(main())
