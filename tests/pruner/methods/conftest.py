"""A tiny network with a residual highway, a depthwise, a transposed and a linear layer, and its problem."""

import pytest
import torch
from torch import nn

from pruner.budget import Budget
from pruner.data.split import MemorySource, Split, Splits
from pruner.graph import trace
from pruner.methods import Problem


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.back = nn.Conv2d(5, 6, 1)
        self.depth = nn.Conv2d(6, 6, 3, groups=6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = x + self.back(torch.relu(self.norm(self.inner(x))))
        return self.fc(torch.tanh(self.up(self.depth(x))).mean((2, 3)))


def data(images=24, classes=3):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 1, 6, 6), generator=random, dtype=torch.uint8)
    source = MemorySource(pixels, torch.arange(images) % classes)
    parts = [
        Split(name, lambda: source, mean=(0.5,), std=(0.25,)) for name in ("train", "validation", "test")
    ]
    return Splits(*parts, tuple("abc"), (1, 6, 6), (0.5,), (0.25,))


@pytest.fixture
def problem(tmp_path):
    def make(*, seed=0, splits="data", batch_size=8):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = Net()
            model(torch.randn(16, 1, 6, 6))  # statistics of the norm that are not the default
            model.norm.weight.data.uniform_(0.5, 1.5)
        model.eval()
        return Problem(
            model=model,
            graph=trace(model, torch.zeros(2, 1, 6, 6)),
            cost=None,
            budget=Budget.parse("macs=0.5x"),
            ratio=0.5,
            splits=data() if splits == "data" else splits,
            epochs=0,
            seed=seed,
            state_dir=tmp_path,
            batch_size=batch_size,
        )

    return make


@pytest.fixture
def producers():
    """By hand: the filters of each channel, per group and layer that writes it."""

    def find(model):
        highway = [model.stem.weight, model.back.weight, model.depth.weight]
        groups = {"stem": highway, "inner": [model.inner.weight], "up": [model.up.weight.transpose(0, 1)]}
        return {
            name: [[w[c].detach().flatten().double() for w in weights] for c in range(weights[0].shape[0])]
            for name, weights in groups.items()
        }

    return find
