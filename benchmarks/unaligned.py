"""Is a network with fewer channels faster? The chosen counts against the same less a few channels each.

    python benchmarks/unaligned.py [--models resnet20 …] [--budgets 0.8 0.6]

For each model the allocation of ``gharial prune`` under a latency budget (tables as budget_hits.py makes them, values
of the L1 method), and beside it networks that have 1, 2 or 3 channels less in every group: fewer multiply-accumulates
and parameters. All are timed in turns with the whole network. Writes unaligned.csv beside this file. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from budget_hits import MODELS, ROUNDS
from common import commit, profiled, versions, write_lines
from untrained import values_of

from pruner.allocate import allocate
from pruner.methods import open_method
from pruner.proof import backend_of, measure_pair
from pruner.setting import kept_channels, prepare
from pruner.surgery import remove

HERE = Path(__file__).parent
LESS = (0, 1, 2, 3)


def main() -> None:
    """Time every network and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--budgets", nargs="+", type=float, default=(0.8, 0.6))
    parser.add_argument("--work", type=Path, default=Path("out/budget_hits"), help="where tables are kept")
    options = parser.parse_args()
    lines: list[dict[str, object]] = []
    for model in options.models:
        table = profiled(model, options.work)
        for budget in options.budgets:
            lines += cases(model, budget, table)
            write_lines(HERE / "unaligned.csv", lines)


def cases(model: str, budget: float, table: Path) -> list[dict[str, object]]:
    """Return a line for the chosen counts, and one for each that has less."""
    setting = prepare(model, weights=None, table=table, budget=f"latency={budget}x")
    worth = values_of(open_method("l1"), setting).channels
    limits = [(setting.cost, budget * setting.cost.full)]
    found = allocate(limits, worth, setting.blocks, floors=setting.floors)  # type: ignore[arg-type]
    lines: list[dict[str, object]] = []
    with backend_of(setting.table.environment) as backend:
        for less in LESS:
            counts = {name: max(count - less, 1) if count else 0 for name, count in found.counts.items()}
            keep = kept_channels(setting, worth, counts)
            small = remove(setting.module, setting.graph, keep, blocks=found.blocks)
            proof = measure_pair(
                backend, setting.module, small, setting.input_shape, batch=setting.batch, rounds=ROUNDS
            )
            lines.append(
                {
                    "model": model,
                    "budget": budget,
                    "channels_less": less,
                    "parameters": sum(p.numel() for p in small.parameters()),
                    "measured_ratio": round(proof.ratio, 4),
                    "against_chosen": round(proof.ratio / float(str(lines[0]["measured_ratio"])), 4)
                    if lines
                    else 1.0,
                    "device": setting.table.environment.device,
                    "commit": commit(),
                    "versions": versions("torch", "onnxruntime"),
                }
            )
            print({name: lines[-1][name] for name in list(lines[-1])[:6]}, flush=True)
    return lines


if __name__ == "__main__":
    main()
