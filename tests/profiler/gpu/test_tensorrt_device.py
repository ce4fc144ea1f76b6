"""The thinnest layer: a loaded engine against a fake module, and everything together where there is a device."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from latency_model.errors import GharialError, MeasurementError
from latency_model.shapes import ConvShape
from profiler.gpu.tensorrt_build import conv_engine
from profiler.gpu.tensorrt_device import LoadedEngine, Tensor, TorchDevice
from profiler.gpu.tensorrt_layers import fused_pattern
from profiler.gpu.tensorrt_module import load_tensorrt
from profiler.gpu.tensorrt_network import conv_arrays, scales
from profiler.gpu.tensorrt_runtime import TensorRtRuntime
from profiler.testing import small_network

SHAPE = ConvShape(2, 16, 12, 12, 24, precision="fp16", pattern="conv+bias+add+relu")


class Logger:
    def __init__(self):
        pass


def fake_module(*, engine=True, context=True, runs=True, calls=None):
    """A module with just what LoadedEngine calls, in the order in which TensorRT wants it."""
    calls = [] if calls is None else calls
    names = [("x0", True, (1, 4, 5, 5), "HWC8", "HALF"), ("y0", False, (1, 6, 5, 5), "LINEAR", "FLOAT")]
    by_name = {entry[0]: entry for entry in names}

    class Context:
        def set_tensor_address(self, name, address):
            calls.append((name, address))
            return address != 0

        def execute_async_v3(self, stream):
            calls.append(stream)
            return runs

    class Engine:
        num_io_tensors = len(names)

        def create_execution_context(self):
            return Context() if context else None

        def get_tensor_name(self, index):
            return names[index][0]

        def get_tensor_mode(self, name):
            return "input" if by_name[name][1] else "output"

        def get_tensor_shape(self, name):
            return list(by_name[name][2])

        def get_tensor_format(self, name):
            return SimpleNamespace(name=by_name[name][3])

        def get_tensor_dtype(self, name):
            return SimpleNamespace(name=by_name[name][4])

        def create_engine_inspector(self):
            return SimpleNamespace(
                get_engine_information=lambda form: (
                    '{"Layers": [{"Name": "conv0", "LayerType": "' + form + '"}]}'
                )
            )

    def runtime(logger):
        logger.log(SimpleNamespace(name="ERROR"), "Error Code 2: OutOfMemory (no memory for it)")
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine() if engine else None)

    return SimpleNamespace(
        __name__="tensorrt",
        ILogger=Logger,
        Runtime=runtime,
        TensorIOMode=SimpleNamespace(INPUT="input"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


def test_an_engines_tensors_are_described():
    loaded = LoadedEngine(fake_module(), b"plan")
    assert loaded.tensors() == (
        Tensor("x0", True, (1, 4, 5, 5), "HWC8", "HALF"),
        Tensor("y0", False, (1, 6, 5, 5), "LINEAR", "FLOAT"),
    )
    assert loaded.layers()[0].kind == "json"


def test_running_binds_and_enqueues():
    calls = []
    loaded = LoadedEngine(fake_module(calls=calls), b"plan")
    loaded.bind("x0", 64)
    loaded.enqueue(7)
    assert calls == [("x0", 64), 7]
    assert loaded.capturable(7)  # TensorRT proper has no such question
    with pytest.raises(MeasurementError, match="buffer of y0"):
        loaded.bind("y0", 0)
    loaded.close()
    loaded.close()


@pytest.mark.parametrize("missing", ["engine", "context"])
def test_what_cannot_be_loaded_gives_the_reason(missing):
    with pytest.raises(MeasurementError, match="could not load an engine on this device: no memory for it"):
        LoadedEngine(fake_module(**{missing: False}), b"plan")


def test_a_run_that_is_refused_is_an_error():
    with pytest.raises(MeasurementError, match="could not run: no memory for it"):
        LoadedEngine(fake_module(runs=False), b"plan").enqueue(7)


def test_a_real_engine_without_a_device_is_an_error_of_ours():
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    plan = conv_engine(SHAPE, compute_capability="8.9", flavour="tensorrt_rtx").plan
    with pytest.raises(MeasurementError, match="could not load an engine on this device"):
        LoadedEngine(trt, plan)


@pytest.fixture
def runtime():
    try:
        return TensorRtRuntime(TorchDevice("cuda:0"), trt=load_tensorrt())
    except GharialError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("fp32", 1e-4), ("tf32", 5e-3), ("fp16", 1e-2), ("bf16", 5e-2), ("int8", 0.1)],
)
def test_outputs_on_a_device_are_the_convolution(runtime, precision, tolerance):
    for in_channels in (16, 13):
        shape = dataclasses.replace(SHAPE, precision=precision, in_channels=in_channels)
        arrays = {name: torch.from_numpy(array.copy()) for name, array in conv_arrays(shape).items()}
        y = functional.conv2d(arrays["x"], arrays["w0"], arrays["b0"], padding=1) + arrays["r"]
        expected = functional.relu(y).numpy()
        if precision == "int8":
            expected = np.minimum(expected, 127 * scales(shape)["y"])
        for graph in (False, True):
            program = runtime.build([shape], copies=3, graph=graph)
            program.run()
            (found,) = program.outputs()
            assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
            assert fused_pattern(program.layers()[0], shape, copy=2).pattern.startswith("conv")
            program.close()


@pytest.mark.gpu
def test_a_network_runs_on_a_device(runtime):
    program = runtime.build_network(small_network(channels=16, size=16))
    program.run()
    (found,) = program.outputs()
    assert found.shape == (1, 16, 1, 1)
    assert np.isfinite(found).all()
    assert np.any(found)
    program.close()
