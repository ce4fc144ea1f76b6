"""Time random networks of torchvision's families and every configuration in them, on one CPU core.

    python benchmarks/networks_cpu/measure.py prepare    # exports the networks, once
    taskset -c 1 python benchmarks/networks_cpu/measure.py run
    python benchmarks/networks_cpu/measure.py collect    # rows.csv: every reading of every row

Each network is a random cut of a torchvision model (zoo.py). ``prepare`` exports them to ``--files``, harvests
each from its ONNX file and writes networks.csv. ``run`` measures what table.parquet beside this file lacks, as
``gharial profile`` does: the same plan of rows, worker processes, two passes in fresh processes, sentinels and
journal. It goes chunk by chunk, a chunk being networks of one family: networks, their rows twice, the
networks again, so that what is compared was measured within minutes. All networks are timed once more before
the first chunk and after the last (readings.csv). Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import torch
from zoo import FAMILIES, Wanted, build, wanted

from latency_model.errors import MeasurementError
from latency_model.harvest import harvest_onnx
from latency_model.network import NetworkCost
from latency_model.ops import Config
from latency_model.table import LatencyTable
from profiler import export_onnx
from profiler.journal import journal_path
from profiler.network_times import Network
from profiler.runner import profile
from profiler.spec import BackendSpec
from profiler.workers import Task, open_workers
from profiler.workers.base import Died, Done

HERE = Path(__file__).parent
_CHUNK = 5
_READ_AT_ONCE = 10


def prepare(networks: Iterable[Wanted], files: Path) -> None:
    """Export what ``files`` lacks, two files a network: the ONNX model and what was found in it."""
    files.mkdir(parents=True, exist_ok=True)
    for each in networks:
        facts = files / f"{each.name}.json"
        if facts.is_file():
            continue
        start = time.perf_counter()
        module = build(each)
        model = export_onnx(module, (3, each.size, each.size), batch=each.batch)
        (files / f"{each.name}.onnx").write_bytes(model)
        cost = harvest_onnx(model, name=each.name)
        row = {**describe(each, cost), "weight_bytes": _weight_bytes(model)}
        facts.write_text(json.dumps(row))
        print(row, f"{time.perf_counter() - start:.1f} s", flush=True)


def describe(network: Wanted, cost: NetworkCost) -> dict[str, object]:
    """Return what there is to say of a network before it is timed."""
    shapes = [shape for _, shape in cost.shapes()]
    return {
        "network": network.name,
        "family": network.family,
        "index": network.index,
        "aligned": int(network.aligned),
        "batch": network.batch,
        "size": network.size,
        "convs": len(shapes),
        "ops": len(cost.ops),
        "reorders": len(cost.reorders),
        "configurations": len(set(configurations(cost))),
        "gmacs": round(sum(shape.macs for shape in shapes) / 1e9, 4),
        "others": json.dumps(dict(cost.others)) if cost.others else "",
    }


def configurations(cost: NetworkCost) -> tuple[Config, ...]:
    """Return what a network runs, as ``gharial profile`` lists it."""
    convs = (shape for _, shape in cost.shapes())
    return (*convs, *(shape for _, shape in cost.op_shapes(reorders=True)))


def run(networks: list[Wanted], files: Path, out: Path, readings: Path) -> None:
    """Measure everything; what ``out`` and ``readings`` have already is not measured again."""
    spec, start = BackendSpec("onnxruntime"), time.perf_counter()
    read_all("begin", networks, files, readings, spec)
    chunks = list(_chunks(networks))
    for number, chunk in enumerate(chunks, 1):
        whole = [_network(each, files) for each in chunk]
        done = LatencyTable.load(out) if out.is_file() else None
        lacking = Counter(config for _, _, shapes in whole for config in set(shapes))
        print(
            f"{time.perf_counter() - start:6.0f} s  chunk {number}/{len(chunks)} {chunk[0].name} ... "
            f"{len(lacking)} configurations",
            flush=True,
        )
        if done is not None and all(
            any(name == n.name and shapes == n.shapes for n in done.networks) for name, _, shapes in whole
        ):
            continue
        keep = _Keeper(out)
        table = profile(spec, lacking, out=out, networks=whole, progress=keep, note=_note)
        for name, _, shapes in whole:
            report(table, name, shapes)
    read_all("end", networks, files, readings, spec)
    print(f"{time.perf_counter() - start:6.0f} s  done", flush=True)


class _Keeper:
    """Keeps a chunk's journal, which has every reading of a row, when the runner deletes it."""

    def __init__(self, out: Path) -> None:
        self._journal, self._kept = journal_path(out), False

    def __call__(self, *_: object) -> None:
        if not self._kept:
            # No other file gets this number as long as the link is there.
            link = self._journal.parent / "journals" / str(self._journal.stat().st_ino)
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.hardlink_to(self._journal)
            self._kept = True


def collect(folder: Path, out: Path) -> None:
    """Write every reading of every row that the kept journals have: a line a row, microseconds."""
    readings: dict[str, list[float]] = {}
    for path in sorted(folder.iterdir()):
        with path.open(encoding="utf-8") as stream:
            lines = [json.loads(line) for line in stream if line.endswith("\n")]
        for line in lines:
            if line["kind"] == "conv":
                readings.setdefault(line["config"], []).append(line["row"]["latency_us"])
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["config", "readings_us"])
        for config, values in sorted(readings.items()):
            writer.writerow([config, ";".join(f"{value:.3f}" for value in values)])
    print(f"{len(readings)} rows, {sum(map(len, readings.values()))} readings")


def _note(text: str) -> None:
    print("  note:", text, flush=True)


def report(table: LatencyTable, name: str, shapes: tuple[Config, ...]) -> None:
    """Print a network beside the sum of its rows."""
    timed = next((n for n in table.networks if n.name == name and n.shapes == shapes), None)
    rows = [table.measured(shape) for shape in shapes]
    total = sum(row.latency_us for row in rows if row is not None)
    if timed is not None:
        measured = timed.measurement.latency_us
        print(
            f"  {name}: {measured:.0f} us, sum {total:.0f} us, ratio {total / measured:.3f}, "
            f"{rows.count(None)} of {len(rows)} without a row {list(timed.measurement.flags)}",
            flush=True,
        )


def read_all(stage: str, networks: list[Wanted], files: Path, readings: Path, spec: BackendSpec) -> None:
    """Time all networks once, without rows between, and add the times to the file ``readings``."""
    known = set()
    if readings.is_file():
        with readings.open(newline="", encoding="utf-8") as stream:
            known = {row["network"] for row in csv.DictReader(stream) if row["stage"] == stage}
    todo = [each for each in networks if each.name not in known]
    for first in range(0, len(todo), _READ_AT_ONCE):
        part = todo[first : first + _READ_AT_ONCE]
        models = tuple((files / f"{each.name}.onnx").read_bytes() for each in part)
        with open_workers([spec]) as workers:
            workers.submit(0, Task(stage, models=models))
            rows = None
            while rows is None:
                for event in workers.wait(1.0):
                    if isinstance(event, Died):
                        raise MeasurementError(f"the worker {event.reason} while timing networks")
                    if isinstance(event, Done):
                        rows = event.networks
        if isinstance(rows, MeasurementError):
            raise rows
        new = not readings.is_file()
        with readings.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            if new:
                writer.writerow(["stage", "network", "latency_us", "low_us", "high_us", "measured_at"])
            for each, row in zip(part, rows, strict=True):
                times = (round(value, 2) for value in (row.latency_us, row.low_us, row.high_us))
                writer.writerow([stage, each.name, *times, row.measured_at])


def _chunks(networks: list[Wanted]) -> Iterator[list[Wanted]]:
    """Yield networks of one family, few at a time; the families by turns, so that drift is no family's."""
    parts = []
    for family in FAMILIES:
        mine = [each for each in networks if each.family == family]
        parts += [
            (first // _CHUNK, family, mine[first : first + _CHUNK]) for first in range(0, len(mine), _CHUNK)
        ]
    order = list(FAMILIES)
    for _, _, part in sorted(parts, key=lambda entry: (entry[0], order.index(entry[1]))):
        yield part


def _network(each: Wanted, files: Path) -> Network:
    model = (files / f"{each.name}.onnx").read_bytes()
    return each.name, model, configurations(harvest_onnx(model, name=each.name))


def _weight_bytes(model: bytes) -> int:
    graph = onnx.load_from_string(model).graph
    return sum(len(tensor.raw_data) for tensor in graph.initializer)


def _write_facts(networks: list[Wanted], files: Path, out: Path) -> None:
    rows = [json.loads((files / f"{each.name}.json").read_text()) for each in networks]
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} networks, {sum(row['configurations'] for row in rows)} configurations at most")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("prepare", "run", "collect"))
    parser.add_argument("--files", type=Path, default=Path("out/networks_cpu"), help="where ONNX files go")
    parser.add_argument("--families", help="only these, such as vgg_bn,resnet_basic")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of networks of each family")
    parser.add_argument("--part", default="0/1", help="prepare only every n-th network: 0/2 and 1/2")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    options = parser.parse_args()
    if options.action == "collect":
        collect(options.out / "journals", options.out / "rows.csv")
        return
    torch.set_num_threads(1)
    networks = wanted(options.families.split(",") if options.families else None, scale=options.scale)
    if options.action == "prepare":
        place, parts = map(int, options.part.split("/"))
        prepare(networks[place::parts], options.files)
        return
    prepare(networks, options.files)
    _write_facts(networks, options.files, options.out / "networks.csv")
    run(networks, options.files, options.out / "table.parquet", options.out / "readings.csv")


if __name__ == "__main__":
    main()
