"""A pruning run from start to report, in stages that each resume: rewrite, learn, allocate and prove, recover, prove.

Timing needs no trained weights, so the plan is proven on the clock *before* recovery: the allocated network
is exported and timed beside the original, and when the measured ratio misses the budget the allocator is run
again with the measured correction.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING

from latency_model.console import progress as progress_display
from pruner.data import Splits, load_data
from pruner.decide import cut
from pruner.methods import Method, open_method
from pruner.methods.options import parse_options
from pruner.plan import Plan
from pruner.proof import Proof, backend_of, measure_pair
from pruner.report import load_report
from pruner.request import PruneRequest
from pruner.rundir import Stopwatch, claim, holds
from pruner.served_table import keep_table
from pruner.setting import Setting, prepare
from pruner.stages import Stages, after_edits, decided, learn, recover, rewrite
from pruner.stages.deciding import PLAN
from pruner.summary import finish
from pruner.training.device import choose, require_run
from pruner.training.fabric import open_processes
from pruner.training.reset import reset
from pruner.training.tensorboard import TensorBoard
from pruner.values_file import transferred

if TYPE_CHECKING:
    import torch
    from torch import nn

    from latency_model.table import LatencyTable
    from profiler.backends.base import Backend
    from pruner.report import RunReport
    from pruner.training.processes import Processes

__all__ = ["PruneRequest", "prune"]

ROUNDS = 200


def prune(
    request: PruneRequest,
    out: Path,
    *,
    command: str = "",
    restart: bool = False,
    log_dir: Path | None = None,
    workers: int = 0,
    table: LatencyTable | None = None,
) -> RunReport:
    """Prune a network to its budget and write weights, plan, ONNX file and report into ``out``.

    The same request with the same ``out`` goes on where it was stopped; a finished run returns its report.
    ``seconds`` of the report adds up the parts of an interrupted run, parts that were killed outright not
    included. ``log_dir`` is a folder for TensorBoard's files, ``workers`` are processes that decode image files.
    Under ``torchrun`` all processes train together, the first one allocates, times and writes, and each returns the
    report; all must see the folder ``out``. ``table`` are the rows where ``request.table`` is the name of no file, as
    of a server's: they are kept in ``out``, see ``served_table``.

    Raises ``InputError`` when ``out`` holds a run with other settings, and whatever ``prepare``
    raises; a request that cannot be run leaves ``out`` as it was, ``restart`` or not.
    """
    out, started = Path(out), time.monotonic()
    asked = request.asked()
    if holds(asked, out, restart=restart) and (out / "report.json").is_file():
        return load_report(out)
    # A mistake ends here, before anything is written or thrown away: the corrected command can follow.
    if log_dir is not None:
        TensorBoard(log_dir)
    device = choose(request.device)
    method = open_method(request.method, parse_options(request.options))
    setting = prepare(
        request.model,
        weights=Path(request.weights) if request.weights else None,
        table=table if table is not None else Path(request.table),
        budget=request.budget,
        batch=request.batch,
        precision=request.precision,
        seed=request.seed,
    )
    if request.transfer_from is not None:
        transferred(Path(request.transfer_from), after_edits(request, setting).graph)
    if request.recovery == "scratch":
        reset(copy.deepcopy(setting.module), seed=0)
    splits = load_data(request.data, seed=request.seed, workers=workers)
    splits.expect_classes(setting.loaded.classes, model=setting.loaded.name)
    processes = open_processes(device.type)
    device = processes.place(device)
    require_run(setting.module, setting.input_shape, device, name=setting.loaded.name)
    if not processes.first:
        return _follow(request, method, setting, splits, out, processes, device)
    with backend_of(setting.table.environment, precision=setting.precision) as backend:
        claim(asked, out, restart=restart)
        if table is not None:
            keep_table(table, out)
        clock = Stopwatch(out, started=started)
        try:
            with progress_display() as progress:
                stages = Stages(processes, device, progress, log_dir)
                return _run(
                    request, method, setting, splits, backend, out, stages, command=command, clock=clock
                )
        finally:
            clock.stop()


def _follow(
    request: PruneRequest,
    method: Method,
    setting: Setting,
    splits: Splits,
    out: Path,
    processes: Processes,
    device: torch.device,
) -> RunReport:
    """Take this process's part in the training of ``_run``, which the first process runs."""
    with progress_display(quiet=True) as progress:
        stages = Stages(processes, device, progress, None)
        original = copy.deepcopy(setting.module)
        processes.wait()  # until the first process has claimed the folder
        setting = rewrite(request, method, setting, original, splits, out, stages)
        learn(request, method, setting, original, splits, out, stages)
        processes.wait()  # until it has decided
        plan = Plan.load(out / PLAN)
        small, kept = cut(setting, plan), (setting.graph, plan.keep(setting.graph))
        recover(request, request.recovery_lr(method), small, original, kept, splits, out, stages)
        processes.wait()  # until it has timed and written
    return load_report(out)


def _run(
    request: PruneRequest,
    method: Method,
    setting: Setting,
    splits: Splits,
    backend: Backend,
    out: Path,
    stages: Stages,
    *,
    command: str,
    clock: Stopwatch,
) -> RunReport:
    original = copy.deepcopy(setting.module)

    def measure(small: nn.Module) -> Proof:
        return measure_pair(
            backend,
            original,
            small,
            setting.input_shape,
            batch=setting.batch,
            rounds=ROUNDS,
            precision=setting.precision,
        )

    stages.processes.wait()
    setting = rewrite(request, method, setting, original, splits, out, stages)
    values = learn(request, method, setting, original, splits, out, stages)
    plan, notes = decided(request, setting, values, measure, splits, out, stages)
    stages.processes.wait()
    small, kept = cut(setting, plan), (setting.graph, plan.keep(setting.graph))
    recover(request, request.recovery_lr(method), small, original, kept, splits, out, stages)
    proof = measure(small)
    report = finish(
        setting,
        splits,
        original,
        small,
        plan,
        proof,
        out,
        notes=notes,
        seconds=clock.seconds,
        command=command,
        data=request.data,
        device=stages.device,
    )
    stages.processes.wait()
    return report
