"""The GPU program of ONNX Runtime on the CPU, and what its outputs must be."""

import random

import torch
from torch.nn import functional

from latency_model import ConvShape
from profiler.gpu.buffers import Buffers
from profiler.gpu.ort_runtime import OrtRuntime
from profiler.graphs import reference_inputs

CPU = "CPUExecutionProvider"
VERSIONS = {"device": "a CPU"}


class OnCpu(OrtRuntime):
    """The shared part as it is, on the provider that every build of ONNX Runtime has."""

    provider = CPU
    name = "test"
    precisions = ("fp32", "tf32", "fp16")
    at_once = 64

    def __init__(self, *, channels_last=False):
        super().__init__(Buffers("cpu"), stream=0, versions=VERSIONS, options={})
        self.channels_last = channels_last
        self.asked = []

    def options(self, *, tf32, graph):
        self.asked.append((tf32, graph))
        return {}


def shapes(count=12):
    rng = random.Random(0)
    patterns = ("conv", "conv+bias+relu", "conv+bias+add+relu", "conv+relu", "conv+bias+silu", "conv+add")
    return [
        ConvShape(1, rng.randint(1, 20), 8, 9, rng.randint(1, 20), pattern=rng.choice(patterns))
        for _ in range(count)
    ]


def expected(shape):
    given = reference_inputs(shape)
    x, *added = map(torch.from_numpy, given.inputs)
    y = functional.conv2d(x, *map(torch.from_numpy, given.weights), padding=1)
    y = y + sum(added)
    act = {"relu": functional.relu, "silu": functional.silu}.get(shape.pattern.rpartition("+")[2])
    return (act(y) if act else y).numpy()


def in_order(program):
    return [config for step in program.steps for config in step.configs]
