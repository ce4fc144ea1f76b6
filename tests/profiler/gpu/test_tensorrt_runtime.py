"""The TensorRT runtime on a fake device: which buffers go where, what is run, and what is freed."""

import contextlib
import dataclasses
import enum
import re
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from latency_model.environment import Environment
from latency_model.errors import DependencyError, InputError, MeasurementError
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from profiler.gpu import tensorrt_runtime
from profiler.gpu.program import Program
from profiler.gpu.tensorrt_build import Engine
from profiler.gpu.tensorrt_device import Tensor, TorchDevice
from profiler.gpu.tensorrt_formats import pack, physical_dims
from profiler.gpu.tensorrt_network import conv_arrays, scales
from profiler.gpu.tensorrt_runtime import TensorRtRuntime, open_tensorrt

SMALL = ConvShape(1, 4, 5, 5, 6, precision="fp32", pattern="conv+add")
OTHER = ConvShape(1, 5, 5, 5, 7, precision="fp32", pattern="conv")
FORMATS = {"fp32": ("FLOAT", "HWC"), "fp16": ("HALF", "HWC8"), "int8": ("INT8", "CHW4")}
TRT = SimpleNamespace(
    __name__="tensorrt_rtx",
    __version__="1.7",
    ComputeCapability=enum.Enum("ComputeCapability", ["SM80", "SM89", "SM120"]),
)


class FakeDevice:
    """Memory is a dictionary from address to array; a stream is a list of what was put on it."""

    index, stream, handle, name, capability, cuda = 0, object(), 77, "Fake GPU", "8.9", "13.0"

    def __init__(self, capability="8.9", memory=1 << 30):
        self.capability, self.free_bytes = capability, memory
        self.memory, self.events, self.capturing = {}, [], None

    def upload(self, array, kind):
        self.free_bytes -= array.nbytes
        if self.free_bytes < 0:
            raise MeasurementError("the buffers do not fit")
        address = 1000 + len(self.memory)
        self.memory[address] = array.copy()
        self.events.append(("upload", kind))
        return address

    def download(self, tensor):
        return self.memory[tensor]

    def address(self, tensor):
        return tensor

    def capture(self, enqueue):
        before = len(self.events)
        enqueue()
        captured = self.events[before:]
        del self.events[before:]
        return lambda: self.events.append(("replay", tuple(captured)))

    def synchronise(self):
        self.events.append(("synchronise",))

    def free(self):
        self.events.append(("free",))


class FakeEngine:
    """Knows its tensors; a run of it writes the number of its runs into its outputs."""

    opened: ClassVar[list] = []

    def __init__(self, device, tensors, *, capturable=True, layers=()):
        self.device, self._tensors, self.can, self._layers = device, tensors, capturable, layers
        self.bound, self.closed, self.runs = {}, 0, 0
        FakeEngine.opened.append(self)

    def tensors(self):
        return self._tensors

    def bind(self, name, address):
        self.bound[name] = address

    def enqueue(self, stream):
        assert stream == self.device.handle
        self.runs += 1
        self.device.events.append(("run", id(self)))
        for tensor in self._tensors:
            if not tensor.is_input:
                self.device.memory[self.bound[tensor.name]][:] = self.runs

    def capturable(self, stream):
        return self.can

    def layers(self):
        return self._layers

    def close(self):
        self.closed += 1


def tensors(shape, copies):
    kind, form = FORMATS[shape.precision]
    ins = (shape.batch, shape.in_channels, shape.height, shape.width)
    outs = (shape.batch, shape.out_channels, shape.out_height, shape.out_width)
    found = []
    for copy in range(copies):
        found.append(Tensor(f"x{copy}", True, ins, form, kind))
        if "add" in shape.pattern:
            found.append(Tensor(f"r{copy}", True, outs, form, kind))
    # The last copy's output comes first: the order of an engine's tensors is not ours to choose.
    found += [Tensor(f"y{copy}", False, outs, form, kind) for copy in reversed(range(copies))]
    return tuple(found)


def layer(*operators):
    return EngineLayer("+".join(operators), "correlation", "", (), operators)


@pytest.fixture(autouse=True)
def fresh():
    FakeEngine.opened = []


def make(device, *, layers=None, capturable=True, calls=None, listed=True, level=None):
    def build(shape, copies, **options):
        if calls is not None:
            calls.append((shape, copies, options))
        found = layers or tuple(layer(f"conv{copy}") for copy in range(copies))
        plan = (shape, copies, found)
        return Engine(plan, "tensorrt_rtx", "1.7", "8.9", 0.1, found if listed else None)

    def load(trt, plan):
        shape, copies, found = plan
        return FakeEngine(device, tensors(shape, copies), capturable=capturable, layers=found)

    return TensorRtRuntime(device, trt=TRT, load=load, build=build, optimisation_level=level)


def test_every_configuration_is_a_step_with_an_engine_of_its_own():
    device, calls = FakeDevice(), []
    program = make(device, calls=calls, level=2).build([SMALL, OTHER], seed=5)
    assert isinstance(program, Program)
    assert [step.configs for step in program.steps] == [(SMALL,), (OTHER,)]
    assert [engine.runs for engine in FakeEngine.opened] == [1, 1]  # warmed up
    program.steps[1].run()
    assert [engine.runs for engine in FakeEngine.opened] == [1, 2]
    program.run()
    assert [engine.runs for engine in FakeEngine.opened] == [2, 3]
    shape, copies, options = calls[0]
    assert (shape, copies) == (SMALL, 1)
    assert options == {
        "seed": 5,
        "compute_capability": None,
        "optimisation_level": 2,
        "flavour": "tensorrt_rtx",
    }


def test_copies_read_one_buffer_and_write_their_own():
    device = FakeDevice()
    make(device).build([SMALL], copies=3)
    bound = FakeEngine.opened[0].bound
    assert len({bound["x0"], bound["x1"], bound["x2"]}) == 1
    assert len({bound["r0"], bound["r1"], bound["r2"]}) == 1
    assert len({bound["y0"], bound["y1"], bound["y2"], bound["x0"], bound["r0"]}) == 5


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_inputs_are_the_seeds_data_in_the_engines_format(precision):
    device, shape = FakeDevice(), dataclasses.replace(SMALL, precision=precision)
    make(device).build([shape], seed=4)
    arrays, (kind, form) = conv_arrays(shape, seed=4), FORMATS[precision]
    for name in ("x", "r"):
        stored = device.memory[FakeEngine.opened[0].bound[f"{name}0"]]
        assert np.array_equal(stored, pack(arrays[name], form))
    assert {event[1] for event in device.events if event[0] == "upload"} == {kind}


def test_int8_inputs_are_quantised_and_outputs_dequantised():
    device, shape = FakeDevice(), dataclasses.replace(SMALL, precision="int8")
    program = make(device).build([shape])
    stored = device.memory[FakeEngine.opened[0].bound["x0"]]
    assert np.array_equal(stored, np.rint(stored))
    assert np.abs(stored).max() <= 128
    steps = scales(shape)
    expected = pack(conv_arrays(shape)["x"], "CHW4")
    assert np.abs(stored * steps["x"] - np.clip(expected, -4, 4)).max() <= steps["x"]
    (found,) = program.outputs()
    np.testing.assert_allclose(found, steps["y"])  # the fake wrote ones


def test_outputs_are_the_first_copys_in_nchw_without_padding():
    device, shape = FakeDevice(), dataclasses.replace(SMALL, precision="fp16")
    program = make(device).build([shape, OTHER], copies=2)
    engine = FakeEngine.opened[0]
    values = np.arange(6 * 5 * 5, dtype=np.float32).reshape(1, 6, 5, 5)
    assert device.memory[engine.bound["y0"]].shape == physical_dims((1, 6, 5, 5), "HWC8")
    device.memory[engine.bound["y0"]] = pack(values, "HWC8")
    first, second = program.outputs()
    assert np.array_equal(first, values)
    assert second.shape == (1, 7, 5, 5)
    assert first.dtype == np.float32


def test_a_graph_is_captured_after_the_warm_up_and_replayed():
    device = FakeDevice()
    program = make(device).build([SMALL, OTHER], graph=True)
    first, second = (("run", id(engine)) for engine in FakeEngine.opened)
    assert device.events.index(first) < device.events.index(("synchronise",))
    device.events.clear()
    program.run()
    assert device.events == [("replay", (first, second))]
    device.events.clear()
    program.steps[1].run()
    assert device.events == [("replay", (second,))]


def test_the_graph_of_one_engine_is_captured_once():
    device = FakeDevice()
    program = make(device).build([SMALL], graph=True)
    device.events.clear()
    program.run()
    program.steps[0].run()
    assert len(device.events) == 2
    assert device.events[0] == device.events[1]


def test_an_engine_that_cannot_be_captured_is_an_error_and_is_closed():
    device = FakeDevice()
    with pytest.raises(MeasurementError, match="kernel-trace"):
        make(device, capturable=False).build([SMALL], graph=True)
    assert FakeEngine.opened[0].closed
    make(device, capturable=False).build([SMALL]).close()  # without a graph it can be timed


@pytest.mark.parametrize("listed", [True, False])
def test_merged_copies_are_not_measured(listed):
    device = FakeDevice()
    runtime = make(device, layers=(layer("conv0", "conv1"),), listed=listed)
    with pytest.raises(MeasurementError, match="merged copies into one layer"):
        runtime.build([SMALL], copies=2)
    assert FakeEngine.opened[0].closed
    runtime.build([SMALL])  # one copy has nothing to be merged with


def test_too_little_memory_costs_the_program_and_frees_what_it_held():
    device = FakeDevice(memory=3000)
    with pytest.raises(MeasurementError, match="fit"):
        make(device).build([SMALL, dataclasses.replace(SMALL, batch=64)])
    assert [bool(engine.closed) for engine in FakeEngine.opened] == [True, True]


def test_operators_are_refused():
    with pytest.raises(MeasurementError, match="convolutions only, not op Add"):
        make(FakeDevice()).build([SMALL, OpShape("Add", ((1, 2), (1, 2)))])
    assert FakeEngine.opened[0].closed


def test_a_program_can_be_closed_twice():
    device = FakeDevice()
    program = make(device).build([SMALL])
    program.close()
    program.close()
    assert FakeEngine.opened[0].closed == 1
    assert program.steps == ()
    program.run()
    assert FakeEngine.opened[0].runs == 1


def test_an_unsupported_device_gets_one_sentence_before_any_work():
    device = FakeDevice(capability="9.0")
    with pytest.raises(InputError) as caught:
        make(device)
    assert str(caught.value) == (
        "TensorRT-RTX runs on compute capabilities 8.0, 8.9 and 12.0; this device is 9.0: "
        "use --runtime onnxruntime, or install tensorrt"
    )
    assert device.events == []


def test_the_environment_tells_set_ups_apart():
    environment = make(FakeDevice()).environment
    assert environment == make(FakeDevice()).environment
    assert environment != make(FakeDevice(), level=5).environment
    assert Environment.from_json(environment.to_json()) == environment
    assert (environment.runtime, environment.runtime_version) == ("tensorrt", "1.7")
    assert dict(environment.options)["flavour"] == "tensorrt_rtx"
    assert (environment.device, environment.cuda) == ("Fake GPU", "13.0")


@pytest.mark.parametrize(
    ("kernel", "boundary"),
    [
        ("__myl_Move_0xa94b7235066430065e34b9bf7c60a742", True),
        ("__myl_Tran_0x4842e02e8ffc06b82aa9c734325035a3", True),
        ("__myl_MoveConcResh_0x038ce0f122ccf8d9e01", True),
        ("__myl_Conc_0x19446c58d8c02f411b4db2c3387", False),
        ("__myl_CorrAddRelu_0x19446c58d8c02f411b4db2c3387", False),
        ("__myl_MulAddReluMove_0x12", False),
        ("void genericReformat::copyVectorizedKernel<float, __half>(...)", True),
        ("void cudnn::ops::nchwToNhwcKernel<__half>(...)", True),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x32", False),
    ],
)
def test_which_kernels_are_a_programs_boundary(kernel, boundary):
    assert bool(TensorRtRuntime.boundary.search(kernel)) is boundary
    assert not re.search(TensorRtRuntime.marker, kernel)


def network(device, monkeypatch, *, kind="FLOAT", dims=(1, 3, 8, 8)):
    monkeypatch.setattr(
        tensorrt_runtime,
        "build_engine",
        lambda model, **options: Engine(model, "tensorrt_rtx", "1.7", "8.9", 0.1, None),
    )
    described = (
        Tensor("image", True, dims, "LINEAR", kind),
        Tensor("scores", False, (1, 10), "LINEAR", "FLOAT"),
    )
    runtime = TensorRtRuntime(device, trt=TRT, load=lambda trt, plan: FakeEngine(device, described))
    return runtime.build_network(b"model", seed=1)


def test_a_network_is_one_step_that_replays_a_graph(monkeypatch):
    device = FakeDevice()
    program = network(device, monkeypatch)
    (step,) = program.steps
    assert step.configs == ()
    device.events.clear()
    step.run()
    assert [event[0] for event in device.events] == ["replay"]
    image = device.memory[FakeEngine.opened[0].bound["image"]]
    assert image.shape == (1, 3, 8, 8)
    assert np.unique(image).size > 100
    assert program.outputs()[0].shape == (1, 10)


@pytest.mark.parametrize("changes", [{"kind": "INT64"}, {"dims": (-1, 3, 8, 8)}])
def test_a_network_whose_input_cannot_be_filled_is_an_error(monkeypatch, changes):
    with pytest.raises(MeasurementError, match="fixed sizes and floating-point inputs"):
        network(FakeDevice(), monkeypatch, **changes)
    assert FakeEngine.opened[0].closed


def test_without_a_device_opening_says_so():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with contextlib.suppress(DependencyError), pytest.raises(InputError, match="no CUDA device"):
        open_tensorrt()
    with pytest.raises(InputError, match="no CUDA device"):
        TorchDevice("cuda:0")
