"""The options of a training run that decide its result, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from latency_model.errors import InputError
from pruner.training.mixed import half_type
from pruner.training.schedule import SCHEDULES

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of ``fit`` that make a run another run; see there for what they mean."""

    epochs: int
    lr: float
    batch_size: int
    weight_decay: float
    momentum: float
    nesterov: bool
    schedule: str
    warmup_steps: int | None
    seed: int
    distill_weight: float
    temperature: float
    label_smoothing: float
    ema: float | None
    amp: bool | str
    clip_norm: float | None
    augment: bool
    limit_batches: int | None
    validate: bool

    def __post_init__(self) -> None:
        rules = (
            (self.epochs >= 0, "epochs", "at least 0"),
            (0 < self.lr < math.inf, "lr", "above 0"),
            (self.batch_size >= 1, "batch_size", "at least 1"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "at least 0"),
            (0 <= self.momentum < 1, "momentum", "at least 0 and below 1"),
            (self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}"),
            (self.warmup_steps is None or self.warmup_steps >= 0, "warmup_steps", "at least 0"),
            (0 <= self.distill_weight <= 1, "distill_weight", "between 0 and 1"),
            (0 < self.temperature < math.inf, "temperature", "above 0"),
            (0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1"),
            (self.ema is None or 0 < self.ema < 1, "ema", "above 0 and below 1"),
            (self.clip_norm is None or 0 < self.clip_norm < math.inf, "clip_norm", "above 0"),
            (self.limit_batches is None or self.limit_batches >= 1, "limit_batches", "at least 1"),
        )
        for good, name, what in rules:
            if not good:
                raise InputError(f"{name} must be {what}, not {getattr(self, name)!r}")
        half_type(self.amp)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {name: getattr(self, name) for name in self.__slots__}
