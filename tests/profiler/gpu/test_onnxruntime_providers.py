"""The CUDA and TensorRT providers: what they are asked for, and what is said where they are not there."""

import contextlib
import re
import sys
import types

import onnxruntime as ort
import pytest
import torch
from gpu_programs import CPU, VERSIONS, OnCpu, shapes

from latency_model import ConvShape
from latency_model.errors import DependencyError, InputError, MeasurementError
from latency_model.ops import OpShape
from profiler.backends import open_backend
from profiler.gpu import ort_library, ort_session
from profiler.gpu.buffers import Buffers
from profiler.gpu.device import cuda_index, require_cuda
from profiler.gpu.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRt, open_cuda, open_tensorrt_ep


def test_a_node_on_another_provider_is_an_error(monkeypatch):
    monkeypatch.setattr(
        ort_session, "_ran", lambda path: [("config0/0/conv", "Conv", "OtherExecutionProvider")]
    )
    with pytest.raises(MeasurementError, match=r"1 nodes .* another provider .* config0/0/conv"):
        OnCpu().build(shapes(1))


def cuda(**options):
    return OnnxRuntimeCuda(Buffers("cpu", 1), stream=4096, versions=VERSIONS, **options)


def test_the_cuda_provider_is_asked_for_what_the_row_says():
    options = cuda(search="heuristic", layout="nchw", memory_limit_bytes=10).options(tf32=True, graph=True)
    assert options == {
        "device_id": "1",
        "user_compute_stream": "4096",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "prefer_nhwc": "0",
        "use_tf32": "1",
        "enable_cuda_graph": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "10",
    }
    usual = cuda()
    assert usual.options(tf32=False, graph=False)["use_tf32"] == "0"
    assert usual.options(tf32=False, graph=False)["prefer_nhwc"] == "1"
    assert usual.channels_last
    assert dict(usual.environment.options) == {
        "provider": "cuda", "search": "exhaustive", "layout": "nhwc", "max_workspace": "1",
    }  # fmt: skip
    assert usual.environment.runtime_version == ort.__version__
    assert usual.environment != cuda(search="heuristic").environment


@pytest.mark.parametrize(
    ("options", "words"), [({"search": "fast"}, "fast"), ({"layout": "chwn"}, "chwn"), ({"at_once": 0}, "0")]
)
def test_options_that_do_not_exist_are_said(options, words):
    with pytest.raises(InputError, match=words):
        cuda(**options)


def test_the_tensorrt_provider_searches_anew_on_one_stream():
    runtime = OnnxRuntimeTensorRt(Buffers("cpu"), stream=8, versions=VERSIONS, optimisation=4)
    options = runtime.options(tf32=True, graph=False)
    assert options["trt_auxiliary_streams"] == "0"
    assert options["trt_timing_cache_enable"] == options["trt_engine_cache_enable"] == "False"
    assert options["trt_cuda_graph_enable"] == "False"
    assert runtime.options(tf32=True, graph=True)["trt_cuda_graph_enable"] == "True"
    assert options["trt_builder_optimization_level"] == "4"
    # One of these set would make the provider's network weakly typed.
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & set(options)
    assert runtime.at_once == 1
    assert "fp32" not in runtime.precisions
    with pytest.raises(InputError, match="0 to 5"):
        OnnxRuntimeTensorRt(Buffers("cpu"), stream=8, versions=VERSIONS, optimisation=6)


def test_a_graph_that_tensorrt_takes_in_pieces_is_an_error(monkeypatch):
    monkeypatch.setattr(OnnxRuntimeTensorRt, "provider", CPU)
    monkeypatch.setattr(OnnxRuntimeTensorRt, "options", lambda self, **_: {})
    runtime = OnnxRuntimeTensorRt(Buffers("cpu"), stream=8, versions=VERSIONS)
    single = OpShape.parse("op Relu 1x4x6x6 tf32 nchw")
    with contextlib.closing(runtime.build([single, single])) as program:
        assert len(program.steps) == 2
    with pytest.raises(MeasurementError, match="pieces instead of one engine"):
        runtime.build([ConvShape(1, 4, 6, 6, 4, pattern="conv+bias+silu", precision="tf32")])


@pytest.mark.parametrize(("text", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:11", 11)])
def test_devices_have_an_index(text, index):
    assert cuda_index(text) == index


@pytest.mark.parametrize("text", ["cuda:", "cuda:x", "cuda1", "gpu", "cuda:-1", "cuda:0 "])
def test_what_is_no_device_is_said(text):
    with pytest.raises(InputError, match=re.escape(repr(text))):
        cuda_index(text)


def fake_torch(*, cuda_version="13.0", count=1):
    there = types.SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
    return types.SimpleNamespace(
        version=types.SimpleNamespace(cuda=cuda_version), cuda=there, __version__="2.11"
    )


@pytest.mark.parametrize(
    ("torch_", "device", "words"),
    [
        (fake_torch(cuda_version=None), "cuda:0", "built without CUDA"),
        (fake_torch(count=0), "cuda:0", "no CUDA device"),
        (fake_torch(count=1), "cuda:1", "only cuda:0"),
        (fake_torch(count=4), "cuda:4", "cuda:0 to cuda:3"),
    ],
)
def test_a_device_that_is_not_there_is_said(monkeypatch, torch_, device, words):
    monkeypatch.setitem(sys.modules, "torch", torch_)
    with pytest.raises(InputError, match=words) as caught:
        require_cuda(device)
    assert device in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("factory", [open_cuda, open_tensorrt_ep])
def test_no_device_is_the_first_thing_that_is_said(factory):
    with pytest.raises(InputError, match="--device cpu"):
        factory(device="cuda:0")
    for runtime in ("onnxruntime", "onnxruntime-tensorrt"):
        with pytest.raises(InputError, match="--device cpu"):
            open_backend(runtime, device="cuda:0")


def test_a_build_without_the_provider_names_the_one_to_install():
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this is the GPU build of ONNX Runtime")
    with pytest.raises(DependencyError, match="both share one import name") as caught:
        ort_library.load_provider("CUDAExecutionProvider")
    assert "pip install 'gharial[gpu]'" in str(caught.value)


def test_libraries_that_cannot_be_loaded_are_named(monkeypatch):
    # What the GPU build does without CUDA: it lists the provider, and a session comes back without it.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda model, settings, **_: real(model, providers=[CPU]))
    reason = "libcublasLt.so.13: cannot open shared object file"
    monkeypatch.setattr(ort_library, "_library_error", lambda provider: reason)
    with pytest.raises(InputError, match=reason) as caught:
        ort_library.load_provider("CUDAExecutionProvider")
    assert ort.__version__ in str(caught.value)
    assert "torch for the same CUDA version" in str(caught.value)
    monkeypatch.undo()
    # Of the real library: it is not in this build, or the CUDA libraries that it wants are not here.
    assert torch.cuda.is_available() or "cannot open" in ort_library._library_error("CUDAExecutionProvider")
