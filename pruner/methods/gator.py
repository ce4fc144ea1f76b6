"""Gator: learned channel gates under the price of the device, with a budget instead of a weight.

E. Passov, E. David, N. S. Netanyahu, "Gator: Customizable Channel Pruning of Neural Networks with Gating",
arXiv 2205.15404. Kept from it: logistic noise with a straight-through gradient, permanent masks below a keep
probability of one half, one gate vector per group of coupled channels (residual highways included), the
auxiliary loss ``lambda * sum_e w_e * mean_b sum_c g`` with ``w_e`` the marginal cost of one more channel at
the present state, and gate learning rates divided by ``w_e``, so that importance is weighed per unit of cost.

Changed: the marginal cost is the gradient of the table's expected latency, first along the biconvex minorant
of each staircase (the exact expectation is flat on a plateau, just where pruning must begin), then annealed
towards the staircase itself; lambda follows the budget by dual ascent on the logarithm of the cost; logits
carry no weight decay; noise is shared by the readers of a group, and gone before the cut; masks never take the
cost below its target, so that an overshoot can be taken back; the original network teaches the gated one. Before the
last steps the budget is allocated as it will be in the end, to counts that the device runs well, and the network
trains on with those channels: else the cut would take it from what it was trained as.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from latency_model.errors import DataError, InputError
from pruner.methods.base import Problem, Values
from pruner.methods.gating import Gating
from pruner.methods.prices import PRICES
from pruner.training import fit

__all__ = ["Gator", "GatorConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatorConfig:
    """Knobs of the gate training; the defaults reach a budget in three epochs without tuning.

    ``initial_keep`` is the paper's 0.995. ``reach`` is the share of the steps after which the target of the
    dual ascent is the budget itself; from there to the end, up to half of the price comes from the exact
    staircase. ``min_price`` bounds the learning rate of nearly free channels, relative to the
    mean price. ``fall`` is the share of the steps in which a channel without importance closes; lambda looks
    ``horizon`` of the steps ahead. From ``quiet_from`` to ``quiet_to`` the noise of the gates goes from
    full to none, so that the weights end up trained for the channels that stay. ``settle`` is the share of the steps
    after which the channels are those that the allocation grants; all other shares are of the steps until then.

    ``price`` is what channels are charged, one of ``PRICES``. ``stages`` are fixed values of lambda in place of the
    dual ascent, for equal shares of the steps, as the original doubled it: where that leads is not known before, and
    the budget is met by the allocation alone.
    """

    initial_keep: float = 0.995
    reach: float = 0.6
    dual_rate: float = 100.0
    fall: float = 0.15
    horizon: float = 0.1
    smoothing: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    min_price: float = 0.05
    floor: float = 0.125
    quiet_from: float = 0.7
    quiet_to: float = 0.9
    price: str = "table"
    stages: tuple[float, ...] = ()
    settle: float = 0.5

    def __post_init__(self) -> None:
        rules = (
            (0.5 < self.initial_keep < 1, "initial_keep", "above 0.5 and below 1"),
            (0 < self.reach <= 1, "reach", "above 0 and at most 1"),
            (0 < self.fall <= 1, "fall", "above 0 and at most 1"),
            (0 <= self.floor <= 1, "floor", "between 0 and 1"),
            (0 <= self.momentum < 1, "momentum", "at least 0 and below 1"),
            (0 <= self.quiet_from < self.quiet_to <= 1, "quiet_from", "below quiet_to, both between 0 and 1"),
            (0 < self.settle <= 1, "settle", "above 0 and at most 1"),
            (self.price in PRICES, "price", f"one of {', '.join(PRICES)}"),
            (all(stage > 0 for stage in self.stages), "stages", "positive"),
        )
        for good, name, what in rules:
            if not good:
                raise InputError(f"{name} of gator must be {what}, not {getattr(self, name)!r}")


class Gator:
    """Learned channel gates under the table's price, driven to the budget by dual ascent."""

    name = "gator"
    paper = "Passov et al., 2022, arXiv 2205.15404"
    needs_data = True
    trains = True
    Config = GatorConfig

    def __init__(self, config: GatorConfig | None = None) -> None:
        self.config = config or GatorConfig()

    def values(self, problem: Problem) -> Values:
        """Train model and gates for ``problem.epochs``; a channel is worth ``-log P(closed)``.

        Resumes from ``problem.state_dir`` after the last finished epoch. Raises ``DataError`` without data
        and ``GharialError`` when the loss is no longer a number.
        """
        if problem.splits is None:
            raise DataError("the method gator learns from images; give a data set with --data DIR")
        gating = Gating(problem, self.config)
        gating.gates.attach(problem.model)
        try:
            fit(
                problem.model,
                problem.splits,
                epochs=problem.epochs,
                lr=problem.learning_rate,
                batch_size=problem.batch_size,
                weight_decay=self.config.weight_decay,
                seed=problem.seed,
                teacher=problem.teacher,
                amp=problem.amp,
                clip_norm=problem.clip_norm,
                state_dir=problem.state_dir,
                callbacks=[gating, *problem.callbacks],
                processes=problem.processes,
                progress=problem.progress,
                description="learning gates",
                validate=False,
            )
        finally:
            gating.gates.detach()
        found = gating.values()
        notes = {"lambda": gating.duals[0].weight, "expected_ratio": gating.duals[0].ratio}
        for dual in gating.duals[1:]:
            notes |= {
                f"lambda_{dual.cost.metric}": dual.weight,
                f"expected_ratio_{dual.cost.metric}": dual.ratio,
            }
        return replace(found, notes=notes)
