"""How much longer does a training step take with Gator's gates?

    OMP_NUM_THREADS=1 python benchmarks/gate_overhead.py

Forward, backward and the step of the optimizer, with and without gates by turns on the same network; with gates also
the price of the present state, the masks and the gates' own step. In channels-last order and with freed memory kept, as
``fit`` trains, in fp32 and in bf16; without the teacher, whose forward pass would hide a part. Processor time of one
thread, medians. Writes gate_overhead.csv beside this file.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import commit, write_lines

from latency_model.harvest import harvest
from latency_model.zoo import load_model
from pruner.budget import Budget
from pruner.cost import macs_cost
from pruner.graph import trace
from pruner.methods.base import Problem
from pruner.methods.gating import Gating
from pruner.methods.gator import GatorConfig
from pruner.training import Step
from pruner.training.memory import kept_memory

HERE = Path(__file__).parent
CASES = (("resnet20", 128, 32), ("resnet56", 64, 32), ("torchvision:resnet50", 8, 96))
TURNS = 7


def main() -> None:
    """Time every case and write the table."""
    torch.set_num_threads(1)
    with kept_memory():
        lines = [case(*each, half=half) for each in CASES for half in (False, True)]
    write_lines(HERE / "gate_overhead.csv", lines)


def case(name: str, batch: int, side: int, *, half: bool) -> dict[str, object]:
    """Return the times of one network."""
    torch.manual_seed(0)
    loaded = load_model(name)
    assert loaded.module is not None
    model = loaded.module.train().to(memory_format=torch.channels_last)
    graph = trace(model, torch.zeros(2, *loaded.input_shape))
    network = harvest(loaded, batch=1, precision="fp32").regroup(graph.axes(), graph.sizes())
    problem = Problem(
        model=model,
        graph=graph,
        cost=macs_cost(network),
        budget=Budget.parse("macs=0.5x"),
        ratio=0.5,
        splits=None,
        epochs=1,
        seed=0,
        state_dir=Path(),
    )
    gating = Gating(problem, GatorConfig())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(batch, 3, side, side), torch.randint(0, 10, (batch,))
    images = images.contiguous(memory_format=torch.channels_last)

    def step(number: int, *, gated: bool) -> float:
        at = Step(0, 1, number, 1000, 0.01)
        begin = time.process_time()
        if gated:
            gating.before_step(at)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if gated:
            gating.after_step(at)
        return time.process_time() - begin

    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(TURNS):
        times[False].append(step(turn, gated=False))
        gating.gates.attach(model)
        times[True].append(step(turn, gated=True))
        gating.gates.detach()
    plain, gated = (float(np.median(times[which][1:])) for which in (False, True))
    line = {
        "model": name,
        "batch": batch,
        "side": side,
        "precision": "bf16" if half else "fp32",
        "plain_s": round(plain, 4),
        "gated_s": round(gated, 4),
        "overhead_percent": round(100 * (gated / plain - 1), 1),
        "commit": commit(),
        "versions": f"python {platform.python_version()} torch {torch.__version__}",
    }
    print(line, flush=True)
    return line


if __name__ == "__main__":
    main()
