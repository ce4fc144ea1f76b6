"""Time the differentiable latency, exact, fast and at real counts, forward and backward, on one processor core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/expectation.py

Matrices are made by a formula (waves, tiles, noise), at every count: ``dense`` is an envelope in which no two
neighbours are equal, ``step8`` one that changes every eight channels, ``raw`` is dense with 30 % of noise at every
point. Gates: ``start`` (all 0.995), ``near 1`` (1 - 10^-6 to 10^-1), ``mixed`` (0.1 to 0.9), ``polarised`` (60 % near
1, the others near 0), ``random`` (0 to 1), ``few`` (3 % uncertain, the others 0 or 1). The deviation of the fast mode
is the largest over the seeds: of the value, relative; of the gradient, the norm of the difference over the norm.
Writes expectation.csv beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import commit, processor, write_lines
from torch import Tensor

from latency_model import Channels, ConvShape, NetworkCost, Site
from latency_model.expectation import ExpectedLatency, InterpolatedLatency, smoothed
from latency_model.harvest import harvest
from latency_model.zoo import load_model
from pruner.graph import trace

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "densenet121", "one layer of 2048 gates")
MATRICES = ("dense", "step8", "raw")
REGIMES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "start": lambda _, size: np.full(size, 0.995),
    "near 1": lambda rng, size: 1 - 10 ** rng.uniform(-6, -1, size),
    "mixed": lambda rng, size: rng.uniform(0.1, 0.9, size),
    "polarised": lambda rng, size: np.abs((rng.random(size) < 0.6) - 10 ** rng.uniform(-6, -1, size)),
    "random": lambda rng, size: rng.uniform(0, 1, size),
    "few": lambda rng, size: np.where(
        rng.random(size) < 0.03, rng.uniform(0.2, 0.8, size), 1.0 * (rng.random(size) < 0.6)
    ),
}


def network(name: str) -> NetworkCost:
    """Return a torchvision model's convolutions with their real channel groups."""
    if name.startswith("one layer"):
        a, b = (Channels(terms=((group, 1),)) for group in ("in", "out"))
        site = Site("conv", ConvShape(1, 2048, 7, 7, 2048), a, b)
        return NetworkCost(name, (site,), {"in": 2048, "out": 2048})
    loaded = load_model(f"torchvision:{name}")
    graph = trace(loaded.module.eval(), torch.zeros(2, *loaded.input_shape))
    groups = {group: made.size for group, made in graph.groups.items()}
    return harvest(loaded, batch=1).regroup(graph.axes(), groups)


def matrices(net: NetworkCost, kind: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return latencies at all counts of every convolution, by a formula."""
    found = {}
    for site in net.sites:
        shape = site.shape
        step = 8 if kind == "step8" else 1
        into = -(-np.arange(shape.in_channels + 1) // step) * step
        out = -(-np.arange(shape.out_channels + 1) // step) * step
        pixels = shape.height * shape.width * shape.batch
        work = np.outer(into, out) * (pixels * np.prod(shape.kernel) / 2e7)
        if shape.depthwise:
            work = into * (pixels * np.prod(shape.kernel) / 2e6)
        waves = 2.5 * np.ceil(np.ceil(out / 64) * max(1, pixels / 128) / 132)
        matrix = (
            2 + work + (0.01 * into + waves[: len(into)] if shape.depthwise else 0.01 * into[:, None] + waves)
        )
        if kind == "raw":
            matrix = matrix * rng.uniform(0.7, 1.3, matrix.shape)
        for side in range(matrix.ndim):
            np.moveaxis(matrix, side, 0)[0] = 0
        found[site.name] = matrix
    return found


def timed(call: Callable[[], Tensor], leaves: list[Tensor], repeats: int) -> dict[str, float]:
    """Return milliseconds of forward and backward: by the clock, and of this thread's processor time."""
    walls, processor = [], []
    for _ in range(repeats + 3):
        for leaf in leaves:
            leaf.grad = None
        wall, own = time.perf_counter(), time.thread_time()
        call().backward()
        walls.append(time.perf_counter() - wall)
        processor.append(time.thread_time() - own)
    walls, processor = walls[3:], processor[3:]
    return {
        "median_ms": 1e3 * float(np.median(walls)),
        "min_ms": 1e3 * min(walls),
        "median_cpu_ms": 1e3 * float(np.median(processor)),
    }


def deviation(exact: ExpectedLatency, fast: ExpectedLatency, regime: str, seeds: int) -> tuple[float, float]:
    """Return the largest relative deviations of value and gradient over the seeds."""
    values, gradients = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        keep = {g: torch.tensor(REGIMES[regime](rng, size)) for g, size in exact.network.groups.items()}
        made = []
        for latency in (exact, fast):
            leaves = {group: gates.clone().requires_grad_() for group, gates in keep.items()}
            value = latency(leaves)
            value.backward()
            gradient = torch.cat([leaf.grad for leaf in leaves.values() if leaf.grad is not None])
            made.append((float(value.detach()), gradient))
        values.append(abs(made[1][0] / made[0][0] - 1))
        gradients.append(float((made[1][1] - made[0][1]).norm() / made[0][1].norm()))
    return max(values), max(gradients)


def rows_of(name: str, repeats: int, seeds: int) -> list[dict[str, object]]:
    """Return the rows of one network."""
    net, rows = network(name), []
    sizes = list(net.groups.values())
    shared = {"network": name, "gates": sum(sizes), "groups": len(sizes), "convolutions": len(net.sites)}
    for kind in MATRICES:
        rng = np.random.default_rng(0)
        made = matrices(net, kind, rng)
        exact, fast = ExpectedLatency(net, made), ExpectedLatency(net, made, mode="fast")
        for regime, draw in REGIMES.items():
            leaves = {
                group: torch.tensor(draw(rng, size), dtype=torch.float32, requires_grad=True)
                for group, size in net.groups.items()
            }
            off = deviation(exact, fast, regime, seeds)
            for mode, latency in (("exact", exact), ("fast", fast)):
                times = timed(lambda f=latency, k=leaves: f(k), list(leaves.values()), repeats)
                found = {"value_deviation": off[0], "gradient_deviation": off[1]} if mode == "fast" else {}
                rows.append({**shared, "matrices": kind, "mode": mode, "gates_are": regime, **times, **found})
        counts = {
            group: torch.tensor(float(rng.uniform(0.1, 1) * size), requires_grad=True)
            for group, size in net.groups.items()
        }
        real = InterpolatedLatency(net, made)
        times = timed(lambda f=real, k=counts: f(k), list(counts.values()), repeats)
        rows.append({**shared, "matrices": kind, "mode": "real", "gates_are": "", **times})
        start = time.thread_time()
        smoothed(made, 16.0)
        spent = 1e3 * (time.thread_time() - start)
        rows.append({**shared, "matrices": kind, "mode": "smoothing to 16 channels", "median_cpu_ms": spent})
    return rows


def main() -> int:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    revision = commit()
    cpu = processor()
    print(
        f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, 1 thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, commit {revision}"
    )
    rows: list[dict[str, object]] = []
    for name in given.networks:
        rows += rows_of(name, given.repeats, given.seeds)
        for row in rows[-len(MATRICES) * (2 * len(REGIMES) + 2) :]:
            numbers = (f"{key} {row[key]:.3g}" for key in FIGURES if key in row)
            print(row["network"], row["matrices"], row["mode"], row.get("gates_are", ""), *numbers, sep="  ")
    about = {
        "cpu": cpu,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": revision,
        "threads": 1,
    }
    lines: list[dict[str, object]] = [
        {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()} | about
        for row in rows
    ]
    write_lines(given.out, lines, fields=[*rows[0], *FIGURES[-2:], *about], end="\r\n")
    return 0


FIGURES = ("median_ms", "min_ms", "median_cpu_ms", "value_deviation", "gradient_deviation")

if __name__ == "__main__":
    raise SystemExit(main())
