"""Trace, cut at random and check torchvision's classification models with the removal oracle.

Run: python benchmarks/graph_zoo.py [--size 64] [--json results.json] [MODEL ...]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

from latency_model.errors import GharialError
from pruner.graph import trace
from pruner.oracle import check

MODELS = (
    *("resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "regnet_x_800mf", "regnet_y_400mf"),
    *("mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0", "efficientnet_b0", "efficientnet_v2_s"),
    *("shufflenet_v2_x1_0", "densenet121", "googlenet", "inception_v3", "squeezenet1_1", "convnext_tiny"),
    *("vgg16_bn", "alexnet"),
)
SMALLEST = {"inception_v3": 75}


def examine(name: str, size: int, seed: int) -> dict[str, Any]:
    """Return one row: groups, blocks, share of layers that can be cut, oracle error, seconds."""
    torch.manual_seed(seed)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(**options).eval()
    side = max(size, SMALLEST.get(name, 0))
    images = torch.randn(2, 3, side, side)
    start = time.perf_counter()
    try:
        graph = trace(model, images)
    except GharialError as error:
        return {"model": name, "error": str(error)}
    seconds = time.perf_counter() - start
    rng = random.Random(seed)
    keep = {
        group: sorted(rng.sample(range(size), max(1, round(0.75 * size))))
        for group, size in graph.sizes().items()
    }
    blocks = [block.name for block in graph.blocks][::3]
    cut = [site for site in graph.sites if site.inputs.terms or site.outputs.terms]
    result = check(model, graph, keep, inputs=images, seed=seed)
    without = check(model, graph, keep, blocks, inputs=images, seed=seed)
    return {
        "model": name,
        "groups": len(graph.groups),
        "channels": sum(graph.sizes().values()),
        "blocks": len(graph.blocks),
        "sites": len(graph.sites),
        "prunable_sites": len(cut),
        "frozen": [f"{entry.what}: {entry.why}" for entry in graph.frozen if entry.why != "model output"],
        "relative_error": result.max_relative_error,
        "relative_error_blocks_removed": without.max_relative_error,
        "ok": result.ok and without.ok,
        "trace_s": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.models or MODELS:
        rows.append(examine(name, options.size, options.seed))
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
