"""Training: a resumable loop, evaluation, batch-norm recalibration and distillation."""

from pruner.training.callback import Callback, Step
from pruner.training.distill import distillation_loss
from pruner.training.evaluate import evaluate, recalibrate
from pruner.training.history import EpochRecord, History
from pruner.training.loop import fit
from pruner.training.state import load_state, save_state

__all__ = [
    "Callback",
    "EpochRecord",
    "History",
    "Step",
    "distillation_loss",
    "evaluate",
    "fit",
    "load_state",
    "recalibrate",
    "save_state",
]
