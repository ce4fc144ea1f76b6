"""Run sample cuts to find groups that the model's own Python code cannot follow (sizes written as numbers)."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from pruner.graph.types import ChannelGraph

__all__ = ["freeze_failing"]

# the share of channels that a sample cut removes; 0 means one channel, so that counts become odd
_SAMPLES = (0.0, 0.35)


def freeze_failing(model: nn.Module, graph: ChannelGraph, args: tuple[Any, ...]) -> dict[str, str]:
    """Return the groups whose sample cut makes the model raise, or change its output's shape, and why.

    Cuts run on the meta device, without arithmetic; on the model's own device where its code needs values.
    All groups are cut at once; only when that fails are they tried one after the other.
    """
    run = _runner(model, args)
    if run is None:
        return dict.fromkeys(graph.groups, "the model does not run on its own copy, so no cut could be tried")
    candidates = [name for name, group in graph.groups.items() if group.size > 1]
    if _failure(run, graph, candidates) is None:
        return {}
    failed: dict[str, str] = {}
    accepted: list[str] = []
    for name in candidates:
        if (why := _failure(run, graph, [name])) is None:
            accepted.append(name)
        else:
            failed[name] = why
    if _failure(run, graph, accepted) is None:
        return failed
    together: list[str] = []
    for name in accepted:
        if (why := _failure(run, graph, [*together, name])) is None:
            together.append(name)
        else:
            failed[name] = why
    return failed


Run = Callable[[ChannelGraph, dict[str, list[int]]], None]


def _runner(model: nn.Module, args: tuple[Any, ...]) -> Run | None:
    """Return a function that raises when a cut model cannot run, on the cheapest device that works."""
    from pruner.surgery import remove

    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    for place in (torch.device("meta"), device):
        small = copy.deepcopy(model).to(place).eval()
        moved = tree_map_only(Tensor, lambda tensor, place=place: tensor.to(place), args)
        try:
            with torch.no_grad():
                expected = _shapes(small(*moved))
        except Exception:  # a model that makes tensors on the CPU cannot run on the meta device
            continue

        def run(
            graph: ChannelGraph,
            keep: dict[str, list[int]],
            small: nn.Module = small,
            moved: tuple[Any, ...] = moved,
            expected: Any = expected,
        ) -> None:
            with torch.no_grad():
                shapes = _shapes(remove(small, graph, keep)(*moved))
            if shapes != expected:
                raise ValueError(f"the output's shape changes from {expected} to {shapes}")

        return run
    return None


def _shapes(output: Any) -> Any:
    return tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else None, output)


def _failure(run: Run, graph: ChannelGraph, names: Iterable[str]) -> str | None:
    """Return the message of the first sample cut of ``names`` that fails, or None."""
    names = list(names)
    for share in _SAMPLES:
        keep = {}
        for name in names:
            size = graph.groups[name].size
            count = min(size - 1, max(1, round(share * size)))
            gone = set(random.Random(name).sample(range(size), count)) if share else {0}
            keep[name] = [channel for channel in range(size) if channel not in gone]
        try:
            run(graph, keep)
        except Exception as error:  # whatever the model's own code raises is the reason
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"the model cannot run with fewer channels: {message}"
    return None
