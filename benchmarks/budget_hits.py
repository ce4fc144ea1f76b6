"""Does the network that comes out meet the latency budget on the clock?

    python benchmarks/budget_hits.py [--models resnet20 …] [--budgets 0.8 0.7 0.6 0.5 0.4]

For each model: a table of this machine's CPU (``gharial profile``, made once and kept under --work), then for each
budget the decision of ``gharial prune`` with the data-free L1 method: allocate, cut, time, and again with the measured
correction, at most four times. What came out is then timed anew, by fresh sessions, in turns with the original: that
ratio is what is judged, not the one that the decision saw. No training: the weights do not matter to the clock.

Writes one line a pair to budget_hits.csv beside this file as it goes, and passes over pairs that it has. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import commit, profiled, read_lines, versions, write_lines
from untrained import values_of

from pruner.decide import cut, decide
from pruner.methods import open_method
from pruner.proof import backend_of, measure_pair
from pruner.setting import prepare

HERE = Path(__file__).parent
MODELS = ("resnet20", "resnet56", "resnet110", "vgg16_cifar", "digits_resnet")
ROUNDS = 200


def main() -> None:
    """Run every pair that the file lacks, and print the share within 3 %."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--budgets", nargs="+", type=float, default=(0.8, 0.7, 0.6, 0.5, 0.4))
    parser.add_argument("--work", type=Path, default=Path("out/budget_hits"), help="where tables are kept")
    parser.add_argument("--out", type=Path, default=HERE / "budget_hits.csv")
    options = parser.parse_args()
    lines = read_lines(options.out)
    done = {(line["model"], float(line["budget"])) for line in lines}
    for model in options.models:
        if all((model, budget) in done for budget in options.budgets):
            continue
        table = profiled(model, options.work)
        for budget in options.budgets:
            if (model, budget) not in done:
                lines.append(pair(model, budget, table))
                write_lines(options.out, lines)
                print(
                    {name: lines[-1][name] for name in ("model", "budget", "measured", "miss_percent")},
                    flush=True,
                )
    misses = [abs(float(line["miss_percent"])) for line in lines]
    for within in (2, 3, 5):
        print(
            f"within {within} %: {100 * sum(miss <= within for miss in misses) / len(misses):.1f} % of {len(misses)}"
        )


def pair(model: str, budget: float, table: Path) -> dict[str, object]:
    """Prune ``model`` to ``budget`` and time what came out once more."""
    begin = time.monotonic()
    setting = prepare(model, weights=None, table=table, budget=f"latency={budget}x")
    with backend_of(setting.table.environment) as backend:

        def timed(small: object):  # type: ignore[no-untyped-def]
            shape, batch = setting.input_shape, setting.batch
            return measure_pair(backend, setting.module, small, shape, batch=batch, rounds=ROUNDS)  # type: ignore[arg-type]

        worth = values_of(open_method("l1"), setting).channels
        decision = decide(setting, worth, timed, method="l1", seed=0)
        again = timed(cut(setting, decision.plan))
    groups = decision.plan.counts(setting.graph)
    return {
        "model": model,
        "budget": budget,
        "predicted": round(decision.allocation.costs[0] / setting.cost.full, 4),
        "decided": round(decision.proof.ratio, 4),
        "measured": round(again.ratio, 4),
        "miss_percent": round(100 * (again.ratio / budget - 1), 2),
        "before_us": round(again.before.latency_us, 1),
        "after_us": round(again.after.latency_us, 1),
        "networks_timed": next(
            (int(n.split()[-4]) for n in decision.notes if n.startswith("the allocation was repeated")), 1
        ),
        "groups_removed": sum(count == 0 for count in groups.values()),
        "gap": f"{decision.allocation.gap:.1e}",
        "seconds": round(time.monotonic() - begin),
        "device": setting.table.environment.device,
        "commit": commit(),
        "versions": versions("torch", "onnxruntime"),
    }


if __name__ == "__main__":
    main()
