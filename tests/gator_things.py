"""A small network with staircases and macs, and the problem that Gator is given with it."""

import numpy as np
import torch
from torch import nn

from latency_model import ConvShape, NetworkCost, Site
from pruner.budget import Budget
from pruner.cost import Cost, macs_cost
from pruner.graph import trace
from pruner.methods.base import Problem


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def network(graph):
    axes = graph.axes()
    shapes = {"conv1": ConvShape(1, 1, 16, 16, 16), "conv2": ConvShape(1, 16, 8, 8, 16)}
    sites = tuple(Site(name, shape, *axes[name]) for name, shape in shapes.items())
    return NetworkCost("net", sites, graph.sizes())


def stairs(graph, step=8):
    parts = network(graph)
    matrices = {}
    for site in parts.sites:
        a = np.arange(site.shape.in_channels + 1)[:, None]
        b = np.arange(site.shape.out_channels + 1)[None, :]
        matrices[site.name] = np.ceil(a / step) * np.ceil(b / step) * 10.0
    return Cost("latency", parts, matrices, constant=2.0)


def problem(splits, directory, *, epochs=2, seed=0):
    torch.manual_seed(0)
    model = Net().eval()
    graph = trace(model, torch.zeros(2, 1, 16, 16))
    return Problem(
        model=model,
        graph=graph,
        cost=macs_cost(network(graph)),
        budget=Budget.parse("macs=0.5x"),
        ratio=0.5,
        splits=splits,
        epochs=epochs,
        seed=seed,
        state_dir=directory,
        batch_size=64,
        learning_rate=0.05,
    )
