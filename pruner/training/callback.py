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

    ``loss`` is the whole loss of this step; nan before it is known.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    lr: float
    loss: float = float("nan")

    @property
    def progress(self) -> float:
        """Fraction of all steps done before this one, 0 to below 1."""
        return self.step / self.steps


class Callback:
    """Base of what takes part in training; every method may be left as it is.

    The loop seeds torch's global generator at the start of each epoch from (seed, epoch), so a callback that
    draws from it, and keeps everything else in ``state``, resumes exactly.
    """

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
