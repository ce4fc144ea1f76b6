"""ResNet-50 at 224 pixels on an H100, random weights, latency budget 0.6: decided here, measured there.

    gharial fit ROWS.parquet --device "NVIDIA H100 80GB HBM3" --networks NETWORKS.json.gz --out out/h100_model
    python benchmarks/h100/resnet50_budget.py --model out/h100_model

decides without any device: per batch it makes a table of the network's convolutions and other operators as the model
predicts them (what ``gharial prune --table`` reads), allocates channels with the data-free L1 method, and takes the
model's estimate of the network that was really cut in place of a measurement, so that the correction of
``gharial prune`` runs as it does on a device. Then it verifies by brute force that no group could keep more channels
at the same predicted latency, and writes ``resnet50_budget/``: ``budget.json``, ``counts.csv`` and two plans for each
batch: one may remove whole residual branches (``any``, what ``gharial prune`` does), one only channels. The tables and
all networks as ONNX go to --work.

    python benchmarks/h100/resnet50_budget.py --measure

on the device times the original and the network of each plan in turns, through the back end that rows are measured
with, and says whether their ratio is within 2 % of the budget (``measured.csv``). With --decide and the tables in
--work, it first lets the device correct the allocation, as ``gharial prune`` does, at most four networks in all.

How the table is made is said in ``predicted_table.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from predicted_table import LAYOUT, Case, case, grid, predicted_table, row
from torch import nn

from latency_model.harvest import harvest
from latency_model.measurement import Measurement
from latency_model.model import LatencyModel
from latency_model.table import LatencyTable
from profiler.backends.base import Backend
from profiler.onnx_export import export_onnx
from pruner.allocate import Allocation
from pruner.budget import Budget
from pruner.cost import latency_cost, macs_cost
from pruner.decide import Decision, cut, decide
from pruner.methods import open_method
from pruner.plan import Plan
from pruner.proof import Proof
from pruner.setting import Setting
from pruner.surgery import apply

sys.path.append(str(Path(__file__).parents[2]))  # the repository's root

from benchmarks.common import commit, versions, write_lines
from benchmarks.untrained import values_of

HERE = Path(__file__).parent
RESULTS = HERE / "resnet50_budget"
NAME, FAMILY = "torchvision:resnet50", "resnet-bottleneck"
BAR = 0.02
# What may go: channels and whole blocks, as gharial prune decides, or channels alone.
REMOVES = ("any", "channels")
_FUZZ = 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of gharial fit; needed without --measure")
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--precision", default="fp16", choices=["fp16", "fp32"])
    parser.add_argument("--budget", default="latency=0.6x")
    parser.add_argument("--measure", action="store_true", help="time the plans; needs the device")
    parser.add_argument(
        "--decide", action="store_true", help="with --measure: let the device correct the allocation"
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("out/resnet50_budget"))
    parser.add_argument("--plans", type=Path, default=RESULTS, help="where the decision is written and read")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where measured.csv goes")
    given = parser.parse_args()
    for folder in (given.plans, given.work, given.out):
        folder.mkdir(parents=True, exist_ok=True)
    if given.measure:
        measure(given)
    elif given.model is None:
        parser.error("give --model, a folder of gharial fit, or --measure")
    else:
        predict(given)


# The decision


def setting_of(found: Case, table: LatencyTable, budget: str, origin: str) -> Setting:
    """Return what ``pruner.setting.prepare`` returns of a saved table, in the precision of the case."""
    fitted = LatencyModel.fit([table], origin=origin)
    return Setting(
        loaded=found.loaded,
        module=found.module,
        graph=found.graph,
        table=table,
        latency=latency_cost(fitted, found.network),
        budget=Budget.parse(budget),
        batch=found.batch,
        model=fitted,
    )


def estimated(model: LatencyModel, found: Case, module: nn.Module) -> Measurement:
    """Return the model's estimate of ``module`` as it is, harvested anew, as if it had been measured."""
    loaded = replace(found.loaded, module=module)
    network = harvest(loaded, batch=found.batch, precision=found.precision, layout=LAYOUT)
    estimate = model.estimate(network, confidence=0.9, family=FAMILY)
    return row(estimate.latency_us, estimate.low_us, estimate.high_us, "regressed")


def inefficient(allocation: Allocation, setting: Setting) -> list[tuple[str, int, int]]:
    """Return (group, count, larger count) for groups that could keep more at no more predicted latency."""
    cost, counts = setting.latency, dict(allocation.counts)
    now = cost.value(counts)
    found = []
    for name, size in cost.network.groups.items():
        for count in range(counts[name] + 1, size + 1):
            if counts[name] and cost.value({**counts, name: count}) <= now * (1 + _FUZZ):
                found.append((name, counts[name], count))
    return found


def disagreement(model: LatencyModel, setting: Setting, found: Case) -> float:
    """Return the largest relative difference of the table's sum and the model's estimate, at 20 random networks."""
    rng = np.random.default_rng(0)
    worst = 0.0
    prices = LatencyModel.fit([setting.table])
    network = replace(
        found.network,
        sites=tuple(replace(s, shape=replace(s.shape, layout=LAYOUT)) for s in found.network.sites),
    )
    for number in range(20):
        counts = {
            name: int(rng.choice(grid(size))) if number else size
            for name, size in found.network.groups.items()
        }
        ours = prices.estimate(found.network, counts).latency_us
        worst = max(worst, abs(ours / model.estimate(network, counts).latency_us - 1))
    return worst


def predict(given: argparse.Namespace) -> None:
    begin = time.monotonic()
    model = LatencyModel.load(given.model)
    report: list[dict[str, object]] = []
    lines: list[dict[str, object]] = []
    for batch in given.batches:
        start = time.monotonic()
        found = case(NAME, batch, given.precision)
        path = given.work / f"table_batch{batch}.parquet"
        predicted_table(model, found).save(path)
        table = LatencyTable.load(path)
        setting = setting_of(found, table, given.budget, str(path))
        facts: dict[str, object] = {
            "batch": batch,
            "rows": len(table),
            "table_against_model": float(f"{disagreement(model, setting, found):.2e}"),
            "table_seconds": round(time.monotonic() - start, 1),
        }
        before = estimated(model, found, found.module)
        export(given.work / f"before_batch{batch}.onnx", found, found.module)
        counts = {}
        for what in REMOVES:
            start = time.monotonic()
            decision, tried = decided(model, found, path, given.budget, before, what)
            small = cut(setting, decision.plan)
            decision.plan.save(given.plans / f"plan_batch{batch}_{what}.json")
            export(given.work / f"after_batch{batch}_{what}.onnx", found, small)
            wasteful = inefficient(decision.allocation, setting)
            counts[what] = decision.plan.counts(setting.graph)
            report.append(
                {**facts, "removes": what}
                | summary(decision, setting, tried, found)
                | {
                    "groups_that_could_keep_more": wasteful,
                    "decision_seconds": round(time.monotonic() - start, 1),
                }
            )
            print(json.dumps(report[-1], indent=1), flush=True)
        lines += [
            {"batch": batch, "group": name, "channels": size} | {what: counts[what][name] for what in REMOVES}
            for name, size in setting.graph.sizes().items()
        ]
    whole = {
        "network": NAME,
        "weights": "random, seed 0",
        "budget": given.budget,
        "precision": given.precision,
        "device": model.table.environment.device,
        "method": "l1",
        "cases": report,
        "seconds": round(time.monotonic() - begin, 1),
        "commit": commit(),
        "versions": versions("torch"),
    }
    (given.plans / "budget.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    write_lines(given.plans / "counts.csv", lines)


def decided(
    model: LatencyModel, found: Case, table: Path, budget: str, before: Measurement, what: str
) -> tuple[Decision, list[float]]:
    """Return the decision with the model's estimates in place of measurements, and the ratios of all networks."""
    tried: list[float] = []

    def guessed(small: nn.Module) -> Proof:
        proof = Proof(before, estimated(model, found, small))
        tried.append(proof.ratio)
        return proof

    limited = removing(found, what)
    setting = setting_of(limited, LatencyTable.load(table), budget, str(table))
    return decide(
        setting, values_of(open_method("l1"), setting).channels, guessed, method="l1", seed=0
    ), tried


def removing(found: Case, what: str) -> Case:
    """Return the case without removable blocks, if only channels may go."""
    return found if what == "any" else replace(found, graph=replace(found.graph, blocks=()))


def export(path: Path, found: Case, module: nn.Module) -> None:
    path.write_bytes(
        export_onnx(module, found.loaded.input_shape, batch=found.batch, precision=found.precision)
    )


def summary(decision: Decision, setting: Setting, guesses: list[float], found: Case) -> dict[str, object]:
    before, after = decision.proof.before, decision.proof.after
    macs = macs_cost(found.network)
    counts = decision.plan.counts(setting.graph)
    kept = [count for count in counts.values() if count]
    return {
        "batch": found.batch,
        "before_us": round(before.latency_us, 1),
        "before_90_percent_us": [round(before.low_us, 1), round(before.high_us, 1)],
        "after_us": round(after.latency_us, 1),
        "after_90_percent_us": [round(after.low_us, 1), round(after.high_us, 1)],
        "ratio": round(decision.proof.ratio, 4),
        "ratio_of_table": round(decision.allocation.costs[0] / setting.cost.full, 4),
        "ratio_if_only_one_errs": [
            round(after.low_us / before.latency_us, 3),
            round(after.high_us / before.latency_us, 3),
        ],
        "ratios_tried": [round(ratio, 4) for ratio in guesses],
        "macs_ratio": round(macs.value(counts) / macs.full, 4),
        "gap": decision.allocation.gap,
        "blocks_removed": list(decision.plan.blocks),
        "groups": len(counts),
        "groups_whole": sum(counts[name] == size for name, size in setting.graph.sizes().items()),
        "counts_of_8": sum(count % 8 == 0 for count in kept) / len(kept),
        "notes": list(decision.notes),
    }


# On the device


def measure(given: argparse.Namespace) -> None:
    from profiler import open_backend

    lines: list[dict[str, object]] = []
    with open_backend("onnxruntime", device="cuda:0", precision=given.precision) as backend:
        for batch in given.batches:
            found = case(NAME, batch, given.precision)
            for what in REMOVES:
                lines += measured(given, backend, found, what)
                write_lines(given.out / ("measured_corrected.csv" if given.decide else "measured.csv"), lines)


def measured(given: argparse.Namespace, backend: Backend, found: Case, what: str) -> list[dict[str, object]]:
    """Time the network of a plan, twice; with --decide after the device has corrected the allocation."""

    def timed(small: nn.Module) -> Proof:
        models = [
            export_onnx(module, found.loaded.input_shape, batch=found.batch, precision=given.precision)
            for module in (found.module, small)
        ]
        first, second = backend.time_networks(models, rounds=given.rounds, run_id="budget")
        return Proof(first, second)

    if given.decide:
        path = given.work / f"table_batch{found.batch}.parquet"
        setting = setting_of(removing(found, what), LatencyTable.load(path), given.budget, str(path))
        plan = decide(
            setting, values_of(open_method("l1"), setting).channels, timed, method="l1", seed=0
        ).plan
        plan.save(given.out / f"plan_batch{found.batch}_{what}_corrected.json")
    else:
        plan = Plan.load(given.plans / f"plan_batch{found.batch}_{what}.json")
    small = apply(found.module, found.graph, plan)
    lines: list[dict[str, object]] = []
    for proof in (timed(small), timed(small)):
        aim = Budget.parse(given.budget).ratio(proof.before.latency_us)
        lines.append(
            {
                "batch": found.batch,
                "removes": what,
                "plan": "corrected on the device" if given.decide else "predicted",
                "budget": round(aim, 4),
                "before_us": round(proof.before.latency_us, 2),
                "after_us": round(proof.after.latency_us, 2),
                "measured": round(proof.ratio, 4),
                "miss_percent": round(100 * (proof.ratio / aim - 1), 2),
                "within_2_percent": abs(proof.ratio / aim - 1) <= BAR,
                "flags": " ".join(sorted({*proof.before.flags, *proof.after.flags})),
                "environment": backend.environment.text,
                "commit": commit(),
            }
        )
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main()
