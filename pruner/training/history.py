"""What a training run did, epoch by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_model.errors import InputError

__all__ = ["EpochRecord", "History"]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One finished epoch; accuracies are top-1 in percent, ``epoch`` counts from 1.

    ``train_accuracy`` is of the augmented batches while the weights moved. ``validation_accuracy`` is None
    where there was no validation set.
    """

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float | None
    lr: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True, slots=True)
class History:
    """The finished epochs, in order."""

    epochs: tuple[EpochRecord, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        """Return a JSON-ready list; ``from_json`` reads it back."""
        return [dataclasses.asdict(record) for record in self.epochs]

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, Any]]) -> History:
        """Return the history that ``to_json`` wrote."""
        try:
            return cls(tuple(EpochRecord(**record) for record in data))
        except TypeError as error:
            raise InputError(
                f"this training history is not one of ours ({error}); start the run anew"
            ) from error
