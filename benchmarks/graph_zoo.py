"""Trace 51 networks and 4 detectors, cut a quarter of every group at random, and check what remains.

For each model: seconds of the trace, groups, convolutions that can be cut, error against the removal oracle
(with and without removed blocks), difference between PyTorch and ONNX Runtime after the cut, and whether the
cut module can be deep-copied, saved, rebuilt from its constructor, exported, compiled and trained.

Run: python benchmarks/graph_zoo.py [--models resnet18 timm...] [--json benchmarks/graph_zoo.json] [--again]
Rows are written after each model; a second run goes on with the models that the file lacks.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))
from common import commit
from graph_zoo_models import DETECTORS, NAMES, build, forward_fn, inputs

from latency_model.errors import GharialError
from pruner.graph import ChannelGraph, trace
from pruner.oracle import check, randomise
from pruner.plan import Plan
from pruner.saved import SPEC, WEIGHTS, rebuild, save_pruned
from pruner.surgery import apply

SHARE = 0.25
ONNX_TOLERANCE = 1e-4
COMPILED = ("resnet18", "res2net50_26w_4s", "mobilenet_v2", "shufflenet_v2_x1_0", "rexnet_100")
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


class Captured(nn.Module):
    """The captured part of a model as a module, for the exporters."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: Tensor) -> Any:
        return self.function(self.model, images)


def examine(name: str, seed: int) -> dict[str, Any]:
    """Return the row of one model."""
    torch.manual_seed(seed)
    model, images, function = build(name), inputs(name), forward_fn(name)
    start = time.perf_counter()
    graph = trace(model, images, forward_fn=function)
    seconds = time.perf_counter() - start
    rng = random.Random(seed)
    removed = {
        group: tuple(rng.sample(range(size), min(size - 1, round(SHARE * size))))
        for group, size in graph.sizes().items()
    }
    plan = Plan(graph.fingerprint, removed)
    blocks = [block.name for block in graph.blocks][::3]
    keep = plan.keep(graph)
    options: dict[str, Any] = {"inputs": images, "forward_fn": function, "seed": seed}
    result = check(model, graph, keep, **options)
    without = check(model, graph, keep, blocks, **options) if blocks else result
    row: dict[str, Any] = {
        "model": name,
        "image": images.shape[-1],
        "trace_s": round(seconds, 1),
        "groups": len(graph.groups),
        "channels": sum(graph.sizes().values()),
        "blocks": len(graph.blocks),
        "attributes": len(graph.attributes),
        "normalised": len(graph.normalised),
        **convolutions(model, graph),
        "error": result.max_relative_error,
        "error_blocks_removed": without.max_relative_error,
    }
    # without it some random networks compute almost the same for every image
    randomise(model, torch.Generator().manual_seed(seed))
    pruned = apply(model, graph, plan)
    module = Captured(pruned, function).eval() if function else pruned
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["parameters_after"] = sum(p.numel() for p in pruned.parameters())
    for key, test in {
        "onnx_difference": lambda: onnx_difference(module, images),
        "deepcopy": lambda: same(copy.deepcopy(module), module, images),
        "saved": lambda: same(reloaded(module), module, images),
        "rebuilt": lambda: rebuilds(name, model, pruned, graph, plan, module, images),
        "exported": lambda: same(torch.export.export(module, (images,)).module(), module, images),
        "compiled": lambda: compiles(module, images) if name in COMPILED else None,
        "trained": lambda: trains(module, images),
        "whole_detector": lambda: detects(pruned, images) if name in DETECTORS else None,
    }.items():
        try:
            row[key] = test()
        except Exception as error:
            row[key] = f"failed: {type(error).__name__}: {(str(error) or '?').splitlines()[0][:160]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["ok"] = (
        result.ok
        and without.ok
        and (row["prunable_convs"] >= 0.9 * row["convs"] or row["explained"])
        and isinstance(row["onnx_difference"], float)
        and row["onnx_difference"] <= ONNX_TOLERANCE
        and all(row[key] in (True, None) for key in ("deepcopy", "saved", "rebuilt", "exported", "compiled"))
        and row["whole_detector"] in (True, None)
    )
    return row


def convolutions(model: nn.Module, graph: ChannelGraph) -> dict[str, Any]:
    """Return how many convolutions can be cut on at least one side, or on both, and why others stay."""
    convs = {path for path, module in model.named_modules() if isinstance(module, _ConvNd)}
    sites = [site for site in graph.sites if site.name in convs]
    either = {site.name for site in sites if site.inputs.terms or site.outputs.terms}
    reasons = {entry.what: entry.why for entry in graph.frozen if entry.why != "model output"}
    return {
        "convs": len(convs),
        "prunable_convs": len(either),
        "prunable_convs_both_sides": sum(bool(s.inputs.terms and s.outputs.terms) for s in sites),
        "explained": convs - either <= set(reasons) | {e.what for e in graph.frozen},
        "frozen": reasons,
    }


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]


def difference(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    """Return the largest difference of two lists of tensors relative to the largest value of each."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(left, right, strict=True)
    )


def same(left: nn.Module, right: nn.Module, images: Tensor) -> bool:
    return difference(outputs(left, images), outputs(right, images)) < 1e-6


def reloaded(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


def rebuilds(
    name: str,
    model: nn.Module,
    pruned: nn.Module,
    graph: ChannelGraph,
    plan: Plan,
    module: nn.Module,
    images: Tensor,
) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(pruned, folder, original=model, graph=graph, plan=plan)
        again = rebuild(lambda: build(name), Path(folder) / SPEC, Path(folder) / WEIGHTS)
    function = forward_fn(name)
    return same(Captured(again, function).eval() if function else again, module, images)


def onnx_difference(module: nn.Module, images: Tensor) -> float:
    """Return the relative difference between PyTorch and ONNX Runtime on the CPU."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(module, (images,), path, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        values = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return difference(map(torch.from_numpy, values), outputs(module, images))


def compiles(module: nn.Module, images: Tensor) -> bool:
    compiled: Any = torch.compile(module, backend="eager")
    return same(compiled, module, images)


def trains(module: nn.Module, images: Tensor) -> bool:
    """Return whether every gradient of a training step is finite."""
    module = copy.deepcopy(module).train()
    leaves = [leaf for leaf in tree_leaves(module(images)) if isinstance(leaf, Tensor)]
    torch.stack([leaf.float().square().mean() for leaf in leaves if leaf.requires_grad]).sum().backward()
    found = [p.grad for p in module.parameters() if p.grad is not None]
    return bool(found) and all(bool(gradient.isfinite().all()) for gradient in found)


def detects(pruned: nn.Module, images: Tensor) -> bool:
    """Return whether the whole detector, with its choice of boxes, runs on two images."""
    with torch.no_grad():
        found = pruned.eval()(list(images))
    return len(found) == len(images) and all({"boxes", "scores"} <= set(entry) for entry in found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="only models whose name holds one of these"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--again", action="store_true", help="also those that the file has already")
    options = parser.parse_args()
    stored = json.loads(options.json.read_text()) if options.json.exists() else {}
    rows: dict[str, dict[str, Any]] = {row["model"]: row for row in stored.get("rows", [])}
    names = [n for n in NAMES if not options.models or any(part in n for part in options.models)]
    names = [n for n in names if options.again or n not in rows]
    revision = commit()
    for number, name in enumerate(names, 1):
        try:
            row = examine(name, options.seed)
        except GharialError as error:
            row = {"model": name, "ok": False, "failure": str(error)}
        row |= {"commit": revision, "seed": options.seed}
        rows[name] = row
        brief = {key: value for key, value in row.items() if key != "frozen"}
        print(f"[{number}/{len(names)}] {json.dumps(brief)}", flush=True)
        versions = {package: version(package) for package in PACKAGES}
        ordered = [rows[n] for n in NAMES if n in rows]
        text = json.dumps({"versions": versions, "share": SHARE, "rows": ordered}, indent=1)
        options.json.with_suffix(".part").write_text(text + "\n")
        options.json.with_suffix(".part").replace(options.json)
    bad = [name for name, row in rows.items() if not row["ok"]]
    print(f"{len(rows) - len(bad)} of {len(rows)} pass{': not ' + ', '.join(bad) if bad else ''}")


if __name__ == "__main__":
    main()
