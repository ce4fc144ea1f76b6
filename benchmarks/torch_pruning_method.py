"""Torch-Pruning 1.6.1 as a pruning method: it decides how many channels go and which, Gharial does the rest.

    pip install --target TP --no-deps torch-pruning==1.6.1
    PYTHONPATH=TP gharial prune resnet20 --method benchmarks.torch_pruning_method:TorchPruning --budget flops=0.5x …
    … --method benchmarks.torch_pruning_method:GlobalTorchPruning, or --set round_to=8

Given from the repository's root. The pruner is its ``BasePruner`` (``MagnitudePruner`` is another name of it) with
``GroupMagnitudeImportance(p=2)``, used as its documentation and its reproduction scripts do: the classifier is
ignored, and of many small steps as many are taken as reach the budget.

What comes out is what Torch-Pruning decided up to the counts that Gharial considers: at most 17 of a group, none below
an eighth of its channels, and of a latency budget only the device's efficient ones. For MACs or parameters that moves
a group of more than 17 channels by a few; see ``torch_pruning_latency.py --agreement`` for how many.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pruner.cost import Cost
from pruner.graph.types import ChannelGraph
from pruner.methods import Problem, Values

__all__ = ["Config", "GlobalTorchPruning", "Pruned", "TorchPruning", "torch_pruning"]


@dataclass(frozen=True)
class Config:
    """``round_to`` as in Torch-Pruning; ``steps`` are those to the last channel."""

    round_to: int | None = None
    steps: int = 400


@dataclass(frozen=True)
class Pruned:
    """What Torch-Pruning made of a model: the module, and per group of ours the channels in the order they went.

    ``removed[group]`` are (channel, step) pairs; ``importance[group]`` is that of the channels that stayed, by
    channel, in the end.
    """

    module: nn.Module
    removed: Mapping[str, list[tuple[int, int]]]
    importance: Mapping[str, Mapping[int, float]]
    steps: int

    def keep(self, graph: ChannelGraph) -> dict[str, list[int]]:
        """Return the channels of each group that stayed."""
        gone = {name: {channel for channel, _ in found} for name, found in self.removed.items()}
        return {n: [c for c in range(g.size) if c not in gone[n]] for n, g in graph.groups.items()}


def torch_pruning(
    model: nn.Module,
    graph: ChannelGraph,
    cost: Cost,
    ratios: Sequence[float],
    *,
    everywhere: bool = False,
    config: Config | None = None,
) -> list[Pruned]:
    """Return copies of ``model`` pruned until ``cost`` is at most each of ``ratios`` of its full value.

    ``ratios`` descend: one run passes all of them. ``everywhere`` ranks all channels together (``global_pruning``),
    else each layer loses the same share. Where no step is left, what is reached is returned.
    """
    import torch_pruning as tp

    config = config or Config()
    image = next(site.shape for site in cost.network.sites if not site.inputs.terms)
    module = copy.deepcopy(model)
    ignored = [m for m in module.modules() if isinstance(m, nn.Linear)][-1:]  # the classifier
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            module,
            torch.randn(1, image.in_channels, image.height, image.width),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=everywhere,
            pruning_ratio=1.0,
            iterative_steps=config.steps,
            ignored_layers=ignored,
            round_to=config.round_to,
        )
    writers = _writers(module, graph)
    alive = {name: list(range(group.size)) for name, group in graph.groups.items()}
    removed: dict[str, list[tuple[int, int]]] = {name: [] for name in graph.groups}
    step, full, found = 0, cost.full, []
    for ratio in ratios:
        while cost.value({n: len(left) for n, left in alive.items()}) > ratio * full and step < config.steps:
            step += 1
            for group in pruner.step(interactive=True):
                for name, places, _ in _ours(pruner, group, writers):
                    removed[name] += [(alive[name][at], step) for at in places]
                    gone = set(places)
                    alive[name] = [channel for at, channel in enumerate(alive[name]) if at not in gone]
                group.prune()
        importance = _importance(pruner, writers, alive)
        gone_now = {name: list(pairs) for name, pairs in removed.items()}
        found.append(Pruned(copy.deepcopy(module).eval(), gone_now, importance, step))
    return found


def _importance(
    pruner: Any, writers: Mapping[nn.Module, str], alive: Mapping[str, list[int]]
) -> dict[str, dict[int, float]]:
    """Return what Torch-Pruning thinks of the channels that are left, by group and channel of ours."""
    importance: dict[str, dict[int, float]] = {name: {} for name in alive}
    for group in pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    ):
        found = pruner.estimate_importance(group)
        for name, places, roots in _ours(pruner, group, writers):
            pairs = zip(places, roots, strict=True)
            importance[name] = {alive[name][at]: float(found[root]) for at, root in pairs}
    return importance


def _writers(module: nn.Module, graph: ChannelGraph) -> dict[nn.Module, str]:
    """Return the first layer of each of our groups, which names it, and the group."""
    return {module.get_submodule(name): name for name in graph.groups}


def _ours(
    pruner: Any, group: Any, writers: Mapping[nn.Module, str]
) -> list[tuple[str, list[int], list[int]]]:
    """Return our groups in one of theirs: (name, places among the channels that are left, places in their root)."""
    found = []
    for item in group:
        dependency, places = item.dep, item.idxs
        name = writers.get(dependency.target.module)
        if name is not None and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
            found.append((name, [int(at) for at in places], [int(at) for at in item.root_idxs]))
    return found


class TorchPruning:
    """Torch-Pruning 1.6.1 with group L2 magnitudes, the same share of every layer (for comparison)."""

    name = "torch-pruning"
    paper = "Fang et al., CVPR 2023, arXiv 2301.12900"
    needs_data = False
    trains = False
    everywhere = False
    Config = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()

    def values(self, problem: Problem) -> Values:
        """Return the order in which channels went as their values, and what was left of each group as its share."""
        graph = problem.graph
        (found,) = torch_pruning(
            problem.model,
            graph,
            problem.cost,
            [problem.ratio],
            everywhere=self.everywhere,
            config=self.config,
        )
        keep = found.keep(graph)
        channels = {}
        for name, group in graph.groups.items():
            worth = np.zeros(group.size)
            for channel, step in found.removed[name]:
                worth[channel] = step / (found.steps + 1)
            stayed = found.importance[name]
            most = max(stayed.values(), default=0.0) or 1.0
            for channel in keep[name]:
                worth[channel] = 1 + stayed.get(channel, most) / most
            channels[name] = worth
        shares = {name: len(keep[name]) / group.size for name, group in graph.groups.items()}
        return Values(channels, shares=shares)


class GlobalTorchPruning(TorchPruning):
    """Torch-Pruning 1.6.1 with group L2 magnitudes, all channels of the network ranked together (for comparison)."""

    name = "torch-pruning-global"
    everywhere = True
