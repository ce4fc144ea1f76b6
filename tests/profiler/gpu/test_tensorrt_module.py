import enum
import importlib
from types import SimpleNamespace

import pytest

from latency_model.errors import DependencyError, InputError
from profiler.gpu.tensorrt_module import (
    MessageLog,
    flavour_of,
    load_tensorrt,
    message_log,
    require_capability,
    targets,
)

CAPABILITIES = enum.Enum("CAPABILITIES", ["CURRENT", "NONE", "SM75", "SM89", "SM120", "SM80", "SM86"])


def fake(name="tensorrt_rtx", **names):
    return SimpleNamespace(__name__=name, Builder=object, ComputeCapability=CAPABILITIES, **names)


def importing(monkeypatch, modules):
    def import_module(name):
        found = modules.get(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_tensorrt_is_preferred_and_either_can_be_asked_for(monkeypatch):
    proper, rtx = fake("tensorrt"), fake("tensorrt_rtx")
    importing(monkeypatch, {"tensorrt": proper, "tensorrt_rtx": rtx})
    assert load_tensorrt() is proper
    assert load_tensorrt("tensorrt_rtx") is rtx
    importing(monkeypatch, {"tensorrt_rtx": rtx})
    assert load_tensorrt() is rtx


def test_a_missing_package_names_the_command(monkeypatch):
    importing(monkeypatch, {})
    with pytest.raises(DependencyError, match="pip install tensorrt or pip install tensorrt-rtx"):
        load_tensorrt()
    with pytest.raises(DependencyError, match=r"pip install tensorrt-rtx$"):
        load_tensorrt("tensorrt_rtx")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (SimpleNamespace(__name__="tensorrt"), "without its libraries"),
        (ModuleNotFoundError("no", name="tensorrt_libs"), "lacks tensorrt_libs"),
        (OSError("libnvinfer.so.10: cannot open\nmore"), r"libnvinfer.so.10: cannot open\)"),
    ],
)
def test_a_package_that_does_not_load_says_why(monkeypatch, module, reason):
    importing(monkeypatch, {"tensorrt": module})
    with pytest.raises(DependencyError, match=reason):
        load_tensorrt("tensorrt")


def test_a_broken_package_does_not_hide_a_working_one(monkeypatch):
    rtx = fake()
    importing(monkeypatch, {"tensorrt": SimpleNamespace(__name__="tensorrt"), "tensorrt_rtx": rtx})
    assert load_tensorrt() is rtx


def test_an_unknown_flavour_is_the_callers_mistake():
    with pytest.raises(InputError, match="tensorrt, tensorrt_rtx"):
        load_tensorrt("onnx")


def test_targets_are_sorted_by_number():
    assert targets(fake()) == ("7.5", "8.0", "8.6", "8.9", "12.0")
    assert targets(SimpleNamespace()) == ()


def test_a_device_that_the_runtime_refuses_gets_one_sentence():
    with pytest.raises(InputError) as caught:
        require_capability(fake(), "9.0")
    assert str(caught.value) == (
        "TensorRT-RTX runs on compute capabilities 7.5, 8.0, 8.6, 8.9 and 12.0; this device is 9.0: "
        "use --runtime onnxruntime, or install tensorrt"
    )


@pytest.mark.parametrize(
    ("flavour", "capability"),
    [("tensorrt_rtx", "8.9"), ("tensorrt_rtx", "13.0"), ("tensorrt", "9.0")],
)
def test_other_devices_pass(flavour, capability):
    require_capability(fake(flavour), capability)


def test_a_minor_of_the_last_generation_that_is_not_listed_is_refused():
    # 12.1 is not in this list, so its kernels may not exist.
    with pytest.raises(InputError):
        require_capability(fake(), "12.1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 3: API Usage Error (x0: has dataType Float unsupported by "
            "tensor's allowed TensorFormats. In operator() at /_src/optimizer/api/network.cpp:3537)",
            "x0: has dataType Float unsupported by tensor's allowed TensorFormats",
        ),
        ("[pass.cpp:1500: run_passes] Cannot compile\n", "[pass.cpp:1500: run_passes] Cannot compile"),
    ],
)
def test_the_last_error_becomes_a_clause(text, reason):
    log = MessageLog()
    log.add("ERROR", "an earlier one")
    log.add("INTERNAL_ERROR", text)
    log.add("WARNING", "not an error")
    assert log.reason == reason


def test_without_an_error_there_is_no_reason():
    log = MessageLog()
    log.add("WARNING", "hm")
    assert log.reason == ""
    assert log.last("Layers:") == ""


def test_the_logger_collects_instead_of_printing(capsys):
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    assert flavour_of(trt) == "tensorrt_rtx"
    logger, log = message_log(trt)
    logger.log(trt.ILogger.Severity.WARNING, "careful")
    assert log.messages == [("WARNING", "careful")]
    assert capsys.readouterr() == ("", "")
