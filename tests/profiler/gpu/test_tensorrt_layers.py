import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import MeasurementError
from latency_model.shapes import ConvShape
from profiler.gpu.tensorrt_layers import (
    EngineLayer,
    fused_pattern,
    layers_from_json,
    layers_from_log,
    merged,
    reformats,
)

SHAPE = ConvShape(1, 16, 16, 16, 32, precision="fp16")
ADD = dataclasses.replace(SHAPE, pattern="conv+bias+add+relu")
SILU = dataclasses.replace(SHAPE, pattern="conv+bias+silu")


def layer(name, *operators, kind="correlation", reads=("Half NHWC",)):
    return EngineLayer(name, kind, "", ("Half NHWC",), operators, reads)


def line(name, *, kind="kgen", operators=(), tensors=("Half NHWC",), tactic="t", stream=0):
    def listed(prefix):
        return ", ".join(
            f"{{ Name: {prefix}{i}, Dimensions: [1,2], Strides: [2,1], Datatype: {t.split()[0]}, "
            f"Format: ({t.split()[1]}) words, of a format }}"
            for i, t in enumerate(tensors)
        )

    metadata = "".join(f"[ONNX Layer: {operator}]" for operator in operators)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {listed('in')}], Constants: [], Outputs: [ {listed('out')}], "
        f"TacticName: {tactic}, StreamId: {stream}, Metadata: {metadata}"
    )


WORD = st.from_regex(r"[a-z][A-Za-z0-9_]{0,8}", fullmatch=True)
FORMAT = st.tuples(st.sampled_from(["Half", "Float", "Int8"]), st.sampled_from(["NHWC", "Linear"])).map(
    " ".join
)


@given(
    st.lists(
        st.builds(
            EngineLayer,
            name=WORD,
            kind=WORD,
            tactic=WORD,
            formats=st.lists(FORMAT, max_size=3).map(tuple),
            operators=st.lists(WORD, min_size=1, max_size=3, unique=True).map(tuple),
            stream=st.integers(0, 3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_the_builder_logs_reads_back(layers):
    layers = [dataclasses.replace(item, reads=item.formats) for item in layers]
    lines = [
        line(
            item.name,
            kind=item.kind,
            operators=item.operators,
            tensors=item.formats,
            tactic=item.tactic,
            stream=item.stream,
        )
        for item in layers
    ]
    text = "\n".join(["Layers:", *lines, "", "I/O Tensors:", " Name: x, IOMode: Input", ""])
    assert layers_from_log(text) == tuple(layers)


def test_a_log_without_layers_is_an_error():
    with pytest.raises(MeasurementError, match="inspect the engine on a device"):
        layers_from_log("Layers:\n\nI/O Tensors:\n Name: x, IOMode: Input")


def test_the_inspectors_json_of_version_10():
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "Reformatting CopyNode for Input Tensor 0 to conv0 + act0",
                    "LayerType": "Reformat",
                    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
                    "Outputs": [
                        {"Name": "y", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
                    ],
                    "TacticValue": "0x0",
                },
                {
                    "Name": "conv0 + PWN(gate0, act0)",
                    "LayerType": "CaskConvolution",
                    "Inputs": [],
                    "Outputs": [],
                    "TacticName": "sm80_xmma_fprop",
                    "StreamId": 1,
                    "Metadata": "[ONNX Layer: conv0]\x1e[ONNX Layer: gate0]\x1e[ONNX Layer: act0]",
                },
            ],
            "Bindings": ["x", "y"],
        }
    )
    first, second = layers_from_json(text)
    assert first.moves_data
    assert first.formats == ("Channel major FP16 format where channel % 8 == 0",)
    assert second.operators == ("conv0", "gate0", "act0")
    assert (second.tactic, second.stream) == ("sm80_xmma_fprop", 1)
    assert fused_pattern([first, second], SILU).fused


def test_the_inspectors_json_of_version_11():
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "conv0_myl0_1",
                    "LayerType": "correlation",
                    "Inputs": [{"Name": "x", "Datatype": "Half", "Format": "(NHWC) Channel major format"}],
                    "Outputs": [{"Name": "y", "DataType": "Half", "Format": "(NHWC) Channel major format"}],
                    "TacticName": "t",
                    "StreamId": 0,
                    "Metadata": "[conv0][act0]",
                }
            ],
            "I/O Tensors": [],
        }
    )
    (only,) = layers_from_json(text)
    assert only == EngineLayer(
        "conv0_myl0_1", "correlation", "t", ("Half NHWC",), ("conv0", "act0"), ("Half NHWC",)
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not json", "no list of layers"),
        ("{}", "no list of layers"),
        ('{"Layers": ["conv0"]}', "only the names"),
    ],
)
def test_json_without_what_is_needed_is_an_error(text, reason):
    with pytest.raises(MeasurementError, match=reason):
        layers_from_json(text)


def test_operators_come_from_the_name_where_there_is_no_metadata():
    (only,) = layers_from_log("Layers:\n" + line("conv0 + PWN(gate0, act0)"))
    assert set(only.operators) >= {"conv0", "gate0", "act0"}
    (generated,) = layers_from_log("Layers:\n" + line("__myl_Move_myl0_0"))
    assert generated.operators == ()


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
