"""The whole flow on what every machine has: scikit-learn's digits, a small residual network, this CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from latency_model.console import progress as progress_display
from latency_model.files import write_atomic
from latency_model.harvest import harvest
from latency_model.model import LatencyModel
from latency_model.zoo import LoadedModel, load_model
from pruner.budget import parse_budgets
from pruner.data import load_data
from pruner.pipeline import PruneRequest, prune
from pruner.report import RunReport, load_report, write_report
from pruner.rundir import Stopwatch, claim
from pruner.training import fit

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["MODEL", "run_demo"]

MODEL = "digits_resnet"
TRAIN_EPOCHS = 12
LEARN_EPOCHS = 10
RECOVER_EPOCHS = 10
BATCH_SIZE = 64
STEP = 8


def run_demo(out: Path, *, budget: str, seed: int, restart: bool = False, command: str = "") -> RunReport:
    """Train, profile, fit, prune and prove into ``out``; return the report of the pruning run.

    Resumes like its parts; a finished demo returns its report at once. Raises ``BudgetError`` for an
    impossible budget and ``InputError`` when ``out`` holds another demo.
    """
    out = Path(out)
    parse_budgets(budget)
    claim({"demo": MODEL, "budget": budget, "seed": seed}, out, restart=restart)
    if (out / "report.json").is_file():
        return load_report(out)
    clock = Stopwatch(out)
    try:
        report = _run(out, budget=budget, seed=seed, command=command)
    finally:
        clock.stop()
    report = dataclasses.replace(report, seconds=clock.seconds)
    write_report(report, out)
    return report


def _run(out: Path, *, budget: str, seed: int, command: str) -> RunReport:
    torch.manual_seed(seed)
    loaded = load_model(MODEL)
    weights, table = out / f"{MODEL}.safetensors", out / "table.parquet"
    with progress_display() as progress:
        if not weights.is_file():
            _train(loaded, weights, seed=seed, progress=progress)
        _profile(loaded, table, progress)
    request = PruneRequest(
        model=MODEL,
        weights=str(weights),
        data="digits",
        table=str(table),
        budget=budget,
        epochs=LEARN_EPOCHS,
        finetune_epochs=RECOVER_EPOCHS,
        batch_size=BATCH_SIZE,
        seed=seed,
        finetune_lr=0.02,
        device="cpu",  # the same demo everywhere
    )
    return prune(request, out / "prune", command=command)


def _train(loaded: LoadedModel, weights: Path, *, seed: int, progress: Progress) -> None:
    assert loaded.module is not None
    fit(
        loaded.module,
        load_data("digits", seed=seed),
        epochs=TRAIN_EPOCHS,
        lr=0.05,
        batch_size=BATCH_SIZE,
        seed=seed,
        state_dir=weights.parent / "train",
        progress=progress,
        description="training",
    )
    tensors = {k: v.contiguous() for k, v in loaded.module.state_dict().items()}
    write_atomic(weights, lambda target: save_file(tensors, target))


def _profile(loaded: LoadedModel, table: Path, progress: Progress) -> None:
    from profiler import export_onnx, open_backend, plan, profile

    assert loaded.module is not None
    network = harvest(loaded, batch=1)
    shapes = plan([network], step=STEP)
    onnx = export_onnx(loaded.module, loaded.input_shape, batch=1)
    whole = (MODEL, onnx, tuple(shape for _, shape in network.shapes()))
    task = progress.add_task("profiling", total=len(shapes), note="")

    def show(done: int, total: int, what: str) -> None:
        progress.update(task, completed=done, total=total, note=what)

    with open_backend("onnxruntime") as backend:
        rows = profile(backend, shapes, out=table, networks=[whole], progress=show)
    LatencyModel.fit([rows]).save(table.parent / "model")
