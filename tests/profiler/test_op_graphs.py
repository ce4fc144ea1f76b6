"""The graphs that time operators, and that the runtime runs the operator in them as a network does."""

from collections import Counter

import numpy as np
import onnx
import pytest

from latency_model.errors import MeasurementError
from latency_model.ops import OpShape
from profiler.backends.onnxruntime_cpu import session
from profiler.op_graphs import in_blocks, op_branches, op_output, sink_branches

COPIES = 3
BLOCKED = [
    ("op MaxPool 1x64x14x14 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp32 nchw", "MaxPool"),
    ("op AveragePool 1x64x14x14 kernel_shape=2,2 pads=0,0,0,0 strides=2,2 fp32 nchw", "AveragePool"),
    ("op GlobalAveragePool 1x64x14x14 fp32 nchw", "GlobalAveragePool"),
    ("op Add 1x32x9x9 1x32x9x9 fp32 nchw", "Add"),
    ("op Mul 1x32x9x9 1x32x9x9 fp32 nchw", "Mul"),
    ("op Concat 1x32x9x9 1x16x9x9 axis=1 fp32 nchw", "Concat"),
    ("op Relu 1x32x9x9 fp32 nchw", "Relu"),
    ("op HardSigmoid 1x32x9x9 fp32 nchw", "HardSigmoid"),
    ("op QuickGelu 1x32x9x9 fp32 nchw", "QuickGelu"),
    ("op BatchNormalization 1x32x9x9 activation=relu fp32 nchw", "Conv Relu"),
]
PLAIN = [
    ("op ReduceMean 1x512x7x7 axes=2,3 fp32 nchw", "ReduceMean"),
    ("op Gemm 2x512 w10x512 w10 fp32 nchw", "Gemm"),
    ("op Gemm 2x512 w10x512 w10 activation=relu fp32 nchw", "FusedGemm"),
    ("op Mul 1x72x1x1 1x72x9x9 fp32 nchw", "Mul"),
    ("op Mul 1x96x9x9 w96x1x1 fp32 nchw", "Mul"),
    ("op Concat 1x58x9x9 1x58x9x9 axis=1 fp32 nchw", "Concat"),
    ("op MaxPool 1x24x9x9 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp32 nchw", "MaxPool"),
    ("op Clip 1x32x9x9 fp32 nchw", "Clip"),
    ("op Transpose 1x2x58x9x9 perm=0,2,1,3,4 fp32 nchw", "Transpose"),
    ("op Split 1x116x9x9 axis=1 num_outputs=2 fp32 nchw", "Split"),
    ("op Split 1x9x9x9 axis=1 split=4,5 fp32 nchw", "Split"),
    ("op LayerNormalization 1x9x9x96 w96 w96 fp32 nchw", "LayerNormalization"),
    ("op Gelu 1x9x9x96 fp32 nchw", "Gelu"),
    ("op Resize 1x24x9x9 mode=nearest scales=1,1,2,2 fp32 nchw", "Resize"),
    ("op Softmax 1x100 axis=1 fp32 nchw", "Softmax"),
]


def label(node):
    activation = next((a.s.decode() for a in node.attribute if a.name == "activation"), "")
    return " ".join(filter(None, [node.op_type, activation if "Conv" in node.op_type else ""]))


def optimised(branches, path):
    session(branches.model, optimised_path=str(path))
    graph = onnx.load(path).graph
    if not any(node.domain.endswith("nchwc") for node in graph.node) and any(
        "Conv" in node.op_type for node in graph.node
    ):
        pytest.skip("this processor has no blocked layout")
    return graph.node


@pytest.mark.parametrize(("text", "kind"), BLOCKED)
def test_between_convolutions_it_runs_blocked_and_alone(text, kind, tmp_path):
    shape = OpShape.parse(text)
    assert in_blocks(shape)
    nodes = optimised(op_branches(shape, COPIES), tmp_path / "m.onnx")
    expected = Counter(
        {"Conv LeakyRelu": COPIES * len(shape.inputs), "Conv": COPIES, "ReorderOutput": COPIES}
    )
    assert Counter(map(label, nodes)) == expected + Counter({kind: COPIES})
    without = optimised(op_branches(shape, COPIES, operator=False), tmp_path / "n.onnx")
    both = COPIES * len(shape.inputs)
    assert Counter(map(label, without)) == {"Conv LeakyRelu": both, "Conv": both, "ReorderOutput": both}


@pytest.mark.parametrize(("text", "kind"), PLAIN)
def test_anything_else_runs_plain_and_alone(text, kind, tmp_path):
    shape = OpShape.parse(text)
    assert not in_blocks(shape)
    nodes = optimised(op_branches(shape, COPIES), tmp_path / "m.onnx")
    seen = Counter(map(label, nodes)) - Counter({"Reshape": COPIES})
    assert seen == {"Sub": COPIES * len(shape.inputs), kind: COPIES, "Slice": COPIES}
    # It reads its input whole: nothing was sliced before it.
    first = next(node for node in nodes if node.op_type == kind)
    assert any(name.startswith("made") for name in first.input)


@pytest.mark.parametrize(("kind", "sinks"), [("ReorderInput", "Slice"), ("ReorderOutput", "Conv")])
def test_a_change_of_layout_is_the_difference_of_two_sinks(kind, sinks, tmp_path):
    shape = OpShape(kind, ((1, 96, 9, 9),))
    nodes = Counter(map(label, optimised(op_branches(shape, COPIES), tmp_path / "m.onnx")))
    assert nodes[kind] == COPIES
    without = Counter(map(label, optimised(op_branches(shape, COPIES, operator=False), tmp_path / "n.onnx")))
    assert without[sinks] == COPIES
    assert without["ReorderInput"] == 0


@pytest.mark.parametrize("text", [text for text, _ in BLOCKED + PLAIN])
def test_every_graph_is_valid_and_runs(text):
    shape = OpShape.parse(text)
    branches = op_branches(shape, 2)
    onnx.checker.check_model(onnx.load_model_from_string(branches.model), full_check=True)
    results = session(branches.model).run(None, dict(branches.feed))
    assert len(results) == 2
    assert all(np.isfinite(result).all() for result in results)
    assert not np.array_equal(*results)  # own producers and own weights
    assert sum(branches.sinks.values()) == 1
    assert sum(op_branches(shape, 2, operator=False).sinks.values()) == len(shape.inputs)


@pytest.mark.parametrize("blocked", [True, False])
def test_sinks_share_a_producer_and_are_not_merged(blocked, tmp_path):
    nodes = optimised(sink_branches((1, 32, 7, 7), 17, blocked=blocked), tmp_path / "m.onnx")
    seen = Counter(map(label, nodes))
    assert seen["Conv" if blocked else "Slice"] == 17
    assert seen["Conv LeakyRelu" if blocked else "Sub"] == 1


def test_the_output_of_an_operator():
    pool = OpShape.parse(
        "op MaxPool 1x64x15x15 ceil_mode=1 kernel_shape=2,2 pads=0,0,0,0 strides=2,2 fp32 nchw"
    )
    assert op_output(pool) == (1, 64, 8, 8)
    assert op_output(OpShape.parse("op Gemm 2x512 w10x512 fp32 nchw")) == (2, 10)


def test_what_has_no_graph_is_said_in_a_sentence():
    with pytest.raises(MeasurementError, match="no graph to time the operator Einsum"):
        op_branches(OpShape("Einsum", ((1, 8),)), 2)
    with pytest.raises(MeasurementError, match="int8"):
        op_branches(OpShape("Relu", ((1, 8),), precision="int8"), 2)
