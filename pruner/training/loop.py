"""The training loop: supervised or distilled, resumable after any epoch, deterministic on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
from rich.progress import Progress
from torch import nn

from latency_model.errors import DataError, InputError
from pruner.data.split import Splits
from pruner.training.callback import Callback, Step
from pruner.training.evaluate import kept_modes
from pruner.training.history import EpochRecord, History
from pruner.training.memory import kept_memory
from pruner.training.processes import ALONE, Processes
from pruner.training.run import Run
from pruner.training.settings import Settings
from pruner.training.state import has_state

__all__ = ["fit"]


def fit(
    model: nn.Module,
    splits: Splits,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
    schedule: str = "cosine",
    warmup_steps: int | None = None,
    seed: int = 0,
    teacher: nn.Module | None = None,
    distill_weight: float = 0.5,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
    ema: float | None = None,
    amp: bool | str = False,
    clip_norm: float | None = None,
    channels_last: bool = True,
    augment: bool = True,
    state_dir: Path | None = None,
    callbacks: Sequence[Callback] = (),
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Progress | None = None,
    description: str = "train",
    limit_batches: int | None = None,
    validate: bool = True,
    processes: Processes = ALONE,
) -> History:
    """Train ``model`` in place with SGD and return what each epoch did.

    With ``state_dir`` every finished epoch is kept there in one atomic file: the same call on the same
    initial model goes on after the last one, and on a CPU (with the same number of threads) ends with the
    very bits of an uninterrupted run. The model is left in evaluation mode; torch's global random state is as
    before afterwards.

    Args:
        model: returns logits (n, classes); trained where its parameters are.
        splits: ``train`` is trained on, ``validation`` evaluated after each epoch; ``test`` is not touched.
        epochs: of the whole run, resumed part included.
        lr: peak learning rate.
        batch_size: images per step.
        weight_decay: L2 penalty on all parameters.
        momentum: of SGD.
        nesterov: Nesterov's momentum; without momentum it has no meaning and is off.
        schedule: ``cosine`` to zero or ``constant``, after the warm-up.
        warmup_steps: steps of linear warm-up; by default a twentieth of all steps, at most 500.
        seed: order, augmentation, dropout and whatever callbacks draw.
        teacher: a trained network to distil from; not changed.
        distill_weight: share of the teacher in the loss.
        temperature: of the distillation.
        label_smoothing: of the cross entropy.
        ema: decay of a moving average of the weights, which then is what is validated and returned.
        amp: autocast: ``bf16`` (or True), ``fp16`` with a loss scale that finds itself, ``off`` (or False).
        clip_norm: the greatest norm of all gradients together; larger ones are scaled down.
        channels_last: keep weights and activations in channels-last order.
        augment: random crops, and flips where the data allows.
        state_dir: where to keep the state; nothing is kept without.
        callbacks: take part in every step, see ``Callback``.
        on_step: called after each step, a callback in short.
        on_epoch: called after each epoch, when its state is saved.
        progress: a display to add a bar to.
        description: the bar's text.
        limit_batches: end each epoch early.
        validate: whether to evaluate on ``validation`` after each epoch.
        processes: train together with others, see ``pruner.training.fabric``: each process calls this with the same
            arguments, ``batch_size`` is of all together, and each ends with the same model. Up to the rounding of
            sums it is what one process trains; only dropout and the like draw otherwise. The first process writes.

    Raises:
        GharialError: the loss is not finite; the model is put back to the last finished epoch.
        InputError: ``state_dir`` holds another run, or an option is out of range.
        WeightsError: the saved state is damaged.
    """
    settings = Settings(
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        schedule=schedule,
        warmup_steps=warmup_steps,
        seed=seed,
        distill_weight=distill_weight,
        temperature=temperature,
        label_smoothing=label_smoothing,
        ema=ema,
        amp=amp,
        clip_norm=clip_norm,
        augment=augment,
        limit_batches=limit_batches,
        validate=validate,
    )
    if not len(splits.train):
        raise DataError("the training set has no images; hold fewer out for validation")
    if min(batch_size, len(splits.train)) < processes.world:
        raise InputError(
            f"{processes.world} processes cannot share a batch of {min(batch_size, len(splits.train))} images; start "
            "fewer, or raise the batch size"
        )
    state_dir = None if state_dir is None else Path(state_dir)
    run = Run(model, splits, settings, teacher, tuple(callbacks), channels_last, state_dir, processes)
    if state_dir is not None and has_state(state_dir):
        run.resume()
    done = len(run.records) * run.per_epoch
    bar = (
        None if progress is None else progress.add_task(description, total=run.steps, completed=done, note="")
    )
    cuda = [run.device] if run.device.type == "cuda" else []
    kept = nullcontext() if teacher is None else kept_modes(teacher)
    with ExitStack() as stack:
        stack.enter_context(kept_memory())
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(kept)
        stack.enter_context(processes.synchronised(model))
        for callback in run.callbacks:
            stack.callback(callback.end)
            callback.begin(run.callbacks, step=done)
        if teacher is not None:
            teacher.eval()
        for number in range(len(run.records), epochs):
            started = time.perf_counter()

            def seen_step(step: Step, loss: float, accuracy: float, started: float = started) -> None:
                if on_step is not None:
                    on_step(step)
                if progress is not None and bar is not None:
                    count = min((step.step % run.per_epoch + 1) * batch_size, len(splits.train))
                    speed = count / (time.perf_counter() - started)
                    note = f"loss {loss:.3f}, {accuracy:.1f} %, {speed:,.0f} img/s"
                    progress.update(bar, completed=step.step + 1, note=note)

            record = run.epoch(number, seen_step=seen_step)
            if on_epoch is not None:
                on_epoch(record)
    if run.average is not None:
        run.average.apply()
    model.eval()
    return run.history
