import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import MeasurementError
from latency_model.harvest.engine_layers import EngineLayer, EngineTensor, layers_from_json, layers_from_log


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


def tensors(prefix, formats):
    return tuple(EngineTensor(f"{prefix}{index}", (1, 2), text) for index, text in enumerate(formats))


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
    layers = [
        dataclasses.replace(
            item, reads=item.formats, inputs=tensors("in", item.formats), outputs=tensors("out", item.formats)
        )
        for item in layers
    ]
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
                    "Inputs": [
                        {
                            "Name": "x",
                            "Dimensions": [1, 3, 8, 8],
                            "Format/Datatype": "Row major linear FP16 format",
                        }
                    ],
                    "Outputs": [
                        {"Name": "y", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
                    ],
                    "TacticValue": "0x0",
                    "Metadata": "",
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
    assert first.operators == ()
    assert first.inputs == (EngineTensor("x", (1, 3, 8, 8), "Row major linear FP16 format"),)
    assert first.formats == ("Channel major FP16 format where channel % 8 == 0",)
    assert first.outputs[0].dims == ()
    assert {tensor.precision for tensor in (*first.inputs, *first.outputs)} == {"fp16"}
    assert second.operators == ("conv0", "gate0", "act0")
    assert (second.tactic, second.stream) == ("sm80_xmma_fprop", 1)


def test_the_inspectors_json_of_version_11():
    given = {"Datatype": "Half", "Dimensions": [1, 2], "Format": "(NHWC) Channel major format"}
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "conv0_myl0_1",
                    "LayerType": "correlation",
                    "Inputs": [{"Name": "in0", **given}],
                    "Outputs": [{"Name": "out0", **given}],
                    "TacticName": "t",
                    "StreamId": 0,
                    "Metadata": "[conv0][act0]",
                }
            ],
            "I/O Tensors": [],
        }
    )
    (only,) = layers_from_json(text)
    half = ("Half NHWC",)
    assert only == EngineLayer(
        "conv0_myl0_1",
        "correlation",
        "t",
        half,
        ("conv0", "act0"),
        half,
        inputs=tensors("in", half),
        outputs=tensors("out", half),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not json", "no list of layers"),
        ("{}", "no list of layers"),
        ('{"Layers": "conv0"}', "only the names"),
        ('{"Layers": ["conv0"]}', "only the names"),
    ],
)
def test_json_without_what_is_needed_is_an_error(text, reason):
    with pytest.raises(MeasurementError, match=reason):
        layers_from_json(text)


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ("[ONNX Layer: /a/conv [x]][ONNX Layer: /a/relu + y]", ("/a/conv [x]", "/a/relu + y")),
        ("[ONNX Layer: a]\x1f[ONNX Layer: b]\x1e[ONNX Layer: a]", ("a", "b")),
        ("[conv0][act0]", ("conv0", "act0")),
        ("[ONNX Layer: a]__gemm_from_conv1x1", ("a",)),
        ("[ONNX Layer: a]__gemm_from_conv1x1[ONNX Layer: b]", ("a", "b")),
        ("", ()),
    ],
)
def test_the_names_in_the_metadata(metadata, names):
    entry = {"Name": "__myl_Corr_myl0_0", "LayerType": "kgen", "Metadata": metadata}
    assert layers_from_json(json.dumps({"Layers": [entry]}))[0].operators == names


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("conv0 + PWN(gate0, act0)", ("conv0", "gate0", "act0")),
        ("/a/conv + /a/relu || /b/conv", ("/a/conv", "/a/relu", "/b/conv")),
        ("{ForeignNode[/a/mean.../b/fc]}", ("/a/mean", "/b/fc")),
        ("PWN(PWN(/a/sigmoid), /a/mul)", ("/a/sigmoid", "/a/mul")),
        ("__myl_Move_myl0_0", ()),
        ("Reformatting CopyNode for Input Tensor 0 to conv0 + act0", ()),
    ],
)
def test_operators_come_from_the_name_where_there_is_no_metadata(name, names):
    assert layers_from_log("Layers:\n" + line(name))[0].operators == names


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Half NHWC", "fp16"),
        ("BFloat16 NHWC", "bf16"),
        ("BF16 NHWC", "bf16"),
        ("Float Linear", "fp32"),
        ("Row major linear FP32", "fp32"),
        ("Int8 NHWC", "int8"),
        ("Int32 Linear", ""),
    ],
)
def test_the_precision_of_a_tensor(text, precision):
    assert EngineTensor("x", (), text).precision == precision
