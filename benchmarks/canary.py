"""What makes CPU rows repeatable on a machine that others use? Measures 40 configurations again and again.

    python benchmarks/canary.py [PASSES]

Each pass (4 by default) measures all configurations in an order of its own, once with the wall clock and once
with a timer that repeats interrupted runs, each up to three times while the canaries around it say that the
machine is disturbed. The first try is what one would have without a canary. Passes are compared in pairs: 1
with 2, 3 with 4. Prints the share of rows whose two medians are within 5 % of each other, for the first try,
for the try that the canary chose, and for two choices that need no canary but as many tries. Every try is a
line of canary.csv beside this file. To see slow phases, run something else meanwhile; the load is printed.
"""

from __future__ import annotations

import csv
import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from canary_work import Canary, measure_calmly
from cpu_sites import configurations

from latency_model import ConvShape, Measurement
from latency_model.errors import MeasurementError
from profiler.backends.base import Backend
from profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu
from profiler.cpu_timer import CpuTimer, cpu_timer

SHARES = (1.0, 0.75, 0.5, 0.25)
TOLERANCE, TRIES, PAUSE_S = 0.1, 3, 0.2


def insist(backend: Backend, shape: ConvShape) -> Measurement:
    """On a busy machine an increment can come out negative, which is an error; a row needs some value here."""
    for _ in range(9):
        try:
            return backend.measure(shape, run_id="canary")
        except MeasurementError:
            continue
    return backend.measure(shape, run_id="canary")


Key = tuple[str, int, str]  # timer, pass, configuration


class Guarded(OnnxRuntimeCpu):
    """ONNX Runtime timed with a ``CpuTimer`` whose counts are kept."""

    timer = CpuTimer()

    def __init__(self) -> None:
        super().__init__()
        self._timer = self.timer


class Unguarded(OnnxRuntimeCpu):
    """ONNX Runtime timed by the wall clock alone."""

    def __init__(self) -> None:
        super().__init__()
        self._timer = cpu_timer(threads=0)


@dataclass
class Log:
    tries: dict[Key, list[tuple[Measurement, float]]] = field(default_factory=dict)
    chosen: dict[Key, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    lines: list[tuple[object, ...]] = field(default_factory=list)

    def measure(self, key: Key, backend: Backend, shape: ConvShape, canary: Canary) -> None:
        rows: list[Measurement] = []
        ends: list[float] = []

        def once() -> Measurement:
            rows.append(insist(backend, shape))
            ends.append(time.perf_counter())
            return rows[-1]

        start = time.perf_counter()
        calm = measure_calmly(once, canary, tries=TRIES, tolerance=TOLERANCE, pause_s=PAUSE_S)
        spent = self.seconds.setdefault(key[0], [0.0, 0.0])
        spent[0] += ends[0] - start
        spent[1] += time.perf_counter() - start
        self.tries[key] = list(zip(rows, calm.excesses, strict=True))
        self.chosen[key] = next(k for k, row in enumerate(rows) if row is calm.value)
        for k, (row, excess) in enumerate(self.tries[key]):
            kept = k == self.chosen[key]
            times = (f"{us:.4f}" for us in (row.latency_us, row.low_us, row.high_us))
            waited = f"{calm.usage.waited:.3f}" if kept else ""
            flags = " ".join((*row.flags, *(calm.flags if kept else ())))
            self.lines.append((*key, k + 1, *times, f"{excess:.4f}", int(kept), waited, flags))


def main() -> None:
    passes = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    canary, log = Canary(), Log()
    canary.warm_up(30)
    backends = {"wall clock": Unguarded(), "repeating timer": Guarded()}
    for number in range(1, passes + 1):
        order = [(name, shape) for shape in configurations(SHARES) for name in backends]
        random.Random(number).shuffle(order)
        for name, shape in order:
            log.measure((name, number, shape.text), backends[name], shape, canary)
        print(f"pass {number} done, load {os.getloadavg()[0]:.1f}", flush=True)
    with Path(__file__).with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = "timer", "pass", "config", "try", "us", "low_us", "high_us"
        writer.writerow([*names, "excess", "kept", "waited", "flags"])
        writer.writerows(log.lines)
    for name in backends:
        report(name, log, passes)
    timer = Guarded.timer
    print(
        f"{timer.interrupted:.0%} of the repeating timer's runs were interrupted; "
        f"{timer.estimated / timer.drawn:.1%} of its times are processor time"
    )


def report(name: str, log: Log, passes: int) -> None:
    tries = {key[1:]: rows for key, rows in log.tries.items() if key[0] == name}
    chosen = {key[1:]: k for key, k in log.chosen.items() if key[0] == name}
    choices: dict[str, Callable[[tuple[int, str]], Measurement]] = {
        "first try": lambda key: tries[key][0][0],
        "chosen by the canary": lambda key: tries[key][chosen[key]][0],
        "narrowest interval of the tries": lambda key: min(
            (row for row, _ in tries[key]), key=lambda row: (row.high_us - row.low_us) / row.latency_us
        ),
        "fastest of the tries": lambda key: min(
            (row for row, _ in tries[key]), key=lambda row: row.latency_us
        ),
    }
    texts = sorted({text for _, text in tries})
    pairs = [(n, n + 1) for n in range(1, passes, 2)]
    retried = np.mean([len(rows) > 1 for rows in tries.values()])
    left = np.mean([tries[key][chosen[key]][1] > TOLERANCE for key in tries])
    first_s, all_s = log.seconds[name]
    print(
        f"{name}: {len(texts)} rows, {len(pairs)} pairs of passes; {retried:.0%} tried again, "
        f"{left:.0%} stayed disturbed; {first_s:.0f} s for first tries, {all_s:.0f} s in all"
    )
    for choice, choose in choices.items():
        off = []
        for (a, b), text in itertools.product(pairs, texts):
            us = choose((a, text)).latency_us, choose((b, text)).latency_us
            off.append(abs(us[0] - us[1]) / (sum(us) / 2))
        print(
            f"  {choice:32s} {np.mean(np.array(off) <= 0.05):6.1%} of rows within 5 %, "
            f"{np.mean(np.array(off) <= 0.1):6.1%} within 10 %, 95th percentile {np.quantile(off, 0.95):.1%}"
        )


if __name__ == "__main__":
    main()
