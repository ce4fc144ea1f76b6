"""What Torch-Pruning 1.6.1 gets on the clock at a FLOPs budget, beside Gharial at the same FLOPs and at a latency.

    pip install --target TP --no-deps torch-pruning==1.6.1
    PYTHONPATH=TP python benchmarks/torch_pruning_latency.py [--models resnet20 …] [--budgets 0.7 0.5 0.3] \
        [--weights ../shared/data/checkpoints] [--work out/budget_hits]

For each model and FLOPs budget (multiply-accumulates of the convolutions):

- ``tp``: Torch-Pruning's ``BasePruner`` (of which ``MagnitudePruner`` is another name) with
  ``GroupMagnitudeImportance(p=2)``, the classifier ignored, 400 steps of which as many are taken as reach the budget,
  the way of its reproduction scripts; with the same share of every layer (local) or all channels ranked together
  (global), and both again with ``round_to=8``, which its README recommends "for acceleration".
- ``gharial flops``: ``gharial prune --method l2 --budget flops=``, and the same with ``latency=1x`` beside it, which
  restricts the counts to those that the device runs efficiently.
- ``gharial latency``: ``--budget latency=`` with the same figure, and with the latency that local Torch-Pruning
  happened to reach, where that is below 1.

Nothing is trained: weights do not matter to the clock, and Gharial's own weighing of groups by the loss needs data, so
groups compete by their values here. Weights are those of --weights where there are some (MODEL_cifar10.safetensors),
else random ones of seed 0: then a global ranking says nothing of what a trained network would lose.

Each network is exported the same way and timed by fresh sessions in turns with the original, twice (``measured``,
``again``). ``predicted`` is the table's prediction for padding to efficient counts, which Torch-Pruning does not do.
``of_8`` is the share of groups whose count is a multiple of 8. ``seconds`` are those to the network, its timing in
``decide`` included; one run of Torch-Pruning gives the networks of all budgets, so only its first has them.
Writes torch_pruning_latency.csv beside this file as it goes, and passes over lines that it has.

    … --agreement

writes torch_pruning_agreement.csv instead: whether Gharial's surgery with the channels that Torch-Pruning keeps gives
its weights, number by number, and how many channels change when it comes in by ``--method`` (torch_pruning_method.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import commit, profiled, read_lines, versions, write_lines
from torch import nn
from untrained import values_of

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.torch_pruning_method import (  # noqa: E402
    Config,
    GlobalTorchPruning,
    Pruned,
    TorchPruning,
    torch_pruning,
)
from latency_model.errors import BudgetError  # noqa: E402
from profiler.backends.base import Backend  # noqa: E402
from pruner.confidence import allocate_within  # noqa: E402
from pruner.cost import macs_cost  # noqa: E402
from pruner.decide import cut, decide  # noqa: E402
from pruner.methods import open_method  # noqa: E402
from pruner.proof import Proof, backend_of, measure_pair  # noqa: E402
from pruner.setting import Setting, kept_channels, prepare  # noqa: E402
from pruner.surgery import remove  # noqa: E402

MODELS = ("resnet20", "resnet56", "torchvision:resnet18", "torchvision:mobilenet_v2")
SLOW_US, ROUNDS, SLOW_ROUNDS = 5_000, 200, 60
VARIANTS = {
    "tp local": (False, None),
    "tp global": (True, None),
    "tp local round_to=8": (False, 8),
    "tp global round_to=8": (True, 8),
}
# What Torch-Pruning made of one model, by variant and budget.
Theirs = dict[tuple[str, float], Pruned]


@dataclass(frozen=True)
class Case:
    """A model and a FLOPs budget: ``had`` are the lines that there are already, by pruner."""

    model: str
    weights: Path | None
    table: Path
    budget: float
    budgets: list[float]
    theirs: Theirs
    had: Mapping[str, Mapping[str, Any]]

    def setting(self, budget: str | None = None) -> Setting:
        """Return the network with its table and ``budget``, by default that of multiply-accumulates."""
        asked = budget or f"flops={self.budget}x"
        return prepare(self.model, weights=self.weights, table=self.table, budget=asked)


@dataclass(frozen=True)
class Result:
    """A network to be timed: the module, its counts (0 in removed blocks), and the budget it was made for."""

    module: nn.Module
    counts: dict[str, int]
    asked: str


def main() -> None:
    """Run every line that the file lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--budgets", nargs="+", type=float, default=(0.7, 0.5, 0.3))
    parser.add_argument("--weights", type=Path, help="folder of MODEL_cifar10.safetensors")
    parser.add_argument("--work", type=Path, default=Path("out/budget_hits"), help="where tables are kept")
    parser.add_argument("--agreement", action="store_true", help="compare channels instead of latencies")
    options = parser.parse_args()
    name = "torch_pruning_agreement.csv" if options.agreement else "torch_pruning_latency.csv"
    lines = read_lines(HERE / name)
    done = {(line["model"], float(line["flops_budget"]), line["pruner"]): line for line in lines}
    for model in options.models:
        table = profiled(model, options.work)
        weights = None if options.weights is None else options.weights / f"{model}_cifar10.safetensors"
        weights = weights if weights is not None and weights.is_file() else None
        theirs: Theirs = {}
        budgets = sorted(options.budgets, reverse=True)
        for budget in budgets:
            had = {pruner: line for (m, b, pruner), line in done.items() if (m, b) == (model, budget)}
            making = agreements if options.agreement else latencies
            for line in making(Case(model, weights, table, budget, budgets, theirs, had)):
                line |= {
                    "weights": "trained" if weights else "random",
                    "commit": commit(),
                    "versions": versions("torch", "onnxruntime", "torch-pruning"),
                }
                lines.append(line)
                write_lines(HERE / name, lines)
                print({key: line[key] for key in list(line)[:9]}, flush=True)


def latencies(case: Case) -> Iterator[dict[str, object]]:
    """Yield a line for each pruner that there is none of yet."""
    setting, budget = case.setting(), case.budget
    macs = macs_cost(setting.latency.network)
    parameters = sum(p.numel() for p in setting.module.parameters())
    rounds = SLOW_ROUNDS if setting.latency.full > SLOW_US else ROUNDS
    with backend_of(setting.table.environment) as backend:

        def line(pruner: str, found: Result, seconds: float) -> dict[str, Any]:
            proofs = [timed(backend, setting, found.module, rounds) for _ in range(2)]
            return {
                "model": case.model,
                "flops_budget": budget,
                "pruner": pruner,
                "asked": found.asked,
                "macs": round(macs.value(found.counts) / macs.full, 4),
                "params": round(sum(p.numel() for p in found.module.parameters()) / parameters, 4),
                "measured": round(proofs[0].ratio, 4),
                "again": round(proofs[1].ratio, 4),
                "predicted": round(setting.latency.value(found.counts) / setting.latency.full, 4),
                "before_us": round(proofs[0].before.latency_us, 1),
                "after_us": round(proofs[0].after.latency_us, 1),
                "of_8": round(
                    sum(c % 8 == 0 for c in found.counts.values() if c)
                    / sum(c > 0 for c in found.counts.values()),
                    3,
                ),
                "groups_removed": sum(count == 0 for count in found.counts.values()),
                "counts": " ".join(map(str, found.counts.values())),
                "seconds": round(seconds, 1),
                "device": setting.table.environment.device,
            }

        theirs = case.had.get("tp local")
        for pruner in VARIANTS:
            if pruner in case.had:
                continue
            begin = time.monotonic()
            pruned = by_torch_pruning(case, setting, pruner)
            counts = {name: len(channels) for name, channels in pruned.keep(setting.graph).items()}
            found = Result(pruned.module, counts, setting.budgets)
            made = line(pruner, found, time.monotonic() - begin)
            if pruner == "tp local":
                theirs = made
            yield made
        assert theirs is not None
        local = min(float(theirs["measured"]), float(theirs["again"]))
        asked = {
            "gharial flops": f"flops={budget}x",
            "gharial flops, efficient counts": f"latency=1x,flops={budget}x",
            "gharial latency": f"latency={budget}x",
        }
        if local < 1:
            asked["gharial latency as tp local"] = f"latency={local}x"
        for pruner, text in asked.items():
            if pruner in case.had:
                continue
            begin = time.monotonic()
            try:
                found = by_gharial(case.setting(text), backend, text, rounds)
            except BudgetError as error:
                print(f"{case.model} {pruner}: {error}", flush=True)
                continue
            yield line(pruner, found, time.monotonic() - begin)


def timed(backend: Backend, setting: Setting, small: nn.Module, rounds: int) -> Proof:
    """Time ``small`` in turns with the original, in fresh sessions."""
    return measure_pair(
        backend, setting.module, small, setting.input_shape, batch=setting.batch, rounds=rounds
    )


def by_torch_pruning(case: Case, setting: Setting, variant: str) -> Pruned:
    """Return what Torch-Pruning makes of the budget; one run gives the networks of all budgets."""
    if (variant, case.budget) not in case.theirs:
        everywhere, round_to = VARIANTS[variant]
        found = torch_pruning(
            setting.module,
            setting.graph,
            setting.cost,
            case.budgets,
            everywhere=everywhere,
            config=Config(round_to),
        )
        case.theirs.update({(variant, asked): p for asked, p in zip(case.budgets, found, strict=True)})
    return case.theirs[variant, case.budget]


def by_gharial(setting: Setting, backend: Backend, text: str, rounds: int) -> Result:
    """Prune by Gharial's decision with the values of the method l2."""
    values = values_of(open_method("l2"), setting)
    decision = decide(
        setting,
        values.channels,
        lambda small: timed(backend, setting, small, rounds),
        method="l2",
        seed=0,
    )
    return Result(cut(setting, decision.plan), dict(decision.plan.counts(setting.graph)), text)


def agreements(case: Case) -> Iterator[dict[str, object]]:
    """Yield, for each variant that there is none of yet, how near the method's network is to Torch-Pruning's own."""
    setting = case.setting()
    for pruner, (everywhere, round_to) in VARIANTS.items():
        if pruner in case.had:
            continue
        cost, config = setting.cost, Config(round_to)
        pruned = by_torch_pruning(case, setting, pruner)
        keep = pruned.keep(setting.graph)
        ours = remove(setting.module, setting.graph, keep).state_dict()
        other = pruned.module.state_dict()
        values = values_of((GlobalTorchPruning if everywhere else TorchPruning)(config), setting)
        found = allocate_within(
            setting, setting.budget.target(cost.full), values.channels, shares=values.shares
        )
        kept = kept_channels(setting, values.channels, found.counts)
        both = {name: (set(keep[name]), set(kept[name])) for name in keep}
        yield {
            "model": case.model,
            "flops_budget": case.budget,
            "pruner": pruner,
            "weights_equal": ours.keys() == other.keys()
            and all(
                ours[key].shape == other[key].shape and torch.equal(ours[key], other[key]) for key in ours
            ),
            "macs": round(cost.value({n: len(c) for n, c in keep.items()}) / cost.full, 4),
            "macs_by_method": round(found.costs[0] / cost.full, 4),
            "channels": sum(map(len, keep.values())),
            "channels_added": sum(len(b - a) for a, b in both.values()),
            "channels_lost": sum(len(a - b) for a, b in both.values()),
            "groups_that_cross": sum(bool(a - b) and bool(b - a) for a, b in both.values()),
        }


if __name__ == "__main__":
    main()
