"""Where a pruning method joins the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pruner.training.history import EpochRecord

__all__ = ["Callback", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where the loop is: ``epoch`` and ``step`` (over all epochs) count from 0, of ``epochs`` and ``steps``.

    ``loss`` is the whole loss of this step, over all processes; nan before it is known. ``accuracy`` is of its
    images, in percent. ``shard`` is (start, stop, count): which of the ``count`` images of this step are this
    process's, where several train together; None for all.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    lr: float
    loss: float = float("nan")
    accuracy: float = float("nan")
    shard: tuple[int, int, int] | None = None

    @property
    def progress(self) -> float:
        """Fraction of all steps done before this one, 0 to below 1."""
        return self.step / self.steps


class Callback:
    """Base of what takes part in training; every method may be left as it is.

    The loop seeds torch's global generator before each step from (seed, step), so a callback that draws from it,
    and keeps everything else in ``state``, resumes exactly. Where several processes train together each has its
    own callbacks, which must stay alike: what they draw must not depend on the process, and what they learn from
    are the gradients of ``outside`` and of their optimizer groups, which are averages over the processes.
    """

    def begin(self, callbacks: Sequence[Callback], *, step: int) -> None:
        """Take note of all callbacks of the run, before its first step; ``step`` steps are already done."""

    def end(self) -> None:
        """Let go of files and the like; called once, after ``begin``, however the run ends."""

    def scalars(self) -> Mapping[str, float]:
        """Return numbers worth watching, as they are now, by names such as ``gator/lambda``."""
        return {}

    def outside(self) -> Sequence[Tensor]:
        """Return parameters that get gradients from the loss but are neither the model's nor the optimizer's."""
        return ()

    def identity(self) -> Mapping[str, Any]:
        """Return JSON-ready settings that make another run of it; a resumed run must have the same."""
        return {}

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        """Return optimizer groups to train beside the model, with their own ``lr`` and ``weight_decay``.

        Their learning rates follow the same schedule, in proportion. Parameters of the model that are listed
        here leave the model's own group.
        """
        return ()

    def before_step(self, step: Step) -> None:
        """Do what must precede the forward pass, such as drawing this step's gates."""

    def loss(self, step: Step) -> Tensor | None:
        """Return a scalar to add to the loss, after the forward pass; None adds nothing."""

    def after_step(self, step: Step) -> None:
        """See the finished step."""

    def after_epoch(self, record: EpochRecord) -> None:
        """See the finished epoch, before its state is saved."""

    def state(self) -> Mapping[str, Tensor]:
        """Return the tensors that resuming needs and that the model's ``state_dict`` does not hold.

        Parameters of its own that it gave to the optimizer belong here.
        """
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned, with ``copy_``: the optimizer holds the tensors themselves."""
