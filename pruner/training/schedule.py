"""Learning-rate schedules as plain functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from latency_model.errors import InputError

__all__ = ["SCHEDULES", "lr_factor"]

SCHEDULES = ("cosine", "constant")


def lr_factor(step: int, *, steps: int, warmup_steps: int, schedule: str) -> float:
    """Return the learning rate of ``step`` (0 to ``steps`` - 1) as a fraction of the peak.

    It rises linearly over ``warmup_steps``, then follows half a cosine to 0 (Loshchilov and Hutter, "SGDR",
    2017, without restarts) or stays constant.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"unknown schedule {schedule!r}; known are {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
