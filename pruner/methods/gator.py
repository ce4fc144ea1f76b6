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
cost below its target, so that an overshoot can be taken back; the original network teaches the gated one.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latency_model.errors import DataError
from latency_model.expectation import ExpectedLatency
from latency_model.grid import convex_minorant
from pruner.cost import Cost
from pruner.gates import Gates, logit
from pruner.methods.base import Problem, Values
from pruner.training import Callback, Step, fit

__all__ = ["Gator", "GatorConfig"]


# -log P(closed) of a gate that is as likely open as closed.
_OPEN = math.log(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatorConfig:
    """Knobs of the gate training; the defaults reach a budget in three epochs without tuning.

    ``initial_keep`` is the paper's 0.995. ``reach`` is the share of the steps after which the target of the
    dual ascent is the budget itself; from there to the end, up to half of the price comes from the exact
    staircase. ``min_price`` bounds the learning rate of nearly free channels, relative to the
    mean price. ``fall`` is the share of the steps in which a channel without importance closes; lambda looks
    ``horizon`` of the steps ahead. From ``quiet_from`` to ``quiet_to`` the noise of the gates goes from
    full to none, so that the weights end up trained for the channels that stay.
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


class _Price:
    """Marginal relative cost of one channel per group, from the differentiable expectation of the table."""

    def __init__(self, cost: Cost) -> None:
        hull = {name: convex_minorant(matrix) for name, matrix in cost.matrices.items()}
        self._hull = ExpectedLatency(cost.network, hull)
        self._exact = ExpectedLatency(cost.network, cost.matrices)
        self._scale, self._constant, self._full = cost.scale, cost.constant, cost.full

    def __call__(self, keep: dict[str, Tensor], sharpness: float) -> tuple[float, dict[str, float]]:
        """Return (expected relative cost, mean marginal cost of an open channel per group)."""
        leaves = {name: p.detach().double().requires_grad_() for name, p in keep.items()}
        value = (1 - sharpness) * self._hull(leaves)
        if sharpness > 0:
            value = value + sharpness * self._exact(leaves)
        relative = (self._scale * value + self._constant) / self._full
        grads = torch.autograd.grad(relative, list(leaves.values()), allow_unused=True)
        prices = {}
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
            prices[name] = torch.zeros_like(leaf) if grad is None else grad
        return float(relative.detach()), {name: float(price.mean()) for name, price in prices.items()}

    @torch.no_grad()
    def value(self, keep: Mapping[str, Tensor]) -> float:
        """Return the expected relative cost along the minorant."""
        value = self._hull({name: p.double() for name, p in keep.items()})
        return float(self._scale * value + self._constant) / self._full


class Gator:
    """Learned channel gates under the table's price, driven to the budget by dual ascent."""

    name = "gator"
    paper = "Passov et al., 2022, arXiv 2205.15404"
    needs_data = True
    trains = True

    def __init__(self, config: GatorConfig | None = None) -> None:
        self.config = config or GatorConfig()

    def values(self, problem: Problem) -> Values:
        """Train model and gates for ``problem.epochs``; a channel is worth ``-log P(closed)``.

        Resumes from ``problem.state_dir`` after the last finished epoch. Raises ``DataError`` without data
        and ``GharialError`` when the loss is no longer a number.
        """
        if problem.splits is None:
            raise DataError("the method gator learns from images; give a data set with --data DIR")
        gating = _Gating(problem, self.config)
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
        channels = {}
        for name in gating.gates.groups:
            logits = gating.gates.logit_of(name).detach().double()
            # Masked channels keep their order among themselves, far below any open one.
            worth = F.softplus(logits) * (0.01 + 0.99 * gating.gates.mask_of(name).double())
            channels[name] = worth.cpu().numpy()
        opened = {name: max(1, int((worth >= _OPEN).sum())) for name, worth in channels.items()}
        return Values(channels, opened, {"lambda": gating.weight, "expected_ratio": gating.ratio})


class _Gating(Callback):
    """Gates in the training loop: masks and price before each step, the gates' own step after it."""

    def __init__(self, problem: Problem, config: GatorConfig) -> None:
        self.config, self.budget_ratio, self.full = config, problem.ratio, problem.cost.full
        self.gates = Gates(problem.graph, initial_keep=config.initial_keep)
        self.price = _Price(problem.cost)
        self.velocity = {name: torch.zeros(size) for name, size in self.gates.groups.items()}
        self.drift = {name: torch.zeros(size) for name, size in self.gates.groups.items()}
        self.prices: dict[str, float] = {}
        self.weight, self.ratio = 1.0, 1.0
        self.start = logit(config.initial_keep)
        path = torch.linspace(0, self.start, 200, dtype=torch.float64)
        # The work of the price against a gate on its way from its start to one half.
        self._fall_work = float(torch.trapezoid(1 / _mean_slope(torch.sigmoid(path)), path))
        inside = {group for block in problem.graph.blocks for group in block.groups}
        self.floors = {
            name: 0 if name in inside else max(1, round(config.floor * size))
            for name, size in self.gates.groups.items()
        }

    def identity(self) -> Mapping[str, Any]:
        """What makes another run of it: the configuration, the budget and the table behind the cost."""
        return {"method": "gator", "ratio": self.budget_ratio, "full": self.full, **asdict(self.config)}

    def outside(self) -> Sequence[Tensor]:
        """The logits: they move by the method's own rule."""
        return list(self.gates.logits.values())

    def scalars(self) -> Mapping[str, float]:
        """Lambda, the expected cost ratio, and how many channels of each group are open."""
        opened = {f"open/{name}": float(self.gates.mask_of(name).sum()) for name in self.gates.groups}
        return {"gator/lambda": self.weight, "gator/expected_ratio": self.ratio, **opened}

    def target(self, step: float, steps: int) -> float:
        """The cost that the dual ascent aims at: falls geometrically from 1 to the budget."""
        reached = min(1.0, (step + 1) / (self.config.reach * steps))
        return self.budget_ratio**reached

    def before_step(self, step: Step) -> None:
        """Close channels, read the prices of the present state, and move lambda."""
        self.gates.train()
        self.gates.shard = step.shard
        start, end = self.config.quiet_from, self.config.quiet_to
        self.gates.noise = min(1.0, max(0.0, (end - step.progress) / (end - start)))
        self.gates.zero_grad(set_to_none=True)
        late = max(0.0, (step.progress - self.config.reach) / (1 - self.config.reach))
        keep = self.gates.keep()
        self.ratio, self.prices = self.price(keep, 0.5 * late)
        self._close(step)
        # Gates need many steps to fall, so lambda answers to where they are heading, not to where they are.
        ahead = self.config.horizon * step.steps
        future = {
            name: self.gates.probability(self.gates.logit_of(name).detach() + ahead * self.drift[name])
            * self.gates.mask_of(name)
            for name in keep
        }
        aim = self.target(step.step + ahead, step.steps)
        error = math.log(max(self.price.value(future), 1e-6) / aim)
        self.weight = min(1e4, max(1e-4, self.weight * math.exp(self.config.dual_rate / step.steps * error)))

    def _close(self, step: Step) -> None:
        """Mask gates below one half, the least likely first, as many as leave the cost at or above its target."""
        masks = {name: self.gates.mask_of(name) for name in self.gates.groups}
        spare = {name: int(mask.sum()) - self.floors[name] for name, mask in masks.items()}
        below = sorted(
            (value, name, channel)
            for name, mask in masks.items()
            for channel, value in enumerate(self.gates.logit_of(name).tolist())
            if value < 0 and mask[channel] > 0
        )
        low: list[tuple[str, int]] = []
        for _, group, channel in below:
            if spare[group] > 0:
                low.append((group, channel))
                spare[group] -= 1
        aim = self.target(step.step, step.steps)

        def closed(number: int) -> dict[str, Tensor]:
            trial = {name: mask.clone() for name, mask in masks.items()}
            for name, channel in low[:number]:
                trial[name][channel] = 0
            return trial

        # The cost falls with every closed channel: the largest admissible number is found by bisection.
        most = bisect.bisect_left(
            range(1, len(low) + 1), True, key=lambda number: self.price.value(closed(number)) < aim
        )
        for name, mask in closed(most).items():
            masks[name].copy_(mask)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move logits by importance per unit of cost against lambda, with momentum.

        Written out because its learning rate, ``rate / w_e``, is part of the method. Divided by lambda, so
        that a channel without importance falls at the same speed whatever lambda is. A closed form replaces
        the sample mean in the gradient of the auxiliary loss: the same force with less noise.
        """
        # A channel without importance falls from its start to 0 in ``fall`` of the steps.
        rate = self._fall_work / (self.config.fall * step.steps) * (1 - self.config.momentum)
        mean = sum(self.prices.values()) / len(self.prices)
        for name in self.gates.groups:
            logits, mask = self.gates.logit_of(name), self.gates.mask_of(name)
            price = max(self.prices[name], self.config.min_price * mean, 1e-9)
            share = max(0.0, self.prices[name]) / price
            gradient = share * _mean_slope(torch.sigmoid(logits))
            if logits.grad is not None:
                gradient = gradient + logits.grad / (price * self.weight)
            velocity = self.velocity[name]
            velocity.mul_(self.config.momentum).add_(gradient * mask)
            move = (-rate * velocity * mask).clamp(-0.5, 0.5)
            logits.add_(move).clamp_(-8.0, self.start)
            self.drift[name].lerp_(move, self.config.smoothing)

    def state(self) -> Mapping[str, Tensor]:
        """Gates, their velocities and lambda."""
        tensors = {f"gates.{name}": tensor for name, tensor in self.gates.state_dict().items()}
        tensors |= {f"velocity.{name}": tensor for name, tensor in self.velocity.items()}
        tensors |= {f"drift.{name}": tensor for name, tensor in self.drift.items()}
        return {**tensors, "weight": torch.tensor(self.weight, dtype=torch.float64)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        parts: dict[str, dict[str, Tensor]] = {"gates": {}, "velocity": {}, "drift": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            if kind in parts:
                parts[kind][name] = tensor
        self.gates.load_state_dict(parts["gates"])
        for name in self.velocity:
            self.velocity[name].copy_(parts["velocity"][name])
            self.drift[name].copy_(parts["drift"][name])
        self.weight = float(tensors["weight"])


def _mean_slope(keep: Tensor) -> Tensor:
    """Return E[s(1-s)] of a gate with keep probability ``keep`` under logistic noise, in closed form.

    With a = p/(1-p): a ((a+1) ln a - 2 (a-1)) / (a-1)^3, and 1/6 at p = 1/2. The expectation replaces the
    sample mean of the original: the same force with less noise.
    """
    a = (keep / (1 - keep)).double().clamp(1e-6, 1e6)
    near = (a - 1).abs() < 1e-3
    safe = torch.where(near, torch.full_like(a, 2.0), a)
    value = safe * ((safe + 1) * safe.log() - 2 * (safe - 1)) / (safe - 1) ** 3
    return torch.where(near, torch.full_like(a, 1 / 6), value).to(keep.dtype)
