import gc
import inspect
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional

from latency_model.errors import DeviceLostError, InputError, MeasurementError
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from profiler.backends import known_backends
from profiler.gpu import Program
from profiler.gpu.torch_capture import EagerCapture, explain
from profiler.gpu.torch_program import SEARCHES, TorchProgram
from profiler.gpu.torch_runtime import TorchRuntime, open_torch_cuda
from profiler.reference import reference_inputs
from profiler.torch_modules import DTYPES

SHAPES = (
    ConvShape(2, 8, 9, 9, 12),
    ConvShape(1, 8, 9, 9, 12, layout="nhwc", stride=(2, 2)),
    ConvShape(1, 8, 9, 7, 8, pattern="conv+bias+add+relu", groups=8),
    ConvShape(1, 8, 9, 9, 6, pattern="conv+bias+silu", padding=(0, 0, 1, 1), layout="nhwc"),
    ConvShape(1, 8, 9, 9, 6, pattern="conv+clip", dilation=(2, 2)),
    ConvShape(1, 8, 9, 9, 6, pattern="conv+add+hardswish", kernel=(1, 3), padding=(0, 1, 0, 1)),
)


def expected(shape: ConvShape, *, seed: int = 0, copy: int = 0) -> np.ndarray:
    """Computed in fp64 from the same numbers, one operator after the other."""
    numbers = reference_inputs(shape, seed=seed, copy=copy)
    x, *rest = (torch.from_numpy(np.array(array)).double() for array in numbers.inputs)
    w, *bias = (torch.from_numpy(np.array(array)).double() for array in numbers.weights)
    top, left, bottom, right = shape.padding
    x = functional.pad(x, (left, right, top, bottom))
    y = functional.conv2d(x, w, *bias, stride=shape.stride, dilation=shape.dilation, groups=shape.groups)
    if rest:
        y = y + rest[0]
    activations = {"relu": torch.relu, "clip": lambda v: v.clamp(0, 6), "silu": lambda v: v * v.sigmoid()}
    activations["hardswish"] = lambda v: v * (v + 3).clamp(0, 6) / 6
    return activations.get(shape.pattern.split("+")[-1], lambda v: v)(y).numpy()


class Recorder(EagerCapture):
    """Counts what a CUDA graph would be asked for, and can fail like a device."""

    def __init__(self, *, fail: Exception | None = None, dead: bool = False) -> None:
        self.threads: set[int] = set()
        self.warmed = self.captured = self.replays = self.freed = 0
        self.switches: list[tuple[object, ...]] = []
        self.fail, self.dead = fail, dead

    def warm_up(self, enqueue):
        self.threads.add(threading.get_ident())
        self.warmed += 1
        super().warm_up(enqueue)
        if self.fail is not None:
            raise self.fail

    def capture(self, enqueue):
        self.threads.add(threading.get_ident())
        self.captured += 1
        self.switches.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit))
        replay = super().capture(enqueue)

        def counted():
            self.replays += 1
            replay()

        return counted

    def synchronise(self):
        if self.dead:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def free(self):
        self.freed += 1


def build(configs, capture, *, copies=1, graph=False, search="benchmark", seed=0):
    device = torch.device("cpu")
    return TorchProgram(
        configs, copies=copies, graph=graph, seed=seed, device=device, search=search, capture=capture
    )


@pytest.fixture
def runtime():
    opened = TorchRuntime(device="cpu")
    yield opened
    opened.close()


@pytest.mark.parametrize("graph", [False, True])
def test_outputs_are_those_of_the_reference_inputs(runtime, graph):
    program = runtime.build(SHAPES, graph=graph, seed=3)
    assert isinstance(program, Program)
    assert [step.configs for step in program.steps] == ([SHAPES] if graph else [(s,) for s in SHAPES])
    for run in (lambda: None, program.run):  # the build itself ran it once
        run()
        for shape, output in zip(SHAPES, program.outputs(), strict=True):
            assert output.dtype == np.float32
            assert output.flags.c_contiguous
            np.testing.assert_allclose(output, expected(shape, seed=3), rtol=2e-4, atol=2e-5)
    program.close()
    program.close()


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-4), ("fp16", 5e-3), ("bf16", 4e-2)])
def test_each_precision_runs_in_its_own_type(runtime, precision, tolerance):
    shape = ConvShape(1, 8, 9, 9, 12, precision=precision, layout="nhwc")
    program = runtime.build([shape])
    reference = expected(shape)
    assert np.abs(program.outputs()[0] - reference).max() <= tolerance * np.abs(reference).max()
    output = torch.from_numpy(program.outputs()[0])
    assert torch.equal(output, output.to(DTYPES[precision]).float())
    if precision != "bf16":
        assert not torch.equal(output, output.to(torch.bfloat16).float())
    program.close()


def test_copies_have_the_same_input_and_weights_of_their_own(monkeypatch):
    seen = []
    from profiler.gpu import torch_program

    original = torch_program._module

    def spy(config, weights):
        module = original(config, weights)

        def run(*inputs):
            seen.append((inputs[0].data_ptr(), module(*inputs).numpy().copy()))
            return module(*inputs)

        return run

    monkeypatch.setattr(torch_program, "_module", spy)
    shape = SHAPES[0]
    program = build([shape], EagerCapture(), copies=3)
    seen.clear()
    program.run()
    assert len({pointer for pointer, _ in seen}) == 1
    for copy, (_, output) in enumerate(seen):
        np.testing.assert_allclose(output, expected(shape, copy=copy), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(program.outputs()[0], expected(shape), rtol=2e-4, atol=2e-5)
    program.close()


def test_each_configuration_is_one_capture_and_a_graph_is_one_in_all():
    single, whole = Recorder(), Recorder()
    programs = build(SHAPES, single), build(SHAPES, whole, graph=True)
    assert (single.warmed, single.captured) == (len(SHAPES), len(SHAPES))
    assert (whole.warmed, whole.captured) == (len(SHAPES), 1)
    before = single.replays, whole.replays
    for program in programs:
        program.run()
    assert (single.replays - before[0], whole.replays - before[1]) == (len(SHAPES), 1)
    programs[0].steps[2].run()
    assert single.replays - before[0] == len(SHAPES) + 1
    for program in programs:
        program.close()


def test_every_build_has_a_thread_of_its_own_that_lives_until_it_is_closed():
    first, second = Recorder(), Recorder()
    programs = [build([SHAPES[0]], first), build([SHAPES[0]], second)]
    assert len(first.threads) == len(second.threads) == 1
    assert not first.threads & second.threads
    assert threading.get_ident() not in first.threads | second.threads
    for program, recorder in zip(programs, (first, second), strict=True):
        assert recorder.threads < {thread.ident for thread in threading.enumerate()}
        program.close()
        assert not recorder.threads & {thread.ident for thread in threading.enumerate()}
    assert TorchRuntime(device="cpu").searches_anew


def switches():
    backends = torch.backends
    return (
        backends.cudnn.benchmark,
        backends.cudnn.benchmark_limit,
        backends.cudnn.conv.fp32_precision,
        backends.cuda.matmul.fp32_precision,
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_the_search_is_set_while_building_and_put_back(search):
    before, recorder = switches(), Recorder()
    build([SHAPES[0]], recorder, search=search).close()
    limit = SEARCHES[search]
    expected_limit = before[1] if limit is None or before[1] is None else limit
    assert recorder.switches == [(limit is not None, expected_limit)]
    assert switches() == before


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", "ieee"), ("tf32", "tf32"), ("fp16", "ieee")])
def test_tf32_is_allowed_for_its_own_configurations_only(monkeypatch, precision, wanted):
    from profiler.gpu import torch_program

    seen = []
    original = torch_program._module

    def spy(config, weights):
        module = original(config, weights)
        return lambda *inputs: (seen.append(switches()[2:]), module(*inputs))[1]

    monkeypatch.setattr(torch_program, "_module", spy)
    before = switches()
    op = OpShape("Gemm", ((2, 8),), ((8, 4), (4,)), precision=precision)
    build([ConvShape(1, 8, 4, 4, 8, precision=precision), op], Recorder()).close()
    assert set(seen) == {(wanted, wanted)}
    assert switches() == before


def test_what_cannot_run_is_a_measurement_error_and_leaves_everything_as_it_was(runtime):
    before, alive = switches(), threading.active_count()
    bad = (
        ConvShape(1, 8, 4, 4, 8, precision="int8"),
        OpShape("NonMaxSuppression", ((1, 4, 4),)),
        OpShape("MatMul", ((2, 3), (4, 5))),
        OpShape("Transpose", ((2, 3),), attributes=(("perm", "0,7"),)),
    )
    for config in bad:
        with pytest.raises(MeasurementError, match=config.text.split()[1]):
            runtime.build([config])
    with pytest.raises(MeasurementError, match="int8"):
        runtime.build(bad[:1])
    with pytest.raises(MeasurementError, match="copies"):
        runtime.build([SHAPES[0]], copies=0)
    with pytest.raises(MeasurementError, match="ONNX"):
        runtime.build_network(b"")
    assert switches() == before
    assert threading.active_count() == alive


def test_running_out_of_memory_frees_the_cache_and_costs_one_configuration():
    recorder = Recorder(fail=torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(MeasurementError, match=r"out of device memory for .*8x9x9") as caught:
        build([SHAPES[0]], recorder)
    assert not isinstance(caught.value, DeviceLostError)
    assert recorder.freed == 1


def test_tensors_of_a_failed_build_are_freed_before_the_cache_is_emptied():
    class Watch(Recorder):
        def free(self):
            super().free()
            tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.numel() == size]
            self.left = len(tensors)

    shape = ConvShape(1, 7, 13, 11, 5)  # a size that no other test has
    size = 7 * 13 * 11
    watch = Watch(fail=torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(MeasurementError):
        build([shape], watch)
    assert watch.left == 0


def test_a_lasting_error_of_the_device_says_that_the_process_must_end():
    by_name = Recorder(fail=RuntimeError("CUDA error: an illegal memory access was encountered\nmore"))
    by_asking = Recorder(fail=RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), dead=True)
    for recorder in (by_name, by_asking):
        with pytest.raises(DeviceLostError, match="end this process") as caught:
            build([SHAPES[0]], recorder)
        assert "\n" not in str(caught.value)
    passing = Recorder(fail=RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"))
    with pytest.raises(MeasurementError) as caught:
        build([SHAPES[0]], passing)
    assert not isinstance(caught.value, DeviceLostError)


def test_the_cause_of_a_failed_capture_is_found_behind_the_error_of_leaving_it():
    class Leaving(Recorder):
        def capture(self, enqueue):
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    recorder = Leaving()
    with pytest.raises(MeasurementError, match="out of device memory"):
        build([SHAPES[0]], recorder)
    assert recorder.freed == 1


@pytest.mark.parametrize("graph", [False, True])
def test_what_a_graph_reads_lives_as_long_as_the_program(graph):
    class Forgetful(EagerCapture):
        """Like a CUDA graph: keeps nothing of what it captured alive."""

        def capture(self, enqueue):
            return lambda: None

    def alive():
        gc.collect()
        kept = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        return sum(tensor.numel() == 7 * 13 * 17 for tensor in kept)

    program = build([ConvShape(1, 7, 13, 17, 5)], Forgetful(), graph=graph)
    assert alive() == 1
    program.close()
    assert alive() == 0


def test_errors_of_ours_pass_through():
    mine = MeasurementError("no")
    assert explain(mine, "it", EagerCapture()) is mine


def test_environment_is_stable_and_names_what_changes_a_number(runtime):
    assert runtime.environment == TorchRuntime(device="cpu").environment
    assert runtime.environment != TorchRuntime(device="cpu", search="exhaustive").environment
    assert runtime.environment.runtime_version == torch.__version__
    with pytest.raises(InputError, match="unknown search"):
        TorchRuntime(device="cpu", search="random")


def test_the_runtime_says_what_measuring_needs_to_know():
    assert TorchRuntime.methods == ("kernel-trace", "graph-increment")
    # cuDNN's own transposes belong to an eager convolution in NCHW, in a network as well.
    assert not TorchRuntime.boundary.search("void cudnn::engines_precompiled::nchwToNhwcKernel<...>")
    assert not TorchRuntime.marker.search("")
    assert known_backends()["torch@cuda"] == "profiler.gpu.torch_runtime:open_torch_cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_factory_says_so():
    with pytest.raises(InputError, match="cuda:0"):
        open_torch_cuda()
    with pytest.raises(InputError, match="not a device"):
        open_torch_cuda(device="gpu")


def test_this_version_of_torch_takes_the_arguments_of_a_capture():
    names = set(inspect.signature(torch.cuda.graph.__init__).parameters)
    assert {"cuda_graph", "pool", "stream", "capture_error_mode"} <= names


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu_the_outputs_are_right_and_replays_work_from_here(graph):
    runtime = TorchRuntime(device="cuda:0")
    for precision, tolerance in (("fp32", 1e-4), ("tf32", 2e-2), ("fp16", 5e-3), ("bf16", 2e-2)):
        shape = ConvShape(2, 16, 14, 14, 32, precision=precision, layout="nhwc")
        program = runtime.build([shape, ConvShape(1, 8, 8, 8, 8)], graph=graph)
        for _ in range(3):
            program.run()
        reference = expected(shape)
        assert np.abs(program.outputs()[0] - reference).max() <= tolerance * np.abs(reference).max()
        program.close()
    runtime.close()
