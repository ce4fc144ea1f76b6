"""ONNX Runtime's GPU runtimes, run on the CPU provider: everything but the options of the real providers."""

import contextlib
import dataclasses
import gc
import random
import weakref

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from gpu_programs import CPU, VERSIONS, OnCpu, expected, in_order, shapes
from onnx import TensorProto, helper

from latency_model import ConvShape
from latency_model.errors import MeasurementError
from latency_model.ops import OpShape
from profiler.gpu import ort_library, ort_session
from profiler.gpu.buffers import Buffers
from profiler.gpu.onnxruntime_gpu import OnnxRuntimeCuda
from profiler.gpu.ort_session import Bound, explained, network, open_session, order_of
from profiler.gpu.program import Program
from profiler.testing import small_network
from profiler.typed_graphs import packed


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_program_runs_every_configuration_and_says_in_which_order(channels_last):
    configs = shapes()
    with contextlib.closing(OnCpu(channels_last=channels_last).build(configs)) as program:
        assert isinstance(program, Program)
        assert len(program.steps) == 1
        assert sorted(in_order(program)) == sorted(configs)
        program.run()
        for config, output in zip(in_order(program), program.outputs(), strict=True):
            np.testing.assert_allclose(output, expected(config), atol=1e-4)


LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_markers_stay_with_their_configuration_at_every_optimisation_level(monkeypatch, level, precision):
    # Levels differ in the order of the configurations; none may tear one apart or drop a marker.
    monkeypatch.setattr(
        ort.GraphOptimizationLevel, "ORT_ENABLE_ALL", getattr(ort.GraphOptimizationLevel, level)
    )
    configs = [dataclasses.replace(shape, precision=precision) for shape in shapes(20)]
    made = packed(configs)
    bound = Bound(made, provider=CPU, options={}, buffers=Buffers("cpu"))
    assert sorted(order_of(bound.ran, 20)) == list(range(20))
    assert sum(kind == "Neg" for _, kind, _ in bound.ran) == 20
    bound.close()


def test_the_order_is_that_of_the_run_and_not_of_the_graph():
    # The reason for all this: on the CPU the nodes of independent configurations run back to front.
    configs = [ConvShape(1, 4, 6, 6, 4 + index, pattern="conv+bias+silu") for index in range(5)]
    with contextlib.closing(OnCpu().build(configs)) as program:
        assert in_order(program) != configs
        program.run()
        assert [output.shape[1] for output in program.outputs()] == [
            c.out_channels for c in in_order(program)
        ]


def test_order_of_accepts_exactly_what_is_not_torn_apart():
    rng = random.Random(1)
    verdicts = set()
    for _ in range(300):
        nodes = [
            [f"config{i}/0/{part}" for part in ("mark", "conv", "act")[: rng.randint(1, 3)]] for i in range(3)
        ]
        names = [name for group in rng.sample(nodes, 3) for name in group]
        if rng.random() < 0.7:
            names.insert(rng.randrange(len(names)), names.pop(rng.randrange(len(names))))
        ran = [(name, "Neg" if name.endswith("mark") else "Conv", CPU) for name in names]
        owners = [name[6] for name in names]
        runs = [owner for index, owner in enumerate(owners) if index == 0 or owners[index - 1] != owner]
        firsts = [names[owners.index(owner)] for owner in dict.fromkeys(owners)]
        good = len(runs) == 3 and all(name.endswith("mark") for name in firsts)
        verdicts.add(good)
        if good:
            assert order_of(ran, 3) == tuple(map(int, runs))
        else:
            with pytest.raises(MeasurementError):
                order_of(ran, 3)
    assert verdicts == {True, False}
    with pytest.raises(MeasurementError, match="1 of 2"):
        order_of([("config0/0/mark", "Neg", CPU)], 2)


def test_what_cannot_share_a_session_has_a_step_of_its_own():
    runtime = OnCpu()
    marker = OpShape.parse("op Neg 1x8x4x4 fp32 nchw")
    plain = ConvShape(1, 4, 6, 6, 4)
    tf32 = dataclasses.replace(plain, precision="tf32")
    half = dataclasses.replace(plain, precision="fp16")
    with contextlib.closing(runtime.build([plain, tf32, marker, half])) as program:
        assert [len(step.configs) for step in program.steps] == [2, 1, 1]
        assert runtime.asked == [(False, False), (True, False), (False, False)]


def test_copies_and_graphs_have_a_session_for_each_configuration():
    runtime = OnCpu()
    first, second = ConvShape(1, 4, 6, 6, 4), ConvShape(1, 4, 6, 6, 8)
    with contextlib.closing(runtime.build([first, second], copies=3)) as program:
        assert [step.configs for step in program.steps] == [(first,), (second,)]
        program.run()
        assert len(program.outputs()) == 2
    with contextlib.closing(runtime.build([first, second], graph=True)) as program:
        assert len(program.steps) == 2
    assert runtime.asked[-1] == (False, True)


def test_a_single_configuration_has_no_marker(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "profiler.gpu.ort_runtime.packed", lambda *a, **k: seen.append(k["markers"]) or packed(*a, **k)
    )
    for count in (1, 2):
        OnCpu().build(shapes(count)).close()
    assert seen == [False, True]


def test_networks_run_as_they_are():
    program = OnCpu().build_network(small_network(channels=8, size=8), seed=1)
    assert [step.configs for step in program.steps] == [()]
    program.run()
    (output,) = program.outputs()
    assert output.shape == (1, 8, 1, 1)
    assert np.abs(output).max() > 0
    program.close()
    program.close()
    with pytest.raises(MeasurementError, match="closed"):
        program.run()


def free_size():
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "free", ends[:1], ends[1:])
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (b"not onnx", "not an ONNX model"),
        (onnx.ModelProto().SerializeToString(), "not an ONNX model"),
        (free_size(), "input x of the network"),
    ],
)
def test_a_broken_network_is_an_error_of_ours(model, words):
    with pytest.raises(MeasurementError, match=words):
        OnCpu().build_network(model)


def test_initializers_among_the_inputs_are_not_fed():
    model = onnx.load_model_from_string(small_network(channels=8, size=8))
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [8, 3, 3, 3]))
    assert set(network(model.SerializeToString()).feeds) == {"x"}


def test_a_precision_it_lacks_is_one_sentence():
    with pytest.raises(MeasurementError, match="not int8"):
        OnCpu().build([ConvShape(1, 8, 8, 8, 8, precision="int8")])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer", "out of device memory"),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc", "out of device memory"),
        ("CUDNN_STATUS_ALLOC_FAILED", "out of device memory"),
        ("Could not find an implementation for Conv(22) node with name 'c'", "no kernel"),
        ("contains graph nodes that are assigned to the default CPU EP, but fallback", "no kernel"),
        ("CUDA failure 700: an illegal memory access was encountered", "illegal memory access"),
    ],
)  # fmt: skip
def test_errors_of_the_runtime_say_what_and_where(text, words):
    error = explained(RuntimeError(text), "1x8 conv")
    assert words in str(error)
    assert "1x8 conv" in str(error)
    assert len(str(error).splitlines()) == 1


def test_a_failed_build_keeps_no_memory(monkeypatch):
    opened = []

    def watched(*args, **kwargs):
        session = open_session(*args, **kwargs)
        opened.append(weakref.ref(session))
        return session

    def full(self, sizes, element):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(ort_session, "open_session", watched)
    monkeypatch.setattr(Buffers, "empty", full)
    with pytest.raises(MeasurementError, match="out of device memory") as caught:
        OnCpu().build(shapes(2))
    kept = caught.value  # as a runner keeps it for its journal
    gc.collect()
    assert opened[0]() is None
    assert kept.__traceback__ is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_on_a_device_outputs_are_right_and_kernels_told_apart(precision):
    from profiler.gpu.cuda_clock import CudaClock

    ort_library.load_provider("CUDAExecutionProvider")
    stream = torch.cuda.Stream(0)
    runtime = OnnxRuntimeCuda(Buffers("cuda", 0), stream=stream.cuda_stream, versions=VERSIONS)
    clock = CudaClock(index=0, stream=stream)
    configs = [dataclasses.replace(shape, precision=precision) for shape in shapes()]
    with contextlib.closing(runtime.build(configs)) as program:
        program.run()
        for config, output in zip(in_order(program), program.outputs(), strict=True):
            np.testing.assert_allclose(output, expected(config), atol=0.1)
        (step,) = program.steps
        ((kernels,),) = clock.trace([step.run], runs=1)
        assert sum(bool(runtime.marker.search(kernel.name)) for kernel in kernels) == len(configs)
        assert runtime.marker.search(kernels[0].name) or runtime.boundary.search(kernels[0].name)
