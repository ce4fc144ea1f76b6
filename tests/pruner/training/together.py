"""Run under torchrun, or alone, by test_together.py: trains and writes what each process ended with.

Arguments: a folder; a table to prune with, or - for none; and "kill" to end the last process in the second epoch of the
plain training by a signal.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from latency_model import ConvShape, NetworkCost, Site
from pruner.budget import Budget
from pruner.cost import macs_cost
from pruner.data import load_data
from pruner.graph import trace
from pruner.methods import Problem, open_method
from pruner.pipeline import PruneRequest, prune
from pruner.training import evaluate, fit
from pruner.training.fabric import open_processes
from pruner.training.state import save_tensors


class Net(nn.Module):
    def __init__(self, width=8, dropout=0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(1, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        x = x.double()  # so that sums of other order differ by less than training can amplify
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.dropout(torch.relu(self.bn2(self.conv2(x))))
        return self.fc(x.mean((2, 3)))


def main(out, table=None, *, kill=False):
    torch.set_num_threads(1)
    processes = open_processes()
    splits = load_data("digits", seed=0)
    torch.manual_seed(0)
    teacher, model = Net().double().eval(), Net().double().eval()
    # Plain training, whose last batch is cut short, with an average, clipping and a teacher.
    plain = Net().double()
    plain.load_state_dict(model.state_dict())
    if not processes.first:  # the first process's weights are everyone's
        plain.fc.weight.data.add_(1)

    def die(step):
        if kill and step.epoch == 1 and step.step % 2 and processes.rank == processes.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    history = fit(
        plain,
        splits,
        epochs=2,
        lr=0.1,
        teacher=teacher,
        distill_weight=0.2,
        ema=0.9,
        clip_norm=0.5,
        batch_size=301,
        processes=processes,
        state_dir=out / "plain",
        on_step=die,
    )
    # Dropout draws otherwise in each process; it must still leave all with one network.
    dropped = Net(dropout=0.5).double()
    fit(dropped, splits, epochs=1, lr=0.1, batch_size=301, validate=False, processes=processes)
    graph = trace(model, torch.zeros(2, 1, 16, 16))
    axes = graph.axes()
    shapes = {"conv1": ConvShape(1, 1, 16, 16, 8), "conv2": ConvShape(1, 8, 8, 8, 8)}
    sites = tuple(Site(name, shape, *axes[name]) for name, shape in shapes.items())
    problem = Problem(
        model=model,
        graph=graph,
        cost=macs_cost(NetworkCost("net", sites, graph.sizes())),
        budget=Budget.parse("macs=0.5x"),
        ratio=0.5,
        splits=splits,
        epochs=1,
        seed=0,
        state_dir=out / "gator",
        batch_size=65,
        learning_rate=0.05,
        teacher=teacher,
        processes=processes,
    )
    values = open_method("gator").values(problem)
    tensors = {f"plain.{name}": tensor for name, tensor in plain.state_dict().items()}
    tensors |= {f"dropped.{name}": tensor for name, tensor in dropped.state_dict().items()}
    tensors |= {f"gator.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"values.{name}": torch.tensor(worth) for name, worth in values.channels.items()}
    save_tensors(out / f"tensors{processes.rank}.safetensors", tensors, {})
    told = {
        "losses": [record.loss for record in history.epochs],
        "train": [record.train_accuracy for record in history.epochs],
        "validation": [record.validation_accuracy for record in history.epochs],
        "test": evaluate(plain, splits.test, processes=processes),
        "alone": evaluate(plain, splits.test),
        "open": dict(values.open_counts),
        "notes": dict(values.notes),
    }
    if table is not None:
        request = PruneRequest(
            model="together:plain_net",
            table=str(table),
            budget="latency=0.7x",
            data="digits",
            epochs=1,
            finetune_epochs=1,
        )
        told["report"] = prune(request, out / "prune").to_json()
    (out / f"told{processes.rank}.json").write_text(json.dumps(told))


def plain_net():
    """A network to prune, in single precision."""
    return Plain(64)


class Plain(Net):
    input_shape = (1, 16, 16)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), None if sys.argv[2] == "-" else Path(sys.argv[2]), kill="kill" in sys.argv)
