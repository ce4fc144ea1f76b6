"""Lookups in a table of a million rows: load, lookups per second, bytes a row.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/lookup.py

Makes 1,000,000 distinct convolutions (seed 0), a fifth of them depthwise or grouped, builds and saves the table,
and looks up in a fresh process: 1,000,000 convolutions that are in it, as many that are not, and half and half,
in random order. Times are by the clock, and processor time beside them, which other work on the core changes
less. A cold load is one after the kernel was told to drop the file's pages
(`POSIX_FADV_DONTNEED`); `read_bytes` is what then really came from the disk. Memory is the resident part of the
mapping (`/proc/self/smaps`) and the growth of the anonymous memory over the load. Beside it, on the same
queries, a binary search (`np.searchsorted`) over sorted 64-bit hashes, whose keys are compared as well, and a
Python dictionary of tuples. Writes lookup.json beside this file. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import commit, processor

from latency_model.columns import ConvColumns, Kind
from latency_model.environment import Environment
from latency_model.lookup import LookupTable
from latency_model.lookup.keys import FIELDS, mixed

ROWS = 1_000_000
REPEATS = 9
KINDS = tuple(
    Kind((k, k), (s, s), (k // 2,) * 4, (1, 1), pattern, precision, layout)
    for k in (1, 3, 5, 7)
    for s in (1, 2)
    for pattern in ("conv+bias", "conv+bias+relu", "conv+bias+add+relu")
    for precision, layout in (("fp32", "nchw"), ("fp16", "nhwc"))
)


def distinct(count: int, rng: np.random.Generator) -> ConvColumns:
    """Return ``count`` different convolutions in random order."""
    drawn = int(count * 1.05) + 100
    size = rng.integers(7, 257, drawn)
    inputs, outputs = rng.integers(1, 4097, drawn), rng.integers(1, 4097, drawn)
    form = rng.random(drawn)
    groups = np.where(form < 0.1, inputs, np.where(form < 0.2, 2, 1))
    inputs = np.where((form >= 0.1) & (form < 0.2), inputs * 2, inputs)
    outputs = np.where(form < 0.1, inputs, np.where(form < 0.2, outputs * 2, outputs))
    fields = np.stack(
        [rng.integers(1, 513, drawn), inputs, size, size, outputs, groups, rng.integers(0, len(KINDS), drawn)]
    )
    fields = np.unique(fields, axis=1)
    fields = fields[:, rng.permutation(fields.shape[1])[:count]]
    if fields.shape[1] < count:
        raise SystemExit("too few distinct rows were drawn")
    return ConvColumns(**dict(zip(FIELDS, fields, strict=True)), kinds=KINDS)


def seconds(work: Callable[[], Any], repeats: int = REPEATS) -> dict[str, float]:
    """Return the median and the worst time of ``work`` by the clock, and its median processor time."""
    clock, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return {
        "median_s": statistics.median(clock),
        "worst_s": max(clock),
        "processor_s": statistics.median(processor),
    }


def anonymous_bytes() -> int:
    return _kilobytes(Path("/proc/self/status").read_text(), "RssAnon:")


def mapped_bytes(path: Path) -> int:
    """Return the bytes of ``path`` that this process has mapped and resident."""
    parts = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(_kilobytes(part, "Rss:") for part in parts)


def _kilobytes(text: str, name: str) -> int:
    return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) * 1024


def read_bytes() -> int:
    text = Path("/proc/self/io").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("read_bytes:")).split()[1])


def drop_pages(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load_once(path: Path, *, check: bool, cold: bool) -> dict[str, float]:
    """Return what one load takes; called in a fresh process."""
    if cold:
        drop_pages(path)
    else:
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    disk, anonymous = read_bytes(), anonymous_bytes()
    start = time.perf_counter()
    table = LookupTable.load(path, check=check)
    took = time.perf_counter() - start
    grown = anonymous_bytes() - anonymous
    return {
        "load_s": took,
        "read_bytes": read_bytes() - disk,
        "anonymous_bytes_a_row": grown / len(table),
        "mapped_bytes_a_row": mapped_bytes(path) / len(table),
    }


def lookups(path: Path, folder: Path) -> dict[str, Any]:
    """Return times and memory of lookups; called in a fresh process."""
    data = np.load(folder / "queries.npz")
    hits = ConvColumns(**{name: data[name][0] for name in FIELDS}, kinds=KINDS)
    misses = ConvColumns(**{name: data[name][1] for name in FIELDS}, kinds=KINDS)
    half = np.arange(ROWS) % 2 == 0
    mix = ConvColumns(
        **{name: np.where(half, getattr(hits, name), getattr(misses, name)) for name in FIELDS}, kinds=KINDS
    )
    anonymous = anonymous_bytes()
    table = LookupTable.load(path)
    grown = anonymous_bytes() - anonymous
    result = table.lookup(mix)
    if not (
        np.array_equal(result.found, half)
        and np.array_equal(result.latency_us[half], data["latency_us"][half])
    ):
        raise SystemExit("a lookup was wrong")
    found: dict[str, Any] = {
        name: seconds(lambda columns=columns: table.lookup(columns))
        for name, columns in (("hits", hits), ("misses", misses), ("half", mix))
    }
    found["bytes_a_row"] = {"mapped": mapped_bytes(path) / ROWS, "anonymous": grown / ROWS}
    shapes = list(mix.take(slice(0, 5000)))
    one = seconds(lambda: [table.get(shape) for shape in shapes])
    found["get_us"] = one["processor_s"] / len(shapes) * 1e6
    found["binary_search"] = seconds(binary_search(table, mix, half), 3)
    found["dictionary"] = seconds(dictionary(table, mix), 3)
    return found


def binary_search(table: LookupTable, queries: ConvColumns, expected: np.ndarray) -> Callable[[], Any]:
    """Return a lookup by binary search over the sorted hashes of the same keys."""
    packing, words, values = table.parts.packing, table.parts.words, table.parts.values
    order = np.argsort(mixed(words))
    hashes = mixed(words)[order]
    keys = [word[order] for word in words]
    sorted_values = [value[order] for value in values]

    def work() -> None:
        asked = packing.words([getattr(queries, name).astype(np.int64) for name in FIELDS])
        place = np.minimum(np.searchsorted(hashes, mixed(asked)), len(hashes) - 1)
        same = np.logical_and.reduce([key[place] == word for key, word in zip(keys, asked, strict=True)])
        for value in sorted_values:
            np.where(same, value[place], np.nan)
        if not np.array_equal(same, expected):
            raise SystemExit("the binary search was wrong")

    # Kinds have the same numbers in the table and in the queries only if the table has them in that order.
    if table.parts.kinds != queries.kinds:
        raise SystemExit("the kinds are numbered otherwise")
    return work


def dictionary(table: LookupTable, queries: ConvColumns) -> Callable[[], Any]:
    """Return a lookup of tuples in a Python dictionary."""
    columns = table.columns
    rows = dict(
        zip(
            zip(*(getattr(columns, name).tolist() for name in FIELDS), strict=True),
            table.latency_us.tolist(),
            strict=True,
        )
    )
    asked = list(zip(*(getattr(queries, name).tolist() for name in FIELDS), strict=True))
    return lambda: [rows.get(key) for key in asked]


def fresh(*arguments: str) -> Any:
    """Return what this script says in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    every = distinct(2 * ROWS, rng)
    rows, misses = every.take(slice(0, ROWS)), every.take(slice(ROWS, None))
    latency = rng.lognormal(3, 1, ROWS)
    order = rng.permutation(ROWS)
    hits = rows.take(order)
    np.savez(
        folder / "queries.npz",
        latency_us=latency[order],
        **{name: np.stack([getattr(hits, name), getattr(misses, name)]) for name in FIELDS},
    )
    environment = Environment("synthetic", "cpu", "fake", "1")
    start = time.perf_counter()
    table = LookupTable.of(environment, rows, latency, latency * 0.97, latency * 1.03)
    built = time.perf_counter() - start
    path = folder / "rows.lookup"
    start = time.perf_counter()
    table.save(path)
    saved = time.perf_counter() - start
    found: dict[str, Any] = {
        "rows": ROWS,
        "seed": 0,
        "key_words": table.parts.packing.count,
        "build_s": built,
        "save_s": saved,
        "file_bytes_a_row": path.stat().st_size / ROWS,
        "array_bytes_a_row": table.nbytes / ROWS,
        "load": {
            f"{'cold' if cold else 'warm'}, {'checked' if check else 'not checked'}": [
                fresh("--load", str(path), *["--cold"] * cold, *["--no-check"] * (not check))
                for _ in range(5)
            ]
            for cold in (True, False)
            for check in (True, False)
        },
        "lookups": fresh("--lookups", str(path)),
    }
    # Without groups and with at most 2,048 input channels a key is one word.
    narrow = dataclasses.replace(rows, groups=np.ones(ROWS, dtype=np.int64))
    plain = narrow.take(np.flatnonzero((rows.groups == 1) & (rows.in_channels <= 2048)))
    some = latency[: len(plain)]
    one = LookupTable.of(environment, plain, some, some, some)
    found["plain_convolutions"] = {
        "rows": len(one),
        "key_words": one.parts.packing.count,
        "array_bytes_a_row": one.nbytes / len(one),
    }
    return found


def versions() -> dict[str, str]:
    return {
        "commit": commit(),
        "cpu": processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "load_of_the_machine": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lookups", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-check", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        print(json.dumps(load_once(given.load, check=not given.no_check, cold=given.cold)))
        return
    if given.lookups:
        print(json.dumps(lookups(given.lookups, given.lookups.parent)))
        return
    # Not the folder for temporary files: where that is memory, no load is cold.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".lookup-") as folder:
        found = {**versions(), **measure(Path(folder))}
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{found['file_bytes_a_row']:.1f} bytes a row in the file, built in {found['build_s']:.1f} s")
    for name, runs in found["load"].items():
        times = [run["load_s"] for run in runs]
        print(
            f"load {name}: {statistics.median(times) * 1e3:.1f} ms (worst {max(times) * 1e3:.1f}), "
            f"{runs[0]['read_bytes'] / 1e6:.1f} MB from disk"
        )
    for name in ("hits", "misses", "half", "binary_search", "dictionary"):
        took = found["lookups"][name]
        print(
            f"{name}: {ROWS / took['median_s'] / 1e6:.2f} million/s (worst {ROWS / took['worst_s'] / 1e6:.2f}; "
            f"per second of processor time {ROWS / took['processor_s'] / 1e6:.2f})"
        )
    print(f"one: {found['lookups']['get_us']:.1f} us; resident: {found['lookups']['bytes_a_row']}")


if __name__ == "__main__":
    main()
