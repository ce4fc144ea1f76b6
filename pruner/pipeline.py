"""A pruning run from start to report, in stages that each resume: learn, allocate and prove, recover, prove.

Timing needs no trained weights, so the plan is proven on the clock *before* recovery: the allocated network
is exported and timed beside the original, and when the measured ratio misses the budget the allocator is run
again with the measured correction.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_model.console import progress as progress_display
from latency_model.errors import InputError
from pruner.data import Splits, load_data
from pruner.decide import ATTEMPTS, cut, decide
from pruner.methods import Method, Problem, Values, open_method
from pruner.methods.options import parse_options
from pruner.plan import Plan
from pruner.proof import Proof, backend_of, measure_pair
from pruner.report import load_report
from pruner.rundir import Stopwatch, claim, holds, record, recorded
from pruner.sensitivity import images_for, measure_losses, sample
from pruner.served_table import keep_table
from pruner.setting import Setting, prepare
from pruner.summary import finish
from pruner.training import fit, recalibrate
from pruner.training.device import choose, on, require_run
from pruner.training.fabric import open_processes
from pruner.training.mixed import half_type
from pruner.training.state import load_tensors, save_tensors
from pruner.training.tensorboard import TensorBoard

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from torch import nn

    from latency_model.table import LatencyTable
    from profiler.backends.base import Backend
    from pruner.report import RunReport
    from pruner.training import Callback
    from pruner.training.processes import Processes

__all__ = ["PruneRequest", "prune"]

ROUNDS = 200
# What recovery begins with where the method has not trained.
UNTRAINED_LR = 0.02
_PLAN = "plan.json"
_NORMS = "norms.safetensors"


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """What decides the result of a run, and ``device``: on one CPU, equal requests give equal networks.

    ``device`` is where training runs, not what is timed: auto, cpu, cuda or cuda:N. A run goes on on another one.
    ``precision`` is what the network is deployed and timed in; None for fp32, or the only one that the table has.
    ``finetune_lr`` is the learning rate that recovery begins with; None for ``recovery_lr``.
    """

    model: str
    table: str
    budget: str
    data: str
    method: str = "gator"
    weights: str | None = None
    epochs: int = 3
    finetune_epochs: int = 3
    batch: int | None = None
    precision: str | None = None
    batch_size: int = 128
    lr: float = 0.01
    finetune_lr: float | None = None
    amp: bool | str = False
    clip_norm: float | None = None
    ema: float | None = None
    seed: int = 0
    options: tuple[str, ...] = ()
    device: str = "auto"

    def __post_init__(self) -> None:
        # Recovery comes last: what it would refuse must not cost the run before it.
        half_type(self.amp)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm must be above 0, not {self.clip_norm!r}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema must be above 0 and below 1, not {self.ema!r}")

    def recovery_lr(self, method: Method) -> float:
        """Return the learning rate that recovery begins with.

        A network that has been trained while its channels closed is nearly recovered: a high rate would undo that.
        """
        if self.finetune_lr is not None:
            return self.finetune_lr
        return self.lr / 2 if method.trains else UNTRAINED_LR

    def asked(self) -> dict[str, Any]:
        """Return what makes another run of it, ready for JSON: where it is trained does not."""
        fields = {name: value for name, value in asdict(self).items() if name != "device"}
        return {**fields, "options": list(self.options)}


@dataclass(frozen=True)
class _Stages:
    """What every stage that trains needs beside the request."""

    processes: Processes
    device: torch.device
    progress: Progress
    log_dir: Path | None

    def logs(self, stage: str) -> tuple[Callback, ...]:
        """Return the callbacks that log ``stage``; the first process's alone."""
        if self.log_dir is None or not self.processes.first:
            return ()
        return (TensorBoard(self.log_dir / stage),)


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
                stages = _Stages(processes, device, progress, log_dir)
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
        stages = _Stages(processes, device, progress, None)
        original = copy.deepcopy(setting.module)
        processes.wait()  # until the first process has claimed the folder
        _learn(request, method, setting, original, splits, out, stages)
        processes.wait()  # until it has decided
        small = cut(setting, Plan.load(out / _PLAN))
        _recover(request, request.recovery_lr(method), small, original, splits, out, stages)
        processes.wait()  # until it has timed and written
    return load_report(out)


def _run(
    request: PruneRequest,
    method: Method,
    setting: Setting,
    splits: Splits,
    backend: Backend,
    out: Path,
    stages: _Stages,
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
    values = _learn(request, method, setting, original, splits, out, stages)
    plan, notes = _decide(request, setting, values, measure, splits, out, stages)
    stages.processes.wait()
    small = cut(setting, plan)
    _recover(request, request.recovery_lr(method), small, original, splits, out, stages)
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


def _learn(
    request: PruneRequest,
    method: Method,
    setting: Setting,
    original: nn.Module,
    splits: Splits,
    out: Path,
    stages: _Stages,
) -> Values:
    cost = setting.cost
    problem = Problem(
        model=setting.module,
        graph=setting.graph,
        cost=cost,
        budget=setting.budget,
        ratio=setting.ratio,
        splits=splits,
        epochs=request.epochs,
        seed=request.seed,
        state_dir=out / "learn",
        batch_size=request.batch_size,
        learning_rate=request.lr,
        teacher=original,
        amp=request.amp,
        clip_norm=request.clip_norm,
        progress=stages.progress,
        processes=stages.processes,
        callbacks=stages.logs("learn"),
        others=tuple((other, limit / other.full) for other, limit in setting.other_limits),
    )
    with on(stages.device, setting.module, original):
        return method.values(problem).check(setting.graph, method=request.method)


def _decide(
    request: PruneRequest,
    setting: Setting,
    values: Values,
    measure: Callable[[nn.Module], Proof],
    splits: Splits,
    out: Path,
    stages: _Stages,
) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan and its notes; decided once and kept, so that a resumed run cuts the same network."""
    kept, progress = out / _PLAN, stages.progress
    if not kept.is_file():
        losses = None
        if values.shares is None:
            images = sample(splits.train, images_for(setting.macs_per_image), seed=request.seed)
            with on(stages.device, setting.module):
                losses = measure_losses(
                    setting.module, setting.graph, values, setting.choices, images, progress=progress
                )
        task = progress.add_task("allocating and timing", total=ATTEMPTS, note="")

        def timed(small: nn.Module) -> Proof:
            progress.advance(task)
            return measure(small)

        decision = decide(
            setting,
            values.channels,
            timed,
            losses=losses,
            shares=values.shares,
            method=request.method,
            seed=request.seed,
        )
        progress.update(task, completed=ATTEMPTS)
        record(out, notes=list(decision.notes))
        decision.plan.save(kept)
    return Plan.load(kept), tuple(recorded(out)["notes"])


def _recover(
    request: PruneRequest,
    lr: float,
    small: nn.Module,
    original: nn.Module,
    splits: Splits,
    out: Path,
    stages: _Stages,
) -> None:
    """Re-estimate batch-norm statistics, then fine-tune with the original network as teacher."""
    with on(stages.device, small, original):
        _recalibrate(request, small, splits, out, stages)
        fit(
            small,
            splits,
            epochs=request.finetune_epochs,
            lr=lr,
            batch_size=request.batch_size,
            seed=request.seed,
            teacher=original,
            amp=request.amp,
            clip_norm=request.clip_norm,
            ema=request.ema,
            state_dir=out / "recover",
            callbacks=stages.logs("recover"),
            progress=stages.progress,
            description="recovering accuracy",
            processes=stages.processes,
        )


def _recalibrate(request: PruneRequest, small: nn.Module, splits: Splits, out: Path, stages: _Stages) -> None:
    """Re-estimate batch-norm statistics once, and keep them: another device, or a GPU again, would round otherwise.

    A resumed run must begin with the very bits that the interrupted one began with, and so must every process.
    """
    kept = out / "recover" / _NORMS
    if stages.processes.first and not kept.is_file():
        recalibrate(small, splits.train, batches=20, seed=request.seed)
        stored = small.state_dict()
        save_tensors(kept, {name: stored[name] for name, _ in small.named_buffers() if name in stored}, {})
    stages.processes.wait()
    small.load_state_dict(load_tensors(kept)[0], strict=False)
