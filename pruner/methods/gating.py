"""Gator's gates in the training loop: masks and prices before each step, the gates' own step after it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pruner.gates import Gates, logit
from pruner.methods.base import Problem, Values
from pruner.methods.dual import Dual
from pruner.methods.options import described
from pruner.methods.prices import open_price
from pruner.training import Callback, Step
from pruner.training.evaluate import device_of

if TYPE_CHECKING:
    from pruner.methods.gator import GatorConfig

__all__ = ["Gating", "fall_work", "mean_slope"]

# -log P(closed) of a gate that is as likely open as closed.
_OPEN = math.log(2)


class Gating(Callback):
    """Gates in the training loop: masks and price before each step, the gates' own step after it."""

    def __init__(self, problem: Problem, config: GatorConfig) -> None:
        self.config = config
        self.duals = [
            Dual(open_price(config.price, cost), cost, ratio, config)
            for cost, ratio in ((problem.cost, problem.ratio), *problem.others)
        ]
        self._device = device_of(problem.model)
        self.gates = Gates(problem.graph, initial_keep=config.initial_keep, device=self._device)
        # All groups in a row, so that a GPU gets few operations and few transfers a step.
        self._sizes = list(self.gates.groups.values())
        self._velocity = torch.zeros(sum(self._sizes), device=self._device)
        self._drift = torch.zeros(sum(self._sizes), device=self._device)
        self.velocity, self.drift = self._by_group(self._velocity), self._by_group(self._drift)
        self.prices: dict[str, float] = {}
        self._problem = problem
        # Where nothing is allocated there is nothing to settle.
        self._learning = 1.0 if problem.allocate is None else config.settle
        self._settled = False
        self.start = logit(config.initial_keep)
        self._fall_work = fall_work(self.start)
        inside = {group for block in problem.graph.blocks for group in block.groups}
        self.floors = {
            name: 0 if name in inside else max(1, round(config.floor * size))
            for name, size in self.gates.groups.items()
        }

    def identity(self) -> Mapping[str, Any]:
        """What makes another run of it: the configuration, the budget and the table behind the cost."""
        budgets = [[dual.cost.metric, dual.budget, dual.cost.full] for dual in self.duals]
        return {"method": "gator", "budgets": budgets, **described(self.config)}

    def outside(self) -> Sequence[Tensor]:
        """The logits: they move by the method's own rule."""
        return list(self.gates.logits.values())

    def scalars(self) -> Mapping[str, float]:
        """Lambda and the expected ratio of each cost, and how many channels of each group are open."""
        sums = torch.stack([self.gates.mask_of(name).sum() for name in self.gates.groups]).tolist()
        found = {f"open/{name}": total for name, total in zip(self.gates.groups, sums, strict=True)}
        for number, dual in enumerate(self.duals):
            of = f"_{dual.cost.metric}" if number else ""
            found |= {f"gator/lambda{of}": dual.weight, f"gator/expected_ratio{of}": dual.ratio}
        return found

    @property
    def weight(self) -> float:
        """Lambda, of several budgets the sum of theirs."""
        return sum(dual.weight for dual in self.duals)

    def values(self) -> Values:
        """Return what the channels are worth by now, and how many are open: a channel is worth ``-log P(closed)``."""
        channels = {}
        for name in self.gates.groups:
            logits = self.gates.logit_of(name).detach().double()
            # Masked channels keep their order among themselves, far below any open one.
            worth = F.softplus(logits) * (0.01 + 0.99 * self.gates.mask_of(name).double())
            channels[name] = worth.cpu().numpy()
        opened = {
            name: max(min(1, self.floors[name]), int((worth >= _OPEN).sum()))
            for name, worth in channels.items()
        }
        return Values(channels, opened)

    def settle(self) -> None:
        """Open exactly the most valuable channels of each group, as many as the allocation grants."""
        problem, values = self._problem, self.values()
        assert problem.allocate is not None
        self.gates.detach()
        counts = problem.allocate(values)
        self.gates.attach(problem.model)
        for name, worth in values.channels.items():
            best = torch.from_numpy(np.argsort(-worth, kind="stable")[: counts[name]])
            mask, logits = self.gates.mask_of(name), self.gates.logit_of(name).data
            mask.zero_()
            mask[best] = 1
            # What was closed and is opened again is worth as much as what is just open.
            logits[best] = logits[best].clamp(min=0.0)
        self._settled = True

    def before_step(self, step: Step) -> None:
        """Close channels, read the prices of the present state, and move lambda; or train with what is settled."""
        if not self._settled and step.progress >= self._learning:
            self.settle()
        self.gates.train(not self._settled)
        if self._settled:
            return
        step = self._until_settled(step)
        self.gates.shard = step.shard
        start, end = self.config.quiet_from, self.config.quiet_to
        self.gates.noise = min(1.0, max(0.0, (end - step.progress) / (end - start)))
        self.gates.zero_grad(set_to_none=True)
        late = max(0.0, (step.progress - self.config.reach) / (1 - self.config.reach))
        logits, masks, drift = self._to_host()
        keep = {name: self.gates.probability(logits[name]) * masks[name] for name in logits}
        found = [dual.look(keep, 0.5 * late) for dual in self.duals]
        self._close(step, logits, masks)
        # Gates need many steps to fall, so lambda answers to where they are heading, not to where they are.
        ahead = self.config.horizon * step.steps
        future = {
            name: self.gates.probability(logits[name] + ahead * drift[name]) * masks[name] for name in logits
        }
        for dual in self.duals:
            dual.ascend(step, future, ahead)
        # What a channel costs in the mean of the budgets, weighed as they weigh now.
        self.prices = {
            name: sum(dual.weight * prices[name] for dual, prices in zip(self.duals, found, strict=True))
            / self.weight
            for name in keep
        }

    def _until_settled(self, step: Step) -> Step:
        """Return ``step`` of the steps in which gates learn."""
        return replace(step, steps=max(1, math.ceil(self._learning * step.steps)))

    def _by_group(self, row: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.gates.groups, row.split(self._sizes), strict=True))

    def _row(self, tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.detach() for tensor in tensors])

    def _to_host(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of logits, masks and drift per group on the CPU, where the costs are: one transfer."""
        masks = self._row(map(self.gates.mask_of, self.gates.groups))
        rows = torch.stack([self._row(map(self.gates.logit_of, self.gates.groups)), masks, self._drift]).cpu()
        logits, opened, drift = map(self._by_group, rows)
        return logits, opened, drift

    def _from_host(self, rows: Tensor) -> Tensor:
        """Return ``rows`` where the gates are."""
        return rows.to(self._device)

    def _close(self, step: Step, logits: Mapping[str, Tensor], masks: dict[str, Tensor]) -> None:
        """Mask gates below one half, the least likely first, as many as leave a cost at or above its target.

        ``logits`` and ``masks`` are the host's; both ``masks`` and the gates' own are changed.
        """
        below = sorted(
            (float(logits[name][channel]), name, channel)
            for name, mask in masks.items()
            for channel in ((logits[name] < 0) & (mask > 0)).nonzero()[:, 0].tolist()
        )
        if not below:
            return
        spare = {name: int(mask.sum()) - self.floors[name] for name, mask in masks.items()}
        low: list[tuple[str, int]] = []
        for _, group, channel in below:
            if spare[group] > 0:
                low.append((group, channel))
                spare[group] -= 1
        aims = [dual.target(step.step, step.steps) for dual in self.duals]

        def closed(number: int) -> dict[str, Tensor]:
            trial = {name: mask.clone() for name, mask in masks.items()}
            for name, channel in low[:number]:
                trial[name][channel] = 0
            return trial

        def below_all(number: int) -> bool:
            trial = closed(number)
            return all(dual.price.value(trial) < aim for dual, aim in zip(self.duals, aims, strict=True))

        # Costs fall with every closed channel: the largest admissible number is found by bisection.
        most = bisect.bisect_left(range(1, len(low) + 1), True, key=below_all)
        if most:
            masks.update(closed(most))
            row = self._from_host(torch.cat(list(masks.values())))
            torch._foreach_copy_([self.gates.mask_of(name) for name in masks], row.split(self._sizes))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move logits by importance per unit of cost against lambda, with momentum.

        Written out because its learning rate, ``rate / w_e``, is part of the method. Divided by lambda, so
        that a channel without importance falls at the same speed whatever lambda is. A closed form replaces
        the sample mean in the gradient of the auxiliary loss: the same force with less noise.
        """
        if self._settled:
            return
        step = self._until_settled(step)
        # A channel without importance falls from its start to 0 in ``fall`` of the steps.
        rate = self._fall_work / (self.config.fall * step.steps) * (1 - self.config.momentum)
        mean = sum(self.prices.values()) / len(self.prices)
        floor = max(self.config.min_price * mean, 1e-9)
        asked = [max(self.prices[name], floor) for name in self.gates.groups]
        shares = [
            max(0.0, self.prices[name]) / price for name, price in zip(self.gates.groups, asked, strict=True)
        ]
        host = torch.tensor([shares, [price * self.weight for price in asked]])
        share, scale = self._from_host(host.repeat_interleave(torch.tensor(self._sizes), dim=1))
        logits: list[Tensor] = [self.gates.logit_of(name) for name in self.gates.groups]
        mask = self._row(map(self.gates.mask_of, self.gates.groups))
        # Rounded group by group, as ever: a vectorised sigmoid may differ by its last bit from a single one.
        gradient = share * mean_slope(torch.cat(torch._foreach_sigmoid(logits)))
        gradient += self._row(torch.zeros_like(p) if p.grad is None else p.grad for p in logits) / scale
        self._velocity.mul_(self.config.momentum).add_(gradient * mask)
        move = (-rate * self._velocity * mask).clamp(-0.5, 0.5)
        moved = (self._row(logits) + move).clamp_(-8.0, self.start)
        torch._foreach_copy_(logits, moved.split(self._sizes))
        torch._foreach_lerp_(list(self.drift.values()), move.split(self._sizes), self.config.smoothing)

    def state(self) -> Mapping[str, Tensor]:
        """Gates, their velocities and lambda."""
        tensors = {f"gates.{name}": tensor for name, tensor in self.gates.state_dict().items()}
        tensors |= {f"velocity.{name}": tensor for name, tensor in self.velocity.items()}
        tensors |= {f"drift.{name}": tensor for name, tensor in self.drift.items()}
        tensors["settled"] = torch.tensor([self._settled])
        return {**tensors, "weights": torch.tensor([dual.weight for dual in self.duals], dtype=torch.float64)}

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
        for dual, weight in zip(self.duals, tensors["weights"].tolist(), strict=True):
            dual.weight = weight
        self._settled = bool(tensors["settled"].item())


def fall_work(start: float) -> float:
    """Return the work of the price against a gate on its way from the logit ``start`` to one half."""
    path = torch.linspace(0, start, 200, dtype=torch.float64)
    return float(torch.trapezoid(1 / mean_slope(torch.sigmoid(path)), path))


def mean_slope(keep: Tensor) -> Tensor:
    """Return E[s(1-s)] of a gate with keep probability ``keep`` under logistic noise, in closed form.

    With a = p/(1-p): a ((a+1) ln a - 2 (a-1)) / (a-1)^3, and 1/6 at p = 1/2. The expectation replaces the
    sample mean of the original: the same force with less noise.
    """
    a = (keep / (1 - keep)).double().clamp(1e-6, 1e6)
    near = (a - 1).abs() < 1e-3
    safe = torch.where(near, torch.full_like(a, 2.0), a)
    value = safe * ((safe + 1) * safe.log() - 2 * (safe - 1)) / (safe - 1) ** 3
    return torch.where(near, torch.full_like(a, 1 / 6), value).to(keep.dtype)
