"""How well a whole grid is reconstructed from a twentieth of its points: the adaptive plan and two controls.

    python benchmarks/adaptive.py --out benchmarks/adaptive

Truths: ResNet-50's convolutions at every 8th channel count, batch 8 and 32, on a formula with an H100's
manners (adaptive/h100_like.py), twice: ``settled`` (the search nearly always finds the fastest kernel, as
after repeated builds) and ``one-search`` (the search as calibrated on single runs: some points have a bad
kernel that nothing but measuring them can tell); and whole grids measured on a CPU (adaptive/cpu_grids.csv),
whose points are themselves noisy. Every measurement that the plan sees has noise; the formula's truths have not.

Controls: ``random`` points, as many at every site as the plan took, with the same reconstruction; ``even``, the same
but the budget's part of every site (four at least); ``regular``, a coarse grid of the plan's number of points and
bilinear interpolation of the logarithm. ``floor`` is what remains with all the other
points known: for one-search the median of the formula over other draws of the search, for the CPU each point
left out of its full grid.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import write_lines
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "adaptive")]

from h100_like import PARAMETERS, Parameters, grid_truth, noisy_row  # noqa: E402

from latency_model.kriging import fit_weights  # noqa: E402
from latency_model.measurement import Measurement  # noqa: E402
from latency_model.reconstruct import GridModel, Reconstruction, reconstruct_many  # noqa: E402
from latency_model.shapes import ConvShape  # noqa: E402
from profiler.adaptive import AdaptivePlan, SiteGrid, profile_adaptively, site_grids  # noqa: E402

SETTLED = replace(PARAMETERS, search_noise=0.005, offered=1.0)
METHODS = ("adaptive", "random", "even", "regular")
BARS = {"mape": 0.02, "p99": 0.08}
FIELDS = ["truth", "batch", "method", "site", "points", "measured", "part", "mape", "p99", "max"]
FIELDS += ["coverage", "median_width"]


@dataclass
class Site:
    grid: SiteGrid
    truth: NDArray[np.float64]
    rows: Mapping[ConvShape, Measurement]  # what measuring each point would give


def resnet50(batch: int) -> list[ConvShape]:
    """Return the convolutions of ResNet-50 v1.5, in fp16, once each; the stem has a fixed input."""
    found: dict[ConvShape, None] = {}

    def add(a: int, b: int, size: int, kernel: int, stride: int, pattern: str) -> None:
        found[
            ConvShape(
                batch, a, size, size, b, (kernel,) * 2, (stride,) * 2, (kernel // 2,) * 4,
                pattern=pattern, precision="fp16", layout="nhwc",
            )
        ] = None  # fmt: skip

    inputs, size = 64, 56
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            add(inputs, width, size, 1, 1, "conv+bias+relu")
            add(width, width, size, 3, step, "conv+bias+relu")
            if block == 0:
                add(inputs, 4 * width, size, 1, step, "conv+bias")
            size //= step
            add(width, 4 * width, size, 1, 1, "conv+bias+add+relu")
            inputs = 4 * width
    return list(found)


def formula(batch: int, parameters: Parameters, seed: int) -> list[Site]:
    # Sites that two convolutions share (256->64, 64->64 at 56x56) are one grid, the larger.
    wanted = [
        full.with_channels(a, b)
        for full in resnet50(batch)
        for a in range(8, full.in_channels + 1, 8)
        for b in range(8, full.out_channels + 1, 8)
    ]
    rng, found = np.random.default_rng(seed), []
    for grid in site_grids(wanted):
        us, names = grid_truth(grid.full, grid.inputs, grid.outputs, parameters=parameters, seed=seed)
        rows = {}
        for i, j in np.argwhere(grid.wanted):
            rows[grid.shape((i, j))] = noisy_row(us[i, j], names[i, j], rng.random(), rng.standard_normal())
        found.append(Site(grid, us, rows))
    return found


def measured_cpu(path: Path) -> list[Site]:
    rows: dict[ConvShape, Measurement] = {}
    with path.open(newline="") as stream:
        for line in csv.DictReader(stream):
            us, low, high = (float(line[k]) for k in ("latency_us", "low_us", "high_us"))
            shape = ConvShape.parse(line["config"])
            rows[shape] = Measurement(us, low, high, low, us, us, high, low, 25, "host-increment")
    found = []
    for grid in site_grids(rows):
        us = np.full(grid.wanted.shape, np.nan)
        for i, j in np.argwhere(grid.wanted):
            us[i, j] = rows[grid.shape((i, j))].latency_us
        found.append(Site(grid, us, {s: r for s, r in rows.items() if s.site == grid.full.site}))
    return found


def adaptive(sites: Sequence[Site], budget: float) -> list[dict[ConvShape, Measurement]]:
    every = {shape: row for site in sites for shape, row in site.rows.items()}
    rows: dict[ConvShape, Measurement] = {}

    def measure(batch: Sequence[ConvShape]) -> tuple[dict[ConvShape, Measurement], tuple[()]]:
        rows.update((shape, every[shape]) for shape in batch)
        return rows, ()

    profile_adaptively(measure, AdaptivePlan([site.grid for site in sites], budget))
    return [{s: r for s, r in rows.items() if s.site == site.grid.full.site} for site in sites]


def at_random(sites: Sequence[Site], counts: Sequence[int], seed: int) -> list[dict[ConvShape, Measurement]]:
    rng, found = np.random.default_rng(seed), []
    for site, count in zip(sites, counts, strict=True):
        shapes = list(site.rows)
        found.append({shapes[i]: site.rows[shapes[i]] for i in rng.permutation(len(shapes))[:count]})
    return found


def regular(site: Site, count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return bilinear interpolation of the logarithm between the points of a coarse grid with the ends."""
    rows, columns = site.truth.shape
    best, down, across = 0, 1, 1
    for i in range(1, rows + 1):
        j = min(count // i, columns)
        # As square as the grid itself is.
        score = min(i * j, count) - abs(i / rows - j / columns) * count / 2 if j else -1
        if score > best:
            best, down, across = score, i, j
    i = np.unique(np.linspace(0, rows - 1, down).round().astype(int)) if down > 1 else np.array([rows - 1])
    j = (
        np.unique(np.linspace(0, columns - 1, across).round().astype(int))
        if across > 1
        else np.array([columns - 1])
    )
    measured = np.zeros(site.truth.shape, dtype=bool)
    measured[np.ix_(i, j)] = True
    values = np.array([[np.log(site.rows[site.grid.shape((a, b))].latency_us) for b in j] for a in i])
    if len(i) == 1:
        i, values = np.array([i[0] - 1, i[0]]), np.vstack([values, values])
    if len(j) == 1:
        j, values = np.array([j[0] - 1, j[0]]), np.hstack([values, values])
    points = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    interpolate = RegularGridInterpolator((i, j), values, bounds_error=False, fill_value=None)
    return np.exp(interpolate(points)), measured


def reconstructed(
    sites: Sequence[Site], rows: Sequence[Mapping[ConvShape, Measurement]]
) -> list[Reconstruction]:
    return reconstruct_many(
        [(found, list(s.grid.inputs), list(s.grid.outputs)) for s, found in zip(sites, rows, strict=True)]
    )


def errors(site: Site, us: NDArray, measured: NDArray) -> NDArray[np.float64]:
    """Return relative errors of the wanted points; a point that was measured has none."""
    return np.where(measured, 0.0, np.abs(us / site.truth - 1))[site.grid.wanted]


def summary(error: NDArray) -> dict[str, float]:
    return {
        "mape": float(error.mean()),
        "p99": float(np.quantile(error, 0.99)),
        "max": float(error.max()),
    }


def floor(name: str, sites: Sequence[Site], seed: int) -> dict[str, float] | None:
    found = []
    if name == "one-search":
        for site in sites:
            draws = [
                grid_truth(site.grid.full, site.grid.inputs, site.grid.outputs, seed=seed + 1 + k)[0]
                for k in range(9)
            ]
            found.append(errors(site, np.median(draws, axis=0), np.zeros(site.truth.shape, bool)))
    elif name == "cpu":
        models = [GridModel(s.rows, list(s.grid.inputs), list(s.grid.outputs)) for s in sites]
        weights = fit_weights([model.sample for model in models])
        for model in models:
            found.append(np.abs(np.expm1(-model.condition(weights).residual)))
    return summary(np.concatenate(found)) if found else None


def judge(
    name: str, batch: int, sites: Sequence[Site], budget: float, seed: int
) -> tuple[list[dict[str, object]], dict[str, object]]:
    start = time.perf_counter()
    rows = adaptive(sites, budget)
    planned = time.perf_counter() - start
    start = time.perf_counter()
    results = {"adaptive": reconstructed(sites, rows)}
    seconds = time.perf_counter() - start
    counts = [len(found) for found in rows]
    results["random"] = reconstructed(sites, at_random(sites, counts, seed))
    even = [max(4, round(budget * site.grid.size)) for site in sites]
    results["even"] = reconstructed(sites, at_random(sites, even, seed))
    lines, pooled = [], {}
    for method in METHODS:
        every, inside = [], []
        for index, site in enumerate(sites):
            if method == "regular":
                us, measured = regular(site, counts[index])
                coverage = width = float("nan")
            else:
                found = results[method][index]
                us, measured = found.latency_us, found.measured
                free = site.grid.wanted & ~measured
                held = ((found.low_us <= site.truth) & (site.truth <= found.high_us))[free]
                inside.append(held)
                coverage = float(held.mean()) if held.size else float("nan")
                width = (
                    float(np.median((found.high_us / found.low_us)[free] - 1)) if held.size else float("nan")
                )
            error = errors(site, us, measured)
            every.append(error)
            n = int((measured & site.grid.wanted).sum())
            lines.append(
                {
                    "truth": name, "batch": batch, "method": method, "site": site.grid.full.text,
                    "points": site.grid.size, "measured": n, "part": n / site.grid.size, **summary(error),
                    "coverage": coverage, "median_width": width,
                }
            )  # fmt: skip
        sites_mape = [float(e.mean()) for e in every]
        all_errors = np.concatenate(every)
        pooled[method] = {
            "part": sum(int(x["measured"]) for x in lines if x["method"] == method)
            / sum(s.grid.size for s in sites),
            **summary(all_errors),
            "mean_mape_of_sites": float(np.mean(sites_mape)),
            "sites_within_both_bars": sum(
                e.mean() <= BARS["mape"] and np.quantile(e, 0.99) <= BARS["p99"] for e in every
            ),
            "sites": len(sites),
            "coverage": float(np.concatenate(inside).mean()) if inside else None,
        }
    return lines, {
        "truth": name, "batch": batch, "budget": budget, "seed": seed, "plan_seconds": round(planned, 1),
        "reconstruct_seconds": round(seconds, 1), "floor": floor(name, sites, seed), **pooled,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of results.csv and results.json")
    parser.add_argument("--budget", type=float, nargs="+", default=[0.05])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--truth", nargs="+", default=["settled", "one-search", "cpu"])
    arguments = parser.parse_args()
    lines, reports = [], []
    for budget in arguments.budget:
        for name in arguments.truth:
            for batch in (1,) if name == "cpu" else (8, 32):
                if name == "cpu":
                    sites = measured_cpu(HERE / "adaptive" / "cpu_grids.csv")
                else:
                    sites = formula(batch, SETTLED if name == "settled" else PARAMETERS, arguments.seed)
                found, report = judge(name, batch, sites, budget, arguments.seed)
                lines += [{"budget": budget, **line} for line in found]
                reports.append(report)
                for method in METHODS:
                    r = report[method]
                    print(
                        f"{name:10} batch {batch:2} {method:8} {r['part']:6.2%} measured: MAPE {r['mape']:6.2%}, "
                        f"p99 {r['p99']:6.2%}, max {r['max']:5.0%}, mean MAPE of sites {r['mean_mape_of_sites']:6.2%}, "
                        f"{r['sites_within_both_bars']}/{r['sites']} sites within both bars, coverage "
                        + (f"{r['coverage']:.1%}" if r["coverage"] is not None else "-"),
                        flush=True,
                    )
                if report["floor"]:
                    print(
                        f"{'':10} floor: MAPE {report['floor']['mape']:.2%}, p99 {report['floor']['p99']:.2%}",
                        flush=True,
                    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    shown = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines]
    write_lines(arguments.out / "results.csv", shown, fields=["budget", *FIELDS], end="\r\n")
    (arguments.out / "results.json").write_text(json.dumps(reports, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
