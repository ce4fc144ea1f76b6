import dataclasses

import pytest

from latency_model.errors import MeasurementError
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.shapes import ConvShape
from profiler.gpu.tensorrt_layers import fused_pattern, merged, reformats

SHAPE = ConvShape(1, 16, 16, 16, 32, precision="fp16")
ADD = dataclasses.replace(SHAPE, pattern="conv+bias+add+relu")
SILU = dataclasses.replace(SHAPE, pattern="conv+bias+silu")


def layer(name, *operators, kind="correlation", reads=("Half NHWC",)):
    return EngineLayer(name, kind, "", ("Half NHWC",), operators, reads)


@pytest.mark.parametrize(
    ("name", "kind", "moves"),
    [
        ("__myl_Move_myl0_0", "kgen", True),
        ("__myl_MoveConcResh_myl0_2", "kgen", True),
        ("__myl_Tran_myl0_3", "kgen", True),
        ("__myl_CorrAddRelu_myl0_1", "runtime_fusion", False),
        ("__myl_MulAddReluMulMinMaxRounCastReshMove_myl0_2", "kgen", False),
        ("conv0_myl0_1", "correlation", False),
        ("Reformatting CopyNode for Output Tensor 0", "Reformat", True),
    ],
)
def test_which_layers_only_move_data(name, kind, moves):
    assert layer(name, kind=kind).moves_data is moves
    assert bool(reformats([layer(name, kind=kind)])) is moves


def test_one_layer_with_everything_is_fused():
    found = fused_pattern([layer("a", "conv0", "sum0", "act0"), layer("b", "conv1", "sum1", "act1")], ADD)
    assert found.fused
    assert found.pattern == ADD.pattern
    assert found.layers == ("a",)
    assert found.reads == "Half NHWC"


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [
        ([layer("a", "conv0"), layer("b", "sum0", "act0")], "conv+bias"),
        ([layer("a", "conv0", "sum0"), layer("b", "act0")], "conv+bias+add"),
        # The epilogue names the convolution when it adds its bias.
        ([layer("a", "conv0"), layer("b", "conv0", "sum0", "act0")], "conv"),
        ([layer("a", "conv0", "act0")], "conv+bias+relu"),
    ],
)
def test_what_is_apart_is_not_fused(layers, pattern):
    found = fused_pattern(layers, ADD)
    assert not found.fused
    assert found.pattern == pattern
    assert found.layers == tuple(item.name for item in layers)


def test_a_kernel_that_pads_the_input_does_not_break_the_fusion():
    layers = [layer("__myl_Conc_myl0_0", "conv0", "act0", kind="kgen"), layer("a", "conv0", "act0")]
    assert fused_pattern(layers, SHAPE).fused


def test_each_copy_is_looked_up_by_its_number():
    layers = [layer("a", "conv1", "act1"), layer("b", "conv10"), layer("c", "act10")]
    assert fused_pattern(layers, SHAPE, copy=1).fused
    assert not fused_pattern(layers, SHAPE, copy=10).fused
    with pytest.raises(MeasurementError, match="copy 0"):
        fused_pattern(layers, SHAPE)


def test_convolutions_that_share_a_layer_are_merged():
    apart = [layer("a", "conv0", "act0"), layer("b", "conv1", "act1")]
    assert merged(apart) == ()
    together = layer("c", "conv0", "act0", "conv1", "act1")
    assert merged([*apart, together]) == (together,)
    assert merged([layer("d", "conv0", "act0", "out0")])
    assert not merged([layer("__myl_Conc_myl0_0", "conv0", "conv1", kind="kgen")])
