"""Is Gator better than the controls at the same cost and the same number of epochs?

    python benchmarks/controls.py --weights ../shared/data/checkpoints/resnet20_cifar10.safetensors \
        --data ../shared/data/cifar10 [--methods gator uniform …] [--seeds 0 1 2]

Each cell of methods x seeds is one ``gharial prune`` in a process of its own, in mixed precision (bf16). A method that
learns takes --epochs to learn and --finetune-epochs to recover; one that does not learn recovers for as many as both
together, so that every network has been trained for the same number of epochs.

Writes one line a cell to controls.csv beside this file as it goes, passes over those that it has, and goes on with one
that was interrupted. Two may run side by side with different --seeds.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from common import commit, read_lines

HERE = Path(__file__).parent
METHODS = ("gator", "uniform", "random", "l1", "l2", "taylor", "fpgm")
LEARNS = {"gator"}
KEY = ("model", "budget", "method", "seed", "learn_epochs", "recover_epochs", "settings")
FIELDS = (
    *KEY,
    "top1_before",
    "top1_after",
    "drop",
    "flops_ratio",
    "params_ratio",
    "latency_ratio",
    "blocks_removed",
    "seconds",
    "device",
    "commit",
    "torch",
    "onnxruntime",
    "python",
)


def main() -> None:
    """Run the cells that the file lacks, and print mean and spread of each method."""
    options = arguments()
    for seed in options.seeds:
        for method in options.methods:
            cell = key(options, method, seed)
            if cell in {tuple(line[name] for name in KEY) for line in read_lines(options.out)}:
                continue
            line = run(options, method, seed) | dict(zip(KEY, cell, strict=True))
            append(options.out, line)
            print({name: line[name] for name in ("method", "seed", "drop", "flops_ratio")}, flush=True)
    summarise([line for line in read_lines(options.out) if line["model"] == options.model])


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--table", default="amd-epyc-f26m2-onnxruntime1.32-cpu-1thread")
    parser.add_argument("--budget", default="flops=0.5x")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--finetune-epochs", type=int, default=3)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="settings of the method"
    )
    parser.add_argument("--work", type=Path, default=Path("out/controls"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=HERE / "controls.csv")
    return parser.parse_args()


def key(options: argparse.Namespace, method: str, seed: int) -> tuple[str, ...]:
    """Return what a cell is known by, as it is written."""
    learn = options.epochs if method in LEARNS else 0
    recover = options.epochs + options.finetune_epochs - learn
    cell = (options.model, options.budget, method, seed, learn, recover, " ".join(options.set))
    return tuple(str(part) for part in cell)


def run(options: argparse.Namespace, method: str, seed: int) -> dict[str, str]:
    """Prune once and return what its report says."""
    cell = key(options, method, seed)
    folder = options.work / "-".join(part for part in cell if part).replace("=", "_").replace(" ", "-")
    command = [sys.executable, "-m", "gharial", "prune", options.model, "--weights", str(options.weights)]
    command += ["--data", str(options.data), "--table", options.table, "--budget", options.budget]
    command += ["--method", method, "--seed", str(seed), "--epochs", cell[4], "--finetune-epochs", cell[5]]
    for setting in options.set:
        command += ["--set", setting]
    subprocess.run([*command, "--amp", "--out", str(folder)], check=True)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "top1_before": f"{report['accuracy_before']:.2f}",
        "top1_after": f"{report['accuracy_after']:.2f}",
        "drop": f"{report['accuracy_before'] - report['accuracy_after']:.2f}",
        "flops_ratio": f"{report['macs_after'] / report['macs_before']:.4f}",
        "params_ratio": f"{report['params_after'] / report['params_before']:.4f}",
        "latency_ratio": f"{report['ratio_measured']:.4f}",
        "blocks_removed": " ".join(report["blocks_removed"]),
        "seconds": f"{report['seconds']:.0f}",
        "device": report["device"],
        "commit": commit(),
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
        "python": platform.python_version(),
    }


def append(path: Path, line: dict[str, str]) -> None:
    """Add ``line`` to ``path``, which another process may do at the same time."""
    with path.open("a", encoding="utf-8", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, FIELDS)
        if not file.tell():
            writer.writeheader()
        writer.writerow(line)


def summarise(lines: list[dict[str, str]]) -> None:
    """Print mean and spread of the drop for each budget and method."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for line in lines:
        name = tuple(
            line[field] for field in ("budget", "method", "learn_epochs", "recover_epochs", "settings")
        )
        groups.setdefault(name, []).append(float(line["drop"]))
    for name, drops in sorted(groups.items()):
        spread = statistics.stdev(drops) if len(drops) > 1 else float("nan")
        print(*name, f"drop {statistics.mean(drops):.2f} +- {spread:.2f} points, {len(drops)} seeds")


if __name__ == "__main__":
    main()
