"""The working parts of one training run: optimizer, average, one step, one epoch, save and resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latency_model.errors import GharialError, InputError
from pruner.data.seeds import mix_seed
from pruner.data.split import Splits, part_of
from pruner.training.callback import Callback, Step
from pruner.training.distill import distillation_loss
from pruner.training.ema import Ema
from pruner.training.evaluate import device_of, evaluate, place
from pruner.training.history import EpochRecord, History
from pruner.training.mixed import half_type
from pruner.training.processes import ALONE, Processes
from pruner.training.schedule import lr_factor
from pruner.training.settings import Settings
from pruner.training.state import (
    digest,
    flatten_optimizer,
    load_state,
    save_state,
    under,
    unflatten_optimizer,
)

__all__ = ["Run"]


@dataclass(eq=False)
class Run:
    """One training run; ``records`` are its finished epochs."""

    model: nn.Module
    splits: Splits
    settings: Settings
    teacher: nn.Module | None
    callbacks: Sequence[Callback]
    channels_last: bool
    state_dir: Path | None
    processes: Processes = ALONE
    records: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.settings
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.device = device_of(self.model)
        self.bounds = self.splits.train.bounds(s.batch_size, s.limit_batches, world=self.processes.world)
        self.per_epoch = len(self.bounds)
        self.steps = self.per_epoch * s.epochs
        self.warmup = min(self.steps // 20, 500) if s.warmup_steps is None else s.warmup_steps
        self.forward = self.processes.wrap(self.model)
        self.half = half_type(s.amp)
        self.optimizer = self._make_optimizer()
        # Small gradients vanish in fp16 unless the loss is scaled up; bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.unheld = [p for callback in self.callbacks for p in callback.outside()]
        own = {id(parameter) for parameter in self.model.parameters()}
        groups = [p for group in self.optimizer.param_groups for p in group["params"] if id(p) not in own]
        self.unwrapped = [*groups, *(p for p in self.unheld if id(p) not in held | own)]
        self.average = None if s.ema is None else Ema(self.model, s.ema)
        self.identity = {
            **s.to_json(),
            "training images": len(self.splits.train),
            "teacher": None if self.teacher is None else digest(self.teacher),
            # Callbacks that only look on do not make another run of it.
            "callbacks": [dict(said) for callback in self.callbacks if (said := callback.identity())],
        }
        self.initial = digest(self.model)

    @property
    def history(self) -> History:
        """The finished epochs."""
        return History(tuple(self.records))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        extra = [dict(group) for callback in self.callbacks for group in callback.parameter_groups()]
        for group in extra:
            group["params"] = list(group["params"])
        taken = {id(parameter) for group in extra for parameter in group["params"]}
        own = [p for p in self.model.parameters() if p.requires_grad and id(p) not in taken]
        groups = [{"params": own, "lr": s.lr}, *extra]
        optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=s.lr,
            momentum=s.momentum,
            weight_decay=s.weight_decay,
            nesterov=s.nesterov and s.momentum > 0,
        )
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        return optimizer

    def epoch(self, number: int, *, seen_step: Callable[[Step, float, float], None]) -> EpochRecord:
        """Train one epoch, validate, and save; ``seen_step`` gets (step, mean loss, accuracy) of each."""
        s = self.settings
        self.model.train()
        good = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        started, seen, total = time.perf_counter(), 0, 0.0
        step = Step(number, s.epochs, number * self.per_epoch, self.steps, 0.0)
        correct = 0
        batches = self.splits.train.batches(
            s.batch_size,
            shuffle=True,
            augment=s.augment,
            seed=s.seed,
            epoch=number,
            limit=s.limit_batches,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        for position, (images, labels) in enumerate(batches):
            index = number * self.per_epoch + position
            # Before each step: what one process draws for its images must not move what all draw after.
            torch.manual_seed(mix_seed("step", s.seed, index))
            factor = lr_factor(index, steps=self.steps, warmup_steps=self.warmup, schedule=s.schedule)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            step = Step(number, s.epochs, index, self.steps, s.lr * factor, shard=self._shard(position))
            labels = labels.to(self.device, non_blocking=True)
            loss, hits = self._step(
                step, place(images, self.device, channels_last=self.channels_last), labels
            )
            if not math.isfinite(loss):
                self._stop(good, step, f"the loss became {loss}")
            count = self.bounds[position][1] - self.bounds[position][0]
            step = replace(step, loss=loss, accuracy=100 * hits / count)
            for callback in self.callbacks:
                callback.after_step(step)
            total += loss * count
            seen += count
            correct += hits
            seen_step(step, total / seen, 100 * correct / seen)
        # A last step that overflows has a finite loss: without this look the state would keep its weights.
        if not all(t.isfinite().all() for t in self.model.state_dict().values() if t.is_floating_point()):
            self._stop(good, step, "the weights became infinite")
        seconds = time.perf_counter() - started
        record = EpochRecord(
            epoch=number + 1,
            loss=total / seen,
            train_accuracy=100 * correct / seen,
            validation_accuracy=self._validate(),
            lr=step.lr,
            seconds=seconds,
            images_per_s=seen / seconds,
        )
        self.records.append(record)
        for callback in self.callbacks:
            callback.after_epoch(record)
        self._save()
        return record

    def _shard(self, position: int) -> tuple[int, int, int] | None:
        """Return (start, stop, count) of this process's images in the batch; None for one process."""
        if self.processes.world == 1:
            return None
        count = self.bounds[position][1] - self.bounds[position][0]
        return *part_of(count, rank=self.processes.rank, world=self.processes.world), count

    def _step(self, step: Step, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """Return (loss, hits) over all processes; the weights do not move when the loss is not finite."""
        s = self.settings
        for callback in self.callbacks:
            callback.before_step(step)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            logits = self.forward(images).float()
            soft = None
            if self.teacher is not None:
                with torch.no_grad():
                    soft = self.teacher(images).float()
        if soft is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=s.label_smoothing)
        else:
            loss = distillation_loss(
                logits,
                soft,
                labels,
                weight=s.distill_weight,
                temperature=s.temperature,
                label_smoothing=s.label_smoothing,
            )
        if step.shard is not None:
            # Gradients are averaged over the processes, whose parts of the batch may differ in size.
            start, stop, count = step.shard
            loss = loss * ((stop - start) * self.processes.world / count)
        for callback in self.callbacks:
            if (extra := callback.loss(step)) is not None:
                loss = loss + extra
        hits = (logits.detach().argmax(1) == labels).sum()
        value, right = self.processes.total(torch.stack([loss.detach().double(), hits.double()])).tolist()
        value /= self.processes.world
        if math.isfinite(value):
            self._move(loss)
        return value, int(right)

    def _move(self, loss: Tensor) -> None:
        """Take one step of the optimizer; fp16 gradients that overflow move nothing but the loss scale."""
        self.optimizer.zero_grad(set_to_none=True)
        self.processes.backward(self.scaler.scale(loss))
        self.processes.average([p.grad for p in self.unwrapped if p.grad is not None])
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
            self._unscale_unheld()
        if self.settings.clip_norm is not None:
            held = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(held, self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()

    def _unscale_unheld(self) -> None:
        held = [(parameter, parameter.grad) for parameter in self.unheld if parameter.grad is not None]
        if not held:
            return
        torch._foreach_div_([gradient for _, gradient in held], self.scaler.get_scale())
        # One look for all: each would make the host wait for a GPU.
        finite = torch.stack([gradient.isfinite().all() for _, gradient in held]).tolist()
        for (parameter, _), fine in zip(held, finite, strict=True):
            if not fine:
                parameter.grad = None

    def _validate(self) -> float | None:
        if not self.settings.validate or not len(self.splits.validation):
            return None
        with nullcontext() if self.average is None else self.average.applied():
            return evaluate(
                self.model,
                self.splits.validation,
                amp=self.settings.amp,
                channels_last=self.channels_last,
                processes=self.processes,
            )

    def _stop(self, good: Mapping[str, Tensor], step: Step, what: str) -> NoReturn:
        self.model.load_state_dict(good)
        self.model.eval()
        kept = "the initial weights" if step.epoch == 0 else f"the weights after epoch {step.epoch}"
        where = "" if self.state_dir is None or step.epoch == 0 else f" in {self.state_dir}"
        raise GharialError(
            f"{what} in epoch {step.epoch + 1}, step {step.step % self.per_epoch + 1} "
            f"(learning rate {step.lr:.3g}); {kept} are kept{where}; lower the learning rate"
        )

    def _save(self) -> None:
        if self.state_dir is None:
            return
        if self.processes.first:
            self._write(self.state_dir)
        self.processes.wait()

    def _write(self, folder: Path) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= flatten_optimizer(self.optimizer)
        if self.average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.average.shadow.items()}
        for number, callback in enumerate(self.callbacks):
            tensors |= {f"callback.{number}.{name}": t for name, t in callback.state().items()}
        with nullcontext() if self.average is None else self.average.applied():
            result = digest(self.model)
        meta = {
            "run": self.identity,
            "initial": self.initial,
            "result": result,
            "history": self.history.to_json(),
            "ema_updates": 0 if self.average is None else self.average.updates,
            "loss_scale": self.scaler.state_dict(),
        }
        save_state(folder, tensors=tensors, meta=meta)

    def resume(self) -> None:
        """Take back the saved state; ``InputError`` when it is of another run."""
        assert self.state_dir is not None
        tensors, meta = load_state(self.state_dir)
        if missing := {"run", "initial", "result", "history", "ema_updates", "loss_scale"} - set(meta):
            raise InputError(
                f"the training state in {self.state_dir} has no {min(missing)!r}; delete it to start anew"
            )
        saved = meta["run"]
        for name, value in self.identity.items():
            if saved.get(name) != value:
                raise InputError(
                    f"{self.state_dir} holds another training run ({name}: {saved.get(name)!r} there, "
                    f"{value!r} here); choose another folder, or delete this one to start anew"
                )
        if self.initial not in (meta["initial"], meta["result"]):
            raise InputError(
                f"{self.state_dir} holds a training run that began with other weights; "
                "choose another folder, or delete this one to start anew"
            )
        self.initial = meta["initial"]
        self.model.load_state_dict(under("model.", tensors))
        unflatten_optimizer(self.optimizer, tensors)
        if self.average is not None:
            self.average.load(under("ema.", tensors), meta["ema_updates"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(meta["loss_scale"])
        for number, callback in enumerate(self.callbacks):
            callback.load_state(under(f"callback.{number}.", tensors))
        self.records = list(History.from_json(meta["history"]).epochs)
