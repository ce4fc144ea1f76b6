"""TensorBoard logs of a training run: loss, accuracies, learning rate, and what the other callbacks have to show."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from latency_model.errors import DependencyError
from pruner.training.callback import Callback, Step
from pruner.training.history import EpochRecord

__all__ = ["TensorBoard"]


def _writer_class() -> Any:
    try:
        return import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise DependencyError(
            f"logs for TensorBoard need its package ({error}); install it with pip install tensorboard, or leave "
            "--log-dir away"
        ) from error


class TensorBoard(Callback):
    """Writes event files into ``folder`` for ``tensorboard --logdir``.

    Every ``every`` steps: ``train/loss``, ``train/accuracy`` of the step's batch in percent, ``train/lr``, and the
    ``scalars`` of the other callbacks. After each epoch, at its last step: ``epoch/loss``,
    ``epoch/train_accuracy``, ``epoch/validation_accuracy`` and ``epoch/images_per_s``. It only looks on: a run goes
    on with or without it. Raises ``DependencyError`` when constructed without the package.
    """

    def __init__(self, folder: Path, *, every: int = 10) -> None:
        self.folder, self.every = Path(folder), every
        # A missing package must show before hours of training, not with the first number.
        self._open = _writer_class()
        self._writer: Any = None
        self._others: Sequence[Callback] = ()
        self._step = 0

    def begin(self, callbacks: Sequence[Callback], *, step: int) -> None:
        """Open the files; what an interrupted run logged after its last whole epoch is hidden."""
        self._others = [callback for callback in callbacks if callback is not self]
        self._writer = self._open(str(self.folder), purge_step=step)

    def after_step(self, step: Step) -> None:
        """Write the step's numbers, if it is one of those to write."""
        self._step = step.step
        if step.step % self.every and step.step != step.steps - 1:
            return
        numbers = {"train/loss": step.loss, "train/accuracy": step.accuracy, "train/lr": step.lr}
        for other in self._others:
            numbers |= other.scalars()
        self._write(numbers)

    def after_epoch(self, record: EpochRecord) -> None:
        """Write the epoch's numbers, and everything to disk."""
        numbers = {
            "epoch/loss": record.loss,
            "epoch/train_accuracy": record.train_accuracy,
            "epoch/images_per_s": record.images_per_s,
        }
        if record.validation_accuracy is not None:
            numbers["epoch/validation_accuracy"] = record.validation_accuracy
        self._write(numbers)
        self._writer.flush()

    def end(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, self._step)
