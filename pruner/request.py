"""What a pruning run is asked for: all that decides its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from latency_model.errors import InputError
from pruner.methods import Method
from pruner.training.mixed import half_type

__all__ = ["RECOVERIES", "SCRATCH_LR", "UNTRAINED_LR", "WEIGH", "PruneRequest"]

# What recovery begins with where the method has not trained.
UNTRAINED_LR = 0.02
SCRATCH_LR = 0.1
WEIGH = ("losses", "values")
RECOVERIES = ("finetune", "scratch")
# What was not there from the first: a run that was begun before must go on.
_LATER = {"weigh": "losses", "recovery": "finetune", "compensate": False, "transfer_from": None}


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """What decides the result of a run, and ``device``: on one CPU, equal requests give equal networks.

    ``device`` is where training runs, not what is timed: auto, cpu, cuda or cuda:N. A run goes on on another one.
    ``precision`` is what the network is deployed and timed in; None for fp32, or the only one that the table has.
    ``finetune_lr`` is the learning rate that recovery begins with; None for ``recovery_lr``.

    ``weigh`` is what groups are weighed by: losses that are measured (or known to the method), or the method's values
    alone. ``recovery`` fine-tunes what the cut left, or trains the small architecture from scratch, without a teacher.
    ``compensate`` solves the weights of the cut network in closed form before anything is trained.
    ``transfer_from`` is the folder of a run whose values are taken over, so that the method itself does not run.
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
    weigh: str = "losses"
    recovery: str = "finetune"
    compensate: bool = False
    transfer_from: str | None = None

    def __post_init__(self) -> None:
        # Recovery comes last: what it would refuse must not cost the run before it.
        half_type(self.amp)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm must be above 0, not {self.clip_norm!r}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema must be above 0 and below 1, not {self.ema!r}")
        for name, known in (("weigh", WEIGH), ("recovery", RECOVERIES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be {' or '.join(known)}, not {getattr(self, name)!r}")
        if self.compensate and self.recovery == "scratch":
            raise InputError("training from scratch throws away what is compensated; leave --compensate out")

    def recovery_lr(self, method: Method) -> float:
        """Return the learning rate that recovery begins with.

        A network that has been trained while its channels closed is nearly recovered: a high rate would undo that.
        """
        if self.finetune_lr is not None:
            return self.finetune_lr
        if self.recovery == "scratch":
            return SCRATCH_LR
        return self.lr / 2 if method.trains and self.transfer_from is None else UNTRAINED_LR

    def asked(self) -> dict[str, Any]:
        """Return what makes another run of it, ready for JSON: where it is trained does not."""
        fields = {
            name: value
            for name, value in asdict(self).items()
            if name != "device" and not (name in _LATER and value == _LATER[name])
        }
        return {**fields, "options": list(self.options)}
