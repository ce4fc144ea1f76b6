"""Real engines, built without a device for a named compute capability."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from latency_model.errors import InputError, MeasurementError
from latency_model.shapes import PATTERNS, ConvShape
from profiler.gpu import tensorrt_build
from profiler.gpu.tensorrt_build import build_engine, conv_engine
from profiler.gpu.tensorrt_layers import fused_pattern, merged, reformats
from profiler.testing import small_network

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

TARGET = {"compute_capability": "8.9", "flavour": "tensorrt_rtx"}
SHAPE = ConvShape(1, 16, 16, 16, 32, precision="fp16")


def shape(**changes):
    return dataclasses.replace(SHAPE, **changes)


def check_fused(engine, config, copies):
    assert engine.layers is not None
    for copy in range(copies):
        found = fused_pattern(engine.layers, config, copy=copy)
        assert found.fused, found
        assert found.pattern == config.pattern
    assert merged(engine.layers) == ()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_of_a_network_definition_is_one_layer(pattern, precision):
    config = shape(pattern=pattern, precision=precision)
    engine = conv_engine(config, 2, **TARGET)
    check_fused(engine, config, 2)
    # The copies run in the format that the engine prefers, so nothing is reformatted.
    assert reformats(engine.layers) == ()
    assert len(engine.layers) == 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_of_our_onnx_is_one_layer(pattern, precision):
    config = shape(pattern=pattern, precision=precision)
    check_fused(conv_engine(config, 2, source="onnx", **TARGET), config, 2)


@pytest.mark.parametrize(
    "config",
    [
        shape(kernel=(1, 1), padding=(0, 0, 0, 0)),
        shape(out_channels=16, groups=16, stride=(2, 2)),
        shape(groups=4),
        shape(kernel=(1, 5), padding=(0, 2, 0, 2), dilation=(1, 2), layout="nhwc"),
        shape(in_channels=13, out_channels=27, padding=(0, 0, 1, 1), stride=(2, 2)),
        shape(in_channels=13, out_channels=27, precision="bf16"),
        shape(in_channels=3, precision="fp32"),
    ],
    ids=str,
)
def test_every_geometry_is_one_layer_a_copy(config):
    check_fused(conv_engine(config, 3, **TARGET), config, 3)


def test_copies_of_a_pointwise_convolution_are_not_merged():
    config = shape(kernel=(1, 1), padding=(0, 0, 0, 0), pattern="conv")
    for source in ("network", "onnx"):
        engine = conv_engine(config, 4, source=source, **TARGET)
        assert merged(engine.layers) == ()
        assert all(layer.stream == 0 for layer in engine.layers)


def test_int8_is_computed_in_int8_and_its_epilogue_is_found_apart():
    config = shape(in_channels=64, out_channels=64, precision="int8")
    engine = conv_engine(config, **TARGET)
    found = fused_pattern(engine.layers, config)
    assert found.reads == "Int8 NHWC"
    # TensorRT-RTX 1.7 requantises in a kernel of its own: the engine says so, and so do we.
    assert found.fused is (len(found.layers) == 1)
    assert found.pattern.startswith("conv")


def test_an_int8_convolution_that_falls_back_to_floats_shows():
    found = fused_pattern(conv_engine(shape(precision="int8"), compute_capability="7.5").layers, SHAPE)
    assert not found.reads.startswith("Int8")


def test_what_an_engine_says_of_itself():
    engine = conv_engine(SHAPE, **TARGET)
    assert engine.flavour == "tensorrt_rtx"
    assert engine.compute_capability == "8.9"
    assert len(engine.plan) > 1000
    assert engine.seconds > 0
    assert engine.version
    assert "plan" not in repr(engine)


def test_every_option_reaches_the_builder(monkeypatch):
    seen = []
    original = tensorrt_build._config

    def spy(trt, builder, **options):
        config = original(trt, builder, **options)
        flags = trt.BuilderFlag
        seen.append(
            (
                config.builder_optimization_level,
                config.get_flag(flags.TF32),
                config.get_flag(flags.DISABLE_TIMING_CACHE),
                config.max_aux_streams,
                config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED,
                config.get_compute_capability(0).name,
            )
        )
        return config

    monkeypatch.setattr(tensorrt_build, "_config", spy)
    conv_engine(shape(precision="tf32"), optimisation_level=1, **TARGET)
    conv_engine(shape(precision="fp32"), compute_capability="12.0")
    assert seen[0] == (1, True, True, 0, True, "SM89")
    assert seen[1][1:] == (False, True, 0, True, "SM120")


def test_a_whole_network_is_built_from_onnx():
    engine = build_engine(small_network(channels=8, size=8), **TARGET)
    assert any("Conv" in layer.name or layer.kind == "correlation" for layer in engine.layers)


@pytest.mark.parametrize("model", [b"not onnx", onnx.ModelProto().SerializeToString()])
def test_bytes_that_are_no_network_are_an_error_of_ours(model):
    with pytest.raises(MeasurementError, match="TensorRT"):
        build_engine(model, **TARGET)


def test_an_operator_that_tensorrt_lacks_is_named():
    node = helper.make_node("NoSuchThing", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(MeasurementError, match="NoSuchThing"):
        build_engine(model.SerializeToString(), **TARGET)


def test_a_type_that_the_target_lacks_gives_the_builders_reason():
    with pytest.raises(MeasurementError, match=r"could not build .*bf16 nchw: .*sm75"):
        conv_engine(shape(precision="bf16"), compute_capability="7.5", flavour="tensorrt_rtx")


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(InputError, match=r"9\.0; known are .*8\.9"):
        conv_engine(SHAPE, compute_capability="9.0", flavour="tensorrt_rtx")


def test_without_a_device_a_target_must_be_named(monkeypatch):
    monkeypatch.setattr(tensorrt_build, "_device_capability", lambda: None)
    with pytest.raises(InputError, match="--compute-capability"):
        conv_engine(SHAPE, flavour="tensorrt_rtx")


def test_the_devices_own_capability_is_the_default(monkeypatch):
    monkeypatch.setattr(tensorrt_build, "_device_capability", lambda: "8.6")
    assert conv_engine(SHAPE, flavour="tensorrt_rtx").compute_capability == "8.6"


def test_bad_options_are_the_callers_mistake():
    with pytest.raises(InputError, match="network or onnx"):
        conv_engine(SHAPE, source="torch", **TARGET)
    with pytest.raises(InputError, match="0 to 5"):
        conv_engine(SHAPE, optimisation_level=9, **TARGET)


def test_equal_seeds_give_equal_engines_up_to_the_builder():
    one, two = (conv_engine(SHAPE, seed=3, **TARGET) for _ in range(2))
    assert one.layers == two.layers
    assert np.isclose(len(one.plan), len(two.plan), rtol=0.2)
