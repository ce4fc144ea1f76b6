"""Gator: learned channel gates under the price of the device, with a budget instead of a weight.

E. Passov, E. David, N. S. Netanyahu, "Gator: Customizable Channel Pruning of Neural Networks with Gating",
arXiv 2205.15404. Kept from it: logistic noise with a straight-through gradient, permanent masks below a keep
probability of one half, one gate vector per group of coupled channels (residual highways included), the
auxiliary loss ``lambda * sum_e w_e * mean_b sum_c g`` with ``w_e`` the marginal cost of one more channel at
the present state, and gate learning rates divided by ``w_e``, so that importance is weighed per unit of cost.

Changed: the marginal cost is the gradient of the table's expected latency, first along the biconvex minorant
of each staircase (the exact expectation is flat on a plateau, just where pruning must begin), then annealed
towards the staircase itself; lambda follows the budget by dual ascent on the logarithm of the cost; logits
carry no weight decay; noise is shared by the readers of a group; evaluation is deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latency_model.errors import DataError, GharialError
from latency_model.expectation import ExpectedLatency
from latency_model.grid import convex_minorant
from pruner.cost import Cost
from pruner.gates import Gates
from pruner.methods.base import Problem, Values
from pruner.training.state import load_state, save_state

__all__ = ["Gator", "GatorConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatorConfig:
    """Knobs of the gate training; the defaults reach a budget in three epochs without tuning.

    ``initial_keep`` is the paper's 0.995. ``reach`` is the share of the steps after which the target of the
    dual ascent is the budget itself. ``anneal`` is the share of the steps at the end of which half the price
    is the exact staircase. ``min_price`` bounds the learning rate of nearly free channels, relative to the
    mean price.
    """

    initial_keep: float = 0.995
    gate_rate: float = 1.0
    reach: float = 0.6
    dual_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    min_price: float = 0.05
    floor: float = 0.125


class _Price:
    """Marginal relative cost of one channel per group, from the differentiable expectation of the table."""

    def __init__(self, cost: Cost) -> None:
        hull = {name: convex_minorant(matrix) for name, matrix in cost.matrices.items()}
        self._hull = ExpectedLatency(cost.network, hull)
        self._exact = ExpectedLatency(cost.network, cost.matrices)
        self._scale, self._constant, self._full = cost.scale, cost.constant, cost.full

    def __call__(self, keep: dict[str, Tensor], sharpness: float) -> tuple[float, dict[str, Tensor]]:
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
        return float(relative.detach()), {name: price.mean() for name, price in prices.items()}


class Gator:
    """Learned gates, see the module; ``values`` trains the model and its gates for ``problem.epochs``."""

    name = "gator"
    needs_data = True
    trains = True

    def __init__(self, config: GatorConfig | None = None) -> None:
        self.config = config or GatorConfig()

    def values(self, problem: Problem) -> Values:
        """Train gates to the budget and return ``-log P(closed)`` of each channel: what closing it would cost.

        Resumes from ``problem.state_dir`` after the last finished epoch. Raises ``DataError`` without data
        and ``GharialError`` when the loss is no longer a number (the last good epoch stays on disk).
        """
        if problem.splits is None:
            raise DataError("the method gator learns from images; give a data set with --data DIR")
        run = _GateTraining(problem, self.config)
        first = run.resume()
        for epoch in range(first, problem.epochs):
            run.epoch(epoch)
            run.save(epoch + 1)
        run.finish()
        channels = {}
        for name in run.gates.groups:
            logits = run.gates.logit_of(name).detach().double()
            # Masked channels keep their order among themselves, far below any open one.
            worth = F.softplus(logits) * (0.01 + 0.99 * run.gates.mask_of(name).double())
            channels[name] = worth.cpu().numpy().astype(np.float64)
        return Values(channels, {"lambda": run.weight, "expected_ratio": run.ratio})


class _GateTraining:
    """The state of one run: model, gates, optimiser, dual variable."""

    def __init__(self, problem: Problem, config: GatorConfig) -> None:
        assert problem.splits is not None
        self.problem, self.config = problem, config
        self.model, self.splits = problem.model, problem.splits
        self.gates = Gates(problem.graph, initial_keep=config.initial_keep)
        self.price = _Price(problem.cost)
        self.weight, self.ratio = 1.0, 1.0
        self.per_epoch = math.ceil(len(self.splits.train) / problem.batch_size)
        self.steps = max(1, problem.epochs * self.per_epoch)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=problem.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
        )
        self.velocity = {name: torch.zeros(size) for name, size in self.gates.groups.items()}
        inside = {group for block in problem.graph.blocks for group in block.groups}
        self.floors = {
            name: max(1, round(config.floor * size)) if name not in inside else 0
            for name, size in self.gates.groups.items()
        }
        self.task = None
        if problem.progress is not None and problem.epochs:
            self.task = problem.progress.add_task("learning gates", total=self.steps, note="")

    def target(self, step: int) -> float:
        """The cost the dual ascent aims at: falls geometrically from 1 to the budget."""
        reached = min(1.0, (step + 1) / (self.config.reach * self.steps))
        return self.problem.ratio**reached

    def epoch(self, epoch: int) -> None:
        self.model.train()
        self.gates.train()
        self.gates.seed(self.problem.seed * 1_000_003 + epoch)
        self.gates.attach(self.model)
        try:
            batches = self.splits.train.batches(
                self.problem.batch_size, shuffle=True, augment=True, seed=self.problem.seed, epoch=epoch
            )
            for index, (images, labels) in enumerate(batches):
                self._step(epoch * self.per_epoch + index, images, labels)
        finally:
            self.gates.detach()

    def _step(self, step: int, images: Tensor, labels: Tensor) -> None:
        self.gates.update_masks(floors=self.floors)
        progress = step / self.steps
        sharpness = 0.5 * max(0.0, (progress - self.config.reach) / (1 - self.config.reach))
        self.ratio, prices = self.price(self.gates.keep(), sharpness)
        error = math.log(max(self.ratio, 1e-6)) - math.log(self.target(step))
        self.weight = min(1e4, max(1e-3, self.weight * math.exp(self.config.dual_rate * error * 10)))

        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.problem.amp):
            loss = F.cross_entropy(self.model(images).float(), labels)
        if not torch.isfinite(loss):
            raise GharialError(
                f"the loss became {loss.item()} in step {step} of gate training; the last finished epoch is kept: "
                "lower --lr and run the same command again"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.gates.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.problem.learning_rate * 0.5 * (1 + math.cos(math.pi * progress)) + 1e-5
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self._step_gates(prices)
        if self.task is not None and self.problem.progress is not None:
            note = f"loss {loss.item():.3f} cost {self.ratio:.3f} of {self.problem.ratio:.3f} λ {self.weight:.2g}"
            self.problem.progress.update(self.task, completed=step + 1, note=note)

    @torch.no_grad()
    def _step_gates(self, prices: dict[str, Tensor]) -> None:
        """Move logits by importance per unit of cost against lambda, with momentum.

        The step is written out because its learning rate is part of the method: ``rate / w_e``.
        """
        # A full sweep from the initial logit to 0 under the price alone takes about a third of the steps.
        rate = self.config.gate_rate * 250.0 * (1 - self.config.momentum) / self.steps
        mean = sum(float(p) for p in prices.values()) / len(prices)
        for name in self.gates.groups:
            logits, mask = self.gates.logit_of(name), self.gates.mask_of(name)
            price = max(float(prices[name]), self.config.min_price * mean, 1e-9)
            sample = torch.sigmoid(logits)
            pressure = self.weight * _mean_slope(sample)
            if float(prices[name]) <= self.config.min_price * mean:
                pressure = pressure * max(0.0, float(prices[name])) / price
            gradient = pressure if logits.grad is None else logits.grad / price + pressure
            velocity = self.velocity[name]
            velocity.mul_(self.config.momentum).add_(gradient * mask)
            logits.sub_((rate * velocity * mask).clamp(-0.5, 0.5)).clamp_(-8.0, 8.0)

    def finish(self) -> None:
        self.gates.update_masks(floors=self.floors)
        self.gates.eval()
        self.ratio, _ = self.price({name: self.gates.mask_of(name) for name in self.gates.groups}, 0.0)
        if self.task is not None and self.problem.progress is not None:
            self.problem.progress.update(self.task, completed=self.steps)

    def save(self, epochs_done: int) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"gates.{k}": v for k, v in self.gates.state_dict().items()}
        tensors |= {f"velocity.{k}": v for k, v in self.velocity.items()}
        for name, parameter in self.model.named_parameters():
            if "momentum_buffer" in (state := self.optimizer.state.get(parameter, {})):
                tensors[f"momentum.{name}"] = state["momentum_buffer"]
        save_state(
            self.problem.state_dir, tensors=tensors, meta={"epochs_done": epochs_done, "weight": self.weight}
        )

    def resume(self) -> int:
        state = load_state(self.problem.state_dir)
        if state is None:
            return 0
        tensors, meta = state
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "gates": {}, "velocity": {}, "momentum": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = tensor
        self.model.load_state_dict(parts["model"])
        self.gates.load_state_dict(parts["gates"])
        self.velocity = parts["velocity"]
        for name, parameter in self.model.named_parameters():
            if name in parts["momentum"]:
                self.optimizer.state[parameter]["momentum_buffer"] = parts["momentum"][name]
        self.weight = float(meta["weight"])
        done = int(meta["epochs_done"])
        if self.task is not None and self.problem.progress is not None:
            self.problem.progress.update(self.task, completed=done * self.per_epoch)
        return done


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
