"""Graphs, sessions and measuring together: real sessions on the CPU, their nodes shown as an H100 names kernels."""

import dataclasses
import random
import time

import pytest

from latency_model import ConvShape
from profiler.gpu.buffers import Buffers
from profiler.gpu.ort_runtime import OrtRuntime
from profiler.gpu.ort_session import Bound
from profiler.gpu.program import GpuState, Kernel
from profiler.testing import small_network
from profiler.typed_graphs import config_of_node

backend_module = pytest.importorskip("profiler.gpu.backend")

NAMES = {
    "Neg": "void onnxruntime::cuda::_UnaryElementWise<float, float, onnxruntime::cuda::OP_Neg<float>, 256, 4>",
    "Transpose": "void onnxruntime::cuda::Transpose3DKernel<short, 32u>(long, ",
    "ReorderOutput": "void onnxruntime::cuda::Transpose3DKernel<short, 32u>(long, ",
    "ReorderInput": "void onnxruntime::cuda::Transpose3DKernel<short, 32u>(long, ",
}


RAN = []  # the sessions that ran, in order


@pytest.fixture(autouse=True)
def _watch(monkeypatch):
    run = Bound.run
    monkeypatch.setattr(Bound, "run", lambda bound: (RAN.append(bound), run(bound))[1])


class OnCpu(OrtRuntime):
    provider = "CPUExecutionProvider"
    name = "test"
    precisions = ("fp32",)
    at_once = 8

    def __init__(self):
        super().__init__(Buffers("cpu"), stream=0, versions={"device": "a CPU"}, options={})

    def options(self, *, tf32, graph):
        return {}


class ShownClock:
    """Runs what it is given and reports the nodes that ran, each convolution for as many us as it reads channels."""

    def elapsed_us(self, run, *, runs=1):
        start = time.perf_counter_ns()
        for _ in range(runs):
            run()
        return (time.perf_counter_ns() - start) / 1e3 / runs

    def trace(self, steps, *, runs):
        return [[self._kernels(step) for step in steps] for _ in range(runs)]

    def _kernels(self, run):
        RAN.clear()
        run()
        kernels = []
        for bound, (name, kind, _) in [(each, node) for each in RAN for node in each.ran]:
            given = bound._tensors.get(f"config{config_of_node(name)}/0/x0")
            duration = float(given.shape[1]) if "Conv" in kind and given is not None else 0.001
            kernels.append(Kernel(NAMES.get(kind, kind), float(len(kernels)), duration))
        return kernels

    def evict(self):
        pass

    def synchronise(self):
        pass

    def state(self):
        return GpuState()

    def close(self):
        pass


def test_every_row_is_its_own_and_its_outputs_are_right():
    rng = random.Random(3)
    channels = rng.sample(range(1, 60), 20)
    shapes = [
        ConvShape(1, count, 6, 6, rng.randint(1, 9), pattern=rng.choice(("conv", "conv+relu", "conv+bias+add+relu")))
        for count in channels
    ]  # fmt: skip
    backend = backend_module.GpuBackend(OnCpu(), ShownClock(), builds=2, cold=False)
    with backend:
        rows = dict(backend.measure_many(shapes, run_id="test"))
    assert set(rows) == set(shapes)
    for shape, row in rows.items():
        assert not isinstance(row, Exception), row
        assert row.method == "kernel-trace"
        # Twenty numbers, all different: a row that got another configuration's kernels has another time.
        assert row.latency_us == pytest.approx(shape.in_channels, abs=0.5)
        assert row.error is not None and row.error < 1e-4


def test_a_precision_that_fails_costs_itself_alone():
    good = ConvShape(1, 4, 6, 6, 4)
    bad = dataclasses.replace(good, precision="int8")
    with backend_module.GpuBackend(OnCpu(), ShownClock(), builds=2, cold=False) as backend:
        rows = dict(backend.measure_many([good, bad], run_id="test"))
    assert "not int8" in str(rows[bad])
    assert rows[good].latency_us > 0


def test_networks_take_turns():
    small, large = small_network(channels=8, size=8), small_network(channels=64, size=48)
    with backend_module.GpuBackend(OnCpu(), ShownClock()) as backend:
        rows = backend.time_networks([large, small], rounds=3)
    assert rows[1].latency_us < rows[0].latency_us
