"""Run sample cuts to find what the model's own Python code cannot follow: sizes written as numbers."""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pruner.graph.example import Example
from pruner.graph.types import ChannelGraph

__all__ = ["Failures", "all_pass", "try_cuts"]

# the share of channels that a sample cut removes; the other sample removes one, so that counts become odd
_SHARE = 0.35
# far above the rounding of any network in fp32, far below the effect of a channel read from a wrong place
_DIFFERENT = 1e-3
# the same where parts are computed in half precision (autocast)
_DIFFERENT_HALF = 3e-2


@dataclass(frozen=True)
class Failures:
    """Groups and blocks whose sample cut failed, with the reason."""

    groups: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, str] = field(default_factory=dict)


Test = Callable[[Sequence[str]], str | None]


def try_cuts(model: nn.Module, graph: ChannelGraph, example: Example, *, half: bool = False) -> Failures:
    """Return the groups and blocks whose sample cut the model cannot follow, and why.

    First on the meta device, without arithmetic: the cut model must run and keep its output shapes. Then with
    numbers: it must compute what the masked original computes. All groups are cut at once; only when that
    fails are they tried one after the other. ``half`` says that parts of the model run in half precision.
    """
    run = _runner(model, example)
    if run is None:
        why = "a copy of the model does not run, so no cut could be tried"
        return Failures(dict.fromkeys(graph.groups, why), {block.name: why for block in graph.blocks})
    groups = [name for name, group in graph.groups.items() if group.size > 1]
    failed = Failures()
    for runner, shares in (
        (run, (0.0, _SHARE)),
        *((run, (_SHARE,)) for run in _numbers(model, example, graph, half)),
    ):

        def cut_groups(
            names: Sequence[str], runner: Run = runner, shares: tuple[float, ...] = shares
        ) -> str | None:
            samples = (_sample(graph, names, share) for share in shares)
            return next((why for keep in samples if (why := runner(graph, keep, ())) is not None), None)

        def cut_blocks(names: Sequence[str], runner: Run = runner) -> str | None:
            return runner(graph, {}, names)

        failed.groups.update(_screen(cut_groups, [n for n in groups if n not in failed.groups]))
        names = [block.name for block in graph.blocks if block.name not in failed.blocks]
        failed.blocks.update(_screen(cut_blocks, names))
    return failed


def all_pass(model: nn.Module, graph: ChannelGraph, example: Example, *, half: bool = False) -> bool:
    """Return whether the model can run sample cuts of all groups at once."""
    run = _runner(model, example)
    groups = [name for name, group in graph.groups.items() if group.size > 1]
    tests = [run, *_numbers(model, example, graph, half)]
    return all(
        test is not None and test(graph, _sample(graph, groups, share), ()) is None
        for test in tests
        for share in (0.0, _SHARE)
    )


def _screen(test: Test, names: Sequence[str]) -> dict[str, str]:
    """Return the failing ones of ``names`` with the message: alone, or together with the accepted ones."""
    if not names or test(names) is None:
        return {}
    failed = {name: why for name in names if (why := test([name])) is not None}
    accepted = [name for name in names if name not in failed]
    if not accepted or test(accepted) is None:
        return failed
    together: list[str] = []
    for name in accepted:
        if (why := test([*together, name])) is None:
            together.append(name)
        else:
            failed[name] = why
    return failed


Run = Callable[[ChannelGraph, dict[str, list[int]], Sequence[str]], str | None]


def _runner(model: nn.Module, example: Example) -> Run | None:
    """Return a function that cuts and runs the model on the cheapest device that works, or None."""
    from pruner.surgery import remove, skeleton

    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    for place in (torch.device("meta"), device):
        small = (skeleton(model) if place.type == "meta" else copy.deepcopy(model)).eval()
        moved = example.map(operator.methodcaller("to", place))
        try:
            expected = _shapes(moved.run(small))
        except Exception:  # a model that makes tensors on the CPU cannot run on the meta device
            continue

        def run(
            graph: ChannelGraph,
            keep: dict[str, list[int]],
            blocks: Sequence[str],
            small: nn.Module = small,
            moved: Example = moved,
            expected: Any = expected,
        ) -> str | None:
            try:
                shapes = _shapes(moved.run(remove(small, graph, keep, blocks=blocks)))
            except Exception as error:  # whatever the model's own code raises is the reason
                message = (str(error).strip() or type(error).__name__).splitlines()[0]
                return f"the model cannot run with it cut: {message}"
            return None if shapes == expected else f"the output's shape becomes {shapes} with it cut"

        return run
    return None


def _numbers(model: nn.Module, example: Example, graph: ChannelGraph, half: bool) -> list[Run]:
    """Return a runner that compares numbers, or none when the model is not a function of its input."""
    from pruner.oracle import check

    noisy = example.map(_noise)

    def run(graph: ChannelGraph, keep: dict[str, list[int]], blocks: Sequence[str]) -> str | None:
        try:
            result = check(
                model,
                graph,
                keep,
                blocks,
                inputs=noisy.args,
                kwargs=noisy.kwargs,
                forward_fn=noisy.forward_fn,
                tolerance=_DIFFERENT_HALF if half else _DIFFERENT,
            )
        except Exception as error:  # the meta device skips some checks of the real kernels
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"the model cannot run with it cut: {message}"
        if result.ok:
            return None
        return (
            "cut to size it does not compute what it computes masked "
            f"(relative error {result.max_relative_error:.1e}); a size is written as a number in its code"
        )

    # a model that is random, or does not run on the CPU in fp32, is only tried for its shapes
    repeatable = run(graph, {}, ()) is None
    return [run] if repeatable and tree_leaves((example.args, dict(example.kwargs))) else []


def _noise(tensor: Tensor) -> Tensor:
    # an example of zeros would hide differences
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor


def _shapes(output: Any) -> Any:
    return tree_map(lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else None, output)


def _sample(graph: ChannelGraph, names: Sequence[str], share: float) -> dict[str, list[int]]:
    """Return what a sample cut keeps: all but the first channel, or a random part."""
    keep = {}
    for name in names:
        size = graph.groups[name].size
        count = min(size - 1, max(1, round(share * size)))
        gone = set(random.Random(name).sample(range(size), count)) if share else {0}
        keep[name] = [channel for channel in range(size) if channel not in gone]
    return keep
