import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import profiler.backends
from latency_model.errors import DependencyError, InputError
from profiler.backends import known_backends, open_backend
from profiler.backends.base import _cpuinfo, cpu_isa, cpu_name
from profiler.backends.fake import FakeDevice


def test_built_in_back_ends_open_without_installation():
    assert {"fake", "onnxruntime", "torch"} <= set(known_backends())
    with open_backend("fake", noise=0.0) as backend:
        assert isinstance(backend, FakeDevice)


def test_an_entry_point_adds_a_back_end(monkeypatch):
    point = EntryPoint("mine", "profiler.backends.fake:FakeDevice", "profiler.backends")
    monkeypatch.setattr(profiler.backends, "entry_points", lambda group: [point])
    assert isinstance(open_backend("mine", device="cuda:7"), FakeDevice)


def test_a_runtime_on_cuda_has_an_entry_of_its_own(monkeypatch):
    points = [
        EntryPoint(name, "profiler.backends.fake:FakeDevice", "profiler.backends")
        for name in ("mine@cuda", "onnxruntime@cuda")
    ]
    monkeypatch.setattr(profiler.backends, "entry_points", lambda group: points)
    assert isinstance(open_backend("mine", device="cuda:3"), FakeDevice)
    assert isinstance(open_backend("onnxruntime", device="cuda"), FakeDevice)
    with open_backend("onnxruntime", device="cpu") as backend:
        assert not isinstance(backend, FakeDevice)
    with pytest.raises(InputError, match="CUDA devices only"):
        open_backend("mine")


@pytest.mark.parametrize(
    ("runtime", "options", "words"),
    [
        ("openvino", {}, ("openvino", "fake, onnxruntime, torch")),
        ("openvino", {}, ("on CUDA devices", "onnxruntime, onnxruntime-tensorrt")),
        ("onnxruntime-tensorrt", {}, ("CUDA devices only", "not on cpu", "--device cuda:0")),
        ("onnxruntime", {"device": "cuda1"}, ("not a device: 'cuda1'", "cuda:1")),
        ("onnxruntime", {"device": "cuda:x"}, ("not a device",)),
        ("onnxruntime", {"device": "gpu"}, ("gpu",)),
        ("fake", {"device": "cuda"}, ("fake does not time on cuda", "onnxruntime, onnxruntime-tensorrt")),
        ("onnxruntime", {"precision": "fp16"}, ("fp16", "fp32")),
        ("fake", {"threads": 0}, ("thread",)),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_sentence(runtime, options, words):
    with pytest.raises(InputError) as caught:
        open_backend(runtime, **options)
    assert all(word in str(caught.value) for word in words)


def test_a_missing_runtime_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "profiler.backends.onnxruntime_cpu", raising=False)
    with pytest.raises(DependencyError, match="pip install onnxruntime"):
        open_backend("onnxruntime")


def test_on_cuda_the_gpu_build_is_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in [name for name in sys.modules if name.startswith("profiler.gpu.o")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DependencyError, match=r"pip install 'gharial\[gpu\]'"):
        open_backend("onnxruntime", device="cuda:0")


def test_the_package_and_its_command_import_no_runtime():
    code = (
        "import sys, profiler, profiler.cli, latency_model\n"
        "assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules), 'too eager'\n"
        "from profiler.plan import plan as function\n"
        "import profiler.plan, profiler.runner\n"
        "assert callable(profiler.plan) and callable(profiler.profile) and callable(profiler.export_onnx)\n"
        "assert all(hasattr(profiler, name) for name in profiler.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_cpu_has_a_name():
    assert "cores" in cpu_name()
    assert cpu_isa()
    first = "processor\t: 0\nmodel name\t: Some CPU\ncpu family\t: 6\nmodel\t\t: 85\nflags\t\t: sse4_2 avx2"
    text = f"{first}\n\nprocessor\t: 1\nmodel name\t: Other\n"
    fields, count = _cpuinfo(text)
    assert (fields["model name"], fields["model"], count) == ("Some CPU", "85", 2)
