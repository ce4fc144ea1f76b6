"""A small network with a residual block, a depthwise and a grouped convolution, and exact tables of it."""

import pytest
import torch
from torch import nn

from latency_model.harvest import harvest
from latency_model.measurement import NetworkRow
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel
from profiler.backends.fake import FakeDevice
from profiler.plan import plan


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Tiny(nn.Module):
    input_shape = (3, 12, 12)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.branch = Branch()
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.point = nn.Conv2d(16, 32, 1)
        self.last = nn.Conv2d(32, 20, 3)
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        x = self.depthwise(self.branch(self.stem(x)))
        x = torch.relu(self.last(torch.relu(self.point(x))))
        return self.fc(x.mean((2, 3)))


class Kit:
    """What the tests of a pruning run need, as one fixture: modules of tests cannot import each other."""

    def __init__(self):
        torch.manual_seed(0)
        self.loaded = LoadedModel("tiny", Tiny().eval(), Tiny.input_shape, 5)

    @staticmethod
    def device(**options):
        return FakeDevice(**{"noise": 0.0, "tile_in": 2, "tile_out": 2, "macs_per_us": 2e3, **options})

    def table(self, *, batches=(1,), precision="fp32", step=2, whole=1.0, **options):
        """A table of the fake device; each network takes ``whole`` times the sum of its rows, and 3 us."""
        device, rows, networks = self.device(**options), {}, []
        for batch in batches:
            network = harvest(self.loaded, batch=batch, precision=precision)
            for shape in plan([network], step=step):
                rows[shape] = device.measure(shape, run_id="test")
            shapes = tuple(shape for _, shape in network.shapes())
            total = whole * sum(rows[shape].latency_us for shape in shapes) + 3.0
            timed = device.measure(shapes[0], run_id="test")
            networks.append(NetworkRow(self.loaded.name, shapes, scaled(timed, total)))
        return LatencyTable(device.environment, rows, tuple(networks))


def scaled(row, latency_us):
    """Return ``row`` as if it had taken ``latency_us``."""
    import dataclasses

    times = ("latency_us", "low_us", "high_us", "p5_us", "p25_us", "p75_us", "p95_us", "min_us")
    return dataclasses.replace(row, **dict.fromkeys(times, latency_us))


@pytest.fixture
def kit(monkeypatch):
    """The network and its tables; `prepare("tiny", …)` finds the network."""
    import pruner.setting

    kit = Kit()
    real = pruner.setting.load_model
    monkeypatch.setattr(
        pruner.setting, "load_model", lambda name: kit.loaded if name == "tiny" else real(name)
    )
    return kit
