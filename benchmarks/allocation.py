"""How long does the integer programme take, and how near to the best does it prove to be?

    python benchmarks/allocation.py

Random values of channels; the cost is a staircase of tiles and waves as of a GPU (a formula, no measurement) and the
multiply-accumulates, at budgets of 0.8, 0.6 and 0.4. ResNet-50 has residual highways and removable blocks, DenseNet-121
groups that feed concatenations. Writes allocation.csv beside this file.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from common import commit, versions, write_lines

from latency_model.errors import BudgetError
from latency_model.harvest import harvest
from latency_model.network import NetworkCost
from latency_model.zoo import load_model
from pruner.allocate import allocate
from pruner.cost import Cost, macs_cost
from pruner.graph import trace
from pruner.setting import FLOOR

HERE = Path(__file__).parent
MODELS = ("torchvision:resnet50", "torchvision:densenet121")
UNITS, SPAN, WIDE, DEEP = 132, 128, 64, 32


def main() -> None:
    """Allocate every case and write the table."""
    lines = [line for name in MODELS for line in cases(name)]
    write_lines(HERE / "allocation.csv", lines)


def staircase(network: NetworkCost) -> Cost:
    """Return a cost of whole tiles in whole waves."""
    matrices = {}
    for site in network.sites:
        shape = site.shape
        pixels, taps = shape.batch * shape.out_height * shape.out_width, shape.kernel[0] * shape.kernel[1]
        inputs, outputs = (np.arange(n + 1) for n in (shape.in_channels, shape.out_channels))
        if shape.depthwise:
            matrices[site.name] = np.ceil(inputs / 8) * 8 * pixels * taps / 1e6
            continue
        waves = np.ceil(np.ceil(pixels / SPAN) * np.ceil(outputs / WIDE) / UNITS)
        each = np.ceil(inputs / shape.groups / DEEP) * DEEP * taps * SPAN * WIDE / 1.5e6
        matrices[site.name] = np.where(
            (inputs[:, None] > 0) & (outputs > 0), 2.0 + each[:, None] * waves, 0.0
        )
    return Cost("latency", network, matrices, constant=10.0)


def cases(name: str) -> list[dict[str, object]]:
    """Return the lines of one network."""
    loaded = load_model(name)
    assert loaded.module is not None
    begin = time.monotonic()
    graph = trace(loaded.module.eval(), torch.zeros(2, *loaded.input_shape))
    traced = time.monotonic() - begin
    network = harvest(loaded, batch=8, precision="fp16").regroup(graph.axes(), graph.sizes())
    blocks = {block.name: block.groups for block in graph.blocks if block.groups}
    rng = np.random.default_rng(0)
    channels = {group: rng.uniform(0.1, 1, size) for group, size in graph.sizes().items()}
    floors = {group: max(1, round(FLOOR * size)) for group, size in graph.sizes().items()}
    lines = []
    for cost in (staircase(network), macs_cost(network)):
        for share in (0.8, 0.6, 0.4):
            begin = time.monotonic()
            ratio, gap, gone, note = "", "", "", ""
            try:
                got = allocate([(cost, share * cost.full)], channels, blocks, floors=floors)
            except BudgetError as error:
                note = str(error)
            else:
                ratio, gap, gone = f"{got.costs[0] / cost.full:.4f}", f"{got.gap:.1e}", str(len(got.blocks))
            line = {
                "model": name,
                "cost": cost.metric,
                "budget": share,
                "ratio": ratio,
                "gap": gap,
                "blocks_removed": gone,
                "seconds": round(time.monotonic() - begin, 1),
                "trace_seconds": round(traced, 1),
                "note": note,
                "commit": commit(),
                "versions": versions("scipy"),
            }
            print(line, flush=True)
            lines.append(line)
    return lines


if __name__ == "__main__":
    main()
