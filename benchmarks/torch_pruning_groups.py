"""Does the channel graph couple the same channels as Torch-Pruning 1.6.1, where that succeeds?

    pip install --target TP --no-deps torch-pruning==1.6.1
    PYTHONPATH=TP python benchmarks/torch_pruning_groups.py

For every group of our graph and some of its channels: the positions of weights of convolutions and linear layers that
go with the channel, against those that Torch-Pruning's dependency graph names when the same output channel of the
group's first layer is pruned. Of a grouped convolution ours couples the same place of every group, theirs (at this
level; its pruners add the rest) names one channel, which alone cannot be cut: "ours more". Writes
torch_pruning_groups.csv beside this file: channels compared, equal, and how those differ that are not.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from common import commit, write_lines
from torch import nn

from pruner.graph import trace
from pruner.graph.types import ChannelGraph, Group

HERE = Path(__file__).parent
MODELS = (
    *("resnet18", "resnet50", "wide_resnet50_2", "vgg16_bn", "alexnet", "squeezenet1_1", "mobilenet_v2"),
    *("mobilenet_v3_large", "mnasnet1_0", "efficientnet_b0", "regnet_x_800mf", "regnet_y_400mf"),
    *("densenet121", "googlenet", "inception_v3", "resnext50_32x4d"),
)
CHANNELS = 3  # of each group: the first, one in the middle, the last
Places = set[tuple[str, int, int]]


def main() -> None:
    """Compare every model and write the table."""
    lines = []
    for name in MODELS:
        lines.append(compare(name))
        print(lines[-1], flush=True)
        write_lines(HERE / "torch_pruning_groups.csv", lines)


def compare(name: str) -> dict[str, object]:
    """Return the line of one model."""
    import torch_pruning as tp

    torch.manual_seed(0)
    heads = name in ("googlenet", "inception_v3")
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if heads else {}
    model = getattr(torchvision.models, name)(weights=None, **options).eval()
    side = 299 if name == "inception_v3" else 224
    images = torch.randn(2, 3, side, side)
    begin = time.perf_counter()
    graph = trace(model, images)
    ours_s = time.perf_counter() - begin
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = tp.DependencyGraph().build_dependency(model, example_inputs=images)
    theirs_s = time.perf_counter() - begin
    modules = dict(model.named_modules())
    names = {module: key for key, module in modules.items()}
    found: Counter[str] = Counter()
    for group in graph.groups.values():
        writer = first_writer(graph, group)
        for channel in sorted({0, group.size // 2, group.size - 1}):
            mine = places(group, channel, modules)
            start = next((at for key, axis, at in sorted(mine) if key == writer and axis == 0), None)
            if start is None:
                found["no start"] += 1
                continue
            try:
                other = pruned_with(tp, theirs, modules[writer], start, names)
            except Exception as error:
                found[f"theirs raises {type(error).__name__}"] += 1
                continue
            found[
                "equal"
                if mine == other
                else "ours more"
                if mine > other
                else "ours less"
                if mine < other
                else "different"
            ] += 1
    compared = sum(found.values())
    return {
        "model": name,
        "groups": len(graph.groups),
        "channels_compared": compared,
        "equal": found.pop("equal", 0),
        "others": "; ".join(f"{count} {what}" for what, count in sorted(found.items())),
        "ours_s": round(ours_s, 1),
        "theirs_s": round(theirs_s, 1),
        "commit": commit(),
        "versions": f"python {platform.python_version()} torch {torch.__version__} "
        f"torch-pruning {version('torch-pruning')}",
    }


def first_writer(graph: ChannelGraph, group: Group) -> str:
    """Return the first layer that writes ``group``."""
    return next(s.name for s in graph.sites if any(g == group.name for g, _ in s.outputs.terms))


def places(group: Group, channel: int, modules: dict[str, nn.Module]) -> Places:
    """Return (layer, axis of its weight, position) for all that goes with ``channel``, in convolutions and linears."""
    found = set()
    for member in group.members:
        layer, _, leaf = member.parameter.rpartition(".")
        if leaf == "weight" and isinstance(modules.get(layer), nn.Conv2d | nn.Linear):
            found |= {(layer, member.axis, at) for at in member.indices[channel]}
    return found


def pruned_with(tp: Any, graph: Any, layer: nn.Module, at: int, names: dict[nn.Module, str]) -> Places:
    """Return the same for what Torch-Pruning would prune with output channel ``at`` of ``layer``."""
    prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels:
        prune = tp.prune_depthwise_conv_out_channels
    found: Places = set()
    for dependency, indices in graph.get_pruning_group(layer, prune, idxs=[at]):
        module = dependency.target.module
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        depthwise = (
            isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels
        )
        axis = 0 if depthwise or "out" in dependency.handler.__name__ else 1
        found |= {(names[module], axis, int(index)) for index in indices}
    return found


if __name__ == "__main__":
    main()
