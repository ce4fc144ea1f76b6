import dataclasses
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from latency_model.errors import InputError, ModelError
from latency_model.harvest import harvest_onnx
from latency_model.harvest.engine_layers import EngineLayer, EngineTensor, layers_from_json, layers_from_log
from latency_model.harvest.from_engine import engine_cost
from latency_model.network import Channels

SIZE = 8


class Net:
    """Builds a small ONNX file, node by node; a node is called as its output."""

    def __init__(self, channels=16):
        self.nodes, self.weights, self.channels = [], [], channels

    def conv(self, source, name, *, out=16, into=16, kernel=3, bias=True, group=1):
        names = [f"{name}.weight"] + [f"{name}.bias"] * bias
        for key, size in zip(names, [(out, into // group, kernel, kernel), (out,)], strict=False):
            self.weights.append(numpy_helper.from_array(np.ones(size, np.float16), key))
        return self.op("Conv", [source, *names], name, pads=[kernel // 2] * 4, group=group)

    def op(self, kind, sources, name, **attributes):
        self.nodes.append(helper.make_node(kind, sources, [name], name=name, **attributes))
        return name

    def bytes(self, output):
        info = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, self.channels, SIZE, SIZE]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT16, None),
        ]
        graph = helper.make_graph(self.nodes, "net", info[:1], info[1:], self.weights)
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def residual():
    net = Net()
    net.conv("x", "stem")
    net.op("Relu", ["stem"], "stem_relu")
    net.conv("stem_relu", "conv")
    net.op("Add", ["conv", "stem_relu"], "sum")
    net.op("Relu", ["sum"], "relu")
    net.op("MaxPool", ["relu"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    return net.bytes("pool")


def tensor(name, channels=16, *, kind="Half", size=SIZE):
    return EngineTensor(name, (1, channels, size, size), f"{kind} NHWC")


def layer(name, *nodes, kind="CaskConvolution", reads=(), writes=()):
    return EngineLayer(name, kind, "", (), nodes, inputs=tuple(reads), outputs=tuple(writes))


def cost(model, *layers, **options):
    return engine_cost(layers, model, harvest_onnx(model, **options))


def patterns(found):
    return {site.name: site.shape.pattern for site in found.network.sites}


def roles(found):
    return [use.role for use in found.layers]


def texts(found):
    return [site.shape.text for site in found.network.ops]


def entry(name, kind, nodes, inputs, outputs, words="Channel major FP16 format where channel % 8 == 0"):
    def listed(tensors):
        return [{"Name": n, "Dimensions": [1, c, SIZE, SIZE], "Format/Datatype": words} for n, c in tensors]

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": listed(inputs),
        "Outputs": listed(outputs),
        "TacticValue": "0x1",
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def siblings(*, second_kernel=1):
    net = Net()
    net.conv("x", "stem")
    net.op("Relu", ["stem"], "stem_relu")
    net.conv("stem_relu", "a", kernel=1)
    net.op("Relu", ["a"], "a_relu")
    net.conv("stem_relu", "b", out=24, kernel=second_kernel)
    net.op("Relu", ["b"], "b_relu")
    net.op("Concat", ["a_relu", "b_relu"], "cat", axis=1)
    net.conv("cat", "last", into=40, kernel=1)
    return net.bytes("last")


# As TensorRT 10 would write it, to our knowledge: nobody of us has seen siblings merged on a device.
VERSION_10 = json.dumps(
    {
        "Layers": [
            entry(
                "Reformatting CopyNode for Input Tensor 0 to stem + stem_relu",
                "Reformat",
                [],
                [("x", 16)],
                [("y", 16)],
            ),
            entry(
                "stem + stem_relu", "CaskConvolution", ["stem", "stem_relu"], [("y", 16)], [("stem_relu", 16)]
            ),
            entry(
                "a + a_relu || b + b_relu",
                "CaskConvolution",
                ["a", "a_relu", "b", "b_relu"],
                [("stem_relu", 16)],
                [("cat", 40)],
            ),
            entry("last", "CaskConvolution", ["last"], [("cat", 40)], [("last", 16)]),
        ],
        "Bindings": ["x", "last"],
    }
)


def test_siblings_in_one_layer_are_one_site_on_the_channels_of_both():
    model = siblings()
    found = engine_cost(layers_from_json(VERSION_10), model, harvest_onnx(model))
    assert roles(found) == ["boundary", "conv", "merged", "conv"]
    assert found.merged == (("a", "b"),)
    assert patterns(found) == {"stem": "conv+bias+relu", "a || b": "conv+bias+relu", "last": "conv+bias"}
    both = found.network.sites[1]
    assert both.shape.text == "1x16x8x8 ->40 k1 s1 p0 g1 conv+bias+relu fp16 nchw"
    counts = found.network.counts({"a.out": 5, "b.out": 0})
    assert both.at(counts).out_channels == 5
    # The concatenation is in no layer: it is said, and counted.
    assert found.unmatched == ("cat",)
    assert dict(found.network.others) == {"cat": 1}
    assert "cat" in " ".join(found.notes)
    assert dict(found.network.groups) == dict(harvest_onnx(model).groups)


@pytest.mark.parametrize("change", ["kernel", "input", "pattern"])
def test_what_shares_a_layer_and_is_no_sibling_is_priced_apart(change):
    model = siblings(second_kernel=3 if change == "kernel" else 1)
    names = ["a", "b"] if change != "input" else ["stem", "a"]
    nodes = [*names, "a_relu"] + ["b_relu"] * (change == "kernel") + ["stem_relu"] * (change == "input")
    found = cost(model, layer("both", *nodes))
    assert found.merged == ()
    assert roles(found) == ["shared"]
    assert [site.name for site in found.network.sites if site.name in names] == names
    assert any("no siblings" in note and ", ".join(names) in note for note in found.notes)
    assert found.layers[0].sites == tuple(names)


def test_a_layer_with_everything_is_one_site_with_the_whole_pattern():
    found = cost(
        residual(),
        layer("1", "stem", "stem_relu"),
        layer("2", "relu", "conv", "sum"),
        layer("3", "pool", kind="Pooling"),
    )
    assert patterns(found) == {"stem": "conv+bias+relu", "conv": "conv+bias+add+relu"}
    assert texts(found) == ["op MaxPool 1x16x8x8 kernel_shape=2,2 pads=0,0,0,0 strides=2,2 fp16 nchw"]
    assert roles(found) == ["conv", "conv", "op"]
    assert found.notes == found.unmatched == ()
    assert not found.network.others
    assert found.network.reorders == ()


def test_what_is_apart_is_an_operator_of_its_own():
    found = cost(
        residual(),
        layer("1", "stem"),
        layer("2", "stem_relu", kind="PointWise"),
        layer("3", "conv"),
        layer("4", "sum", kind="ElementWise"),
        layer("5", "relu", kind="PointWise"),
        layer("6", "pool", kind="Pooling"),
    )
    assert patterns(found) == {"stem": "conv+bias", "conv": "conv+bias"}
    assert [text.split()[1] for text in texts(found)] == ["Relu", "Add", "Relu", "MaxPool"]
    add = found.network.ops[1]
    assert add.shape.inputs == ((1, 16, 8, 8),) * 2
    small = add.at(found.network.counts({"conv.out": 3, "stem.out": 3}))
    assert small.inputs == ((1, 3, 8, 8),) * 2


def test_a_fusion_is_one_operator_and_follows_the_channel_groups():
    fused = layer("PWN(sum, relu)", "sum", "relu", "pool", kind="Myelin")
    found = cost(residual(), layer("1", "stem", "stem_relu"), layer("2", "conv"), fused)
    assert patterns(found)["conv"] == "conv+bias"
    assert roles(found) == ["conv", "conv", "fused"]
    (site,) = found.network.ops
    assert site.shape.text == (
        "op Fused 1x16x8x8 1x16x8x8 op2_kernel_shape=2,2 op2_pads=0,0,0,0 op2_strides=2,2 "
        "ops=Add+Relu+MaxPool fp16 nchw"
    )
    assert {group for axis in site.axes for group, _ in axis.channels.terms} <= {"conv.out", "stem.out"}
    assert (
        site.at(found.network.counts(dict.fromkeys(("conv.out", "stem.out"), 4))).inputs
        == ((1, 4, 8, 8),) * 2
    )


def test_channel_groups_of_a_regrouped_network_are_kept():
    model = siblings()
    plain = harvest_onnx(model)
    one, two = Channels(terms=(("one", 1),)), Channels(terms=(("two", 1),))
    both = Channels(terms=(("one", 1), ("two", 1)))
    axes = {
        "stem": (Channels(16), Channels(16)),
        "a": (Channels(16), one),
        "b": (Channels(16), two),
        "last": (both, Channels(16)),
    }
    network = plain.regroup(axes, {"one": 16, "two": 24})
    layers = [*layers_from_json(VERSION_10)[:3], layer("cat", "cat", kind="Concat"), layer("last", "last")]
    found = engine_cost(layers, model, network)
    assert dict(found.network.groups) == {"one": 16, "two": 24}
    assert found.network.sites[1].outputs == both
    (concat,) = (site for site in found.network.ops if site.shape.op == "Concat")
    assert concat.at(found.network.counts({"one": 1})).inputs == ((1, 1, 8, 8), (1, 24, 8, 8))


def test_a_bias_is_apart_when_another_layer_executes_the_convolution_too():
    found = cost(
        residual(),
        layer("pad", "stem", "stem_relu", kind="Reformat", reads=[tensor("x")], writes=[tensor("p")]),
        layer("1", "stem", "stem_relu", reads=[tensor("p")], writes=[tensor("q")]),
        layer("2", "conv"),
        layer("__myl_AddAddRelu_myl0_3", "conv", "sum", "relu", kind="kgen"),
        layer("4", "pool"),
    )
    assert patterns(found) == {"stem": "conv+bias+relu", "conv": "conv"}
    assert roles(found) == ["boundary", "conv", "conv", "fused", "op"]
    assert [text.split()[1] for text in texts(found)] == ["Fused", "MaxPool", "Reformat"]


def test_the_layer_that_multiplies_is_told_by_its_kind_or_name():
    for product in (("c", "correlation"), ("__myl_FcAdd_myl0_2", "runtime_fusion"), ("g", "gemm")):
        found = cost(
            residual(),
            layer("__myl_MulRounCast_myl0_1", "conv", kind="kgen", reads=[tensor("a")]),
            layer(product[0], "conv", "sum", "relu", kind=product[1]),
        )
        assert patterns(found)["conv"] == "conv+add+relu"
        assert roles(found) == ["part", "conv"]
        # The other kernel costs something: it has a site of its own.
        assert [site.name for site in found.network.ops] == ["__myl_MulRounCast_myl0_1"]


def test_order_counts_an_addition_after_an_activation_is_no_pattern():
    net = Net()
    net.conv("x", "a")
    net.op("Relu", ["a"], "relu")
    net.op("Add", ["relu", "x"], "late")
    found = cost(net.bytes("late"), layer("1", "late", "relu", "a"))
    assert patterns(found) == {"a": "conv+bias+relu"}
    assert dict(found.network.others) == {"add": 1}
    assert found.layers[0].executes == "conv+bias+relu and add"


def test_activations_biases_and_norms():
    net = Net()
    net.weights += [numpy_helper.from_array(np.ones((16, 1, 1), np.float16), "c")]
    net.weights += [numpy_helper.from_array(np.ones(16, np.float16), key) for key in "sbmv"]
    net.conv("x", "a", bias=False)
    net.op("BatchNormalization", ["a", "s", "b", "m", "v"], "norm")
    net.op("Sigmoid", ["norm"], "gate")
    net.op("Mul", ["norm", "gate"], "silu")
    net.conv("silu", "d", bias=False)
    net.op("Add", ["d", "c"], "constant")
    net.op("Sigmoid", ["constant"], "sigmoid")
    model = net.bytes("sigmoid")
    whole = cost(model, layer("1", "a", "norm", "gate", "silu"), layer("2", "d", "constant", "sigmoid"))
    assert patterns(whole) == {"a": "conv+bias+silu", "d": "conv+bias"}
    assert dict(whole.network.others) == {"sigmoid": 1}
    # Half of a SiLU in another layer is no SiLU.
    half = cost(model, layer("1", "a", "norm", "gate"), layer("2", "silu"), layer("3", "d"))
    assert patterns(half) == {"a": "conv+bias", "d": "conv"}
    assert dict(half.network.others) == {"sigmoid": 2, "add": 1}
    assert half.unmatched == ("constant", "sigmoid")


def test_boundaries_follow_the_value_that_they_move():
    moves = layer("__myl_Tran_myl0_2", kind="kgen", reads=[tensor("t1")], writes=[tensor("t2")])
    found = cost(
        residual(),
        layer("1", "stem", "stem_relu", reads=[tensor("x")], writes=[tensor("t1")]),
        moves,
        layer("2", "conv", "sum", "relu", reads=[tensor("t2")], writes=[tensor("t3")]),
        layer("3", "pool", kind="Pooling", reads=[tensor("t3")]),
    )
    site = found.network.ops[-1]
    assert site.shape.text == "op Reformat 1x16x8x8 from=Half_NHWC kind=Tran to=Half_NHWC fp16 nchw"
    assert site.at(found.network.counts({"stem.out": 2})).inputs == ((1, 2, 8, 8),)
    assert found.notes == ()


def test_what_names_nothing_is_a_kernel_that_keeps_its_size():
    odd = layer(
        "odd", "(Unnamed Layer* 3) [Shuffle]", kind="Shuffle", reads=[tensor("?", 12)], writes=[tensor("!")]
    )
    sizeless = layer("sizeless", kind="Reformat")
    nothing = layer("nothing", kind="NoOp")
    found = cost(residual(), odd, sizeless, nothing, layer("pool", "pool"))
    assert roles(found) == ["unknown", "boundary", "free", "op"]
    kernel = found.network.ops[1]
    assert (kernel.shape.op, kernel.shape.inputs, kernel.axes) == ("Kernel", ((1, 12, 8, 8),), ())
    assert found.network.others["reformat"] == 1
    assert any("keep their size" in note and "odd, sizeless" in note for note in found.notes)
    assert any("name no operator" in note and "odd" in note for note in found.notes)
    # Convolutions that no layer names stay, as the file has them.
    assert patterns(found) == {"stem": "conv+bias", "conv": "conv+bias"}
    assert found.unmatched == ("stem", "stem_relu", "conv", "sum", "relu")


def test_a_concatenation_written_in_place_costs_nothing():
    model, part = siblings(), [tensor("cat.1", 16), tensor("cat.1", 24)]
    convs = [layer(n, n, f"{n}_relu", writes=[w]) for n, w in zip("ab", part, strict=True)]
    ends = [layer("s", "stem", "stem_relu"), layer("l", "last", reads=[tensor("cat.1", 40)])]
    found = cost(model, *ends, *convs)
    assert found.in_place == ("cat",)
    assert not found.network.others
    # One operand of another size, or a stranger that writes there, is no proof.
    other = dataclasses.replace(convs[1], outputs=(tensor("cat.1", 16),))
    stranger = layer("p", "stem", "stem_relu", writes=[tensor("cat.1", 24)])
    for layers in ([*ends, convs[0], other], [ends[1], convs[0], stranger]):
        assert cost(model, *layers).network.others["cat"] == 1


@pytest.mark.parametrize(
    ("kind", "said"), [("Half", False), ("Float", True), ("Int8", True), ("Int32", False)]
)
def test_another_type_than_the_files_is_said(kind, said):
    found = cost(residual(), layer("1", "stem", "stem_relu", reads=[tensor("x", kind=kind)]))
    assert any("read as" in note and "stem" in note for note in found.notes) is said
    assert found.network.sites[0].shape.precision == "fp16"


def test_a_network_of_another_file_is_refused():
    model = residual()
    for other in (siblings(), b"no onnx"):
        with pytest.raises(InputError):
            engine_cost([], other, harvest_onnx(model))
    with pytest.raises(InputError, match="no layer of the engine"):
        cost(model, layer("1", "somebody", "else"))
    fewer = dataclasses.replace(harvest_onnx(model), sites=harvest_onnx(model).sites[:1])
    with pytest.raises(InputError, match="harvest the file"):
        engine_cost([], model, fewer)


def test_nodes_that_share_a_name_are_refused():
    net = Net()
    net.conv("x", "a")
    net.op("Relu", ["a"], "y")
    net.nodes[1].name = "a"
    with pytest.raises(ModelError, match="'a'"):
        cost(net.bytes("y"))


def test_nodes_without_a_name_are_called_by_their_output():
    net = Net()
    net.conv("x", "a")
    net.op("Relu", ["a"], "y")
    for node in net.nodes:
        node.ClearField("name")
    found = cost(net.bytes("y"), layer("1", "node_of_a", "node_of_y"))
    assert patterns(found) == {"a": "conv+bias+relu"}


def test_the_lines_of_a_builder():
    model = residual()

    def line(name, kind, nodes, source, target):
        def one(name):
            return (
                f"[ {{ Name: {name}, Dimensions: [1,16,8,8], Strides: [1024,1,128,16], StrideOrder: [3,0,2,1], "
                "Datatype: Half, Format: (NHWC) Channel major format }]"
            )

        metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
        return (
            f"Name: {name}, LayerType: {kind}, Inputs: {one(source)}, Constants: [], Outputs: {one(target)}, "
            f"TacticName: t, StreamId: 0, Metadata: {metadata}"
        )

    text = "\n".join(
        [
            "Layers:",
            line("__myl_Move_myl0_0", "kgen", [], "x", "m"),
            line("stem_myl0_1", "correlation", ["stem", "stem_relu"], "m", "s"),
            line("conv_myl0_2", "correlation", ["conv", "relu", "sum"], "s", "r"),
            line("pool_myl0_3", "maxpool", ["pool"], "r", "pool"),
            "",
            "I/O Tensors:",
        ]
    )
    found = engine_cost(layers_from_log(text), model, harvest_onnx(model))
    assert roles(found) == ["boundary", "conv", "conv", "op"]
    assert patterns(found)["conv"] == "conv+bias+add+relu"
    assert found.notes == ()


NODES = ("stem", "stem_relu", "conv", "sum", "relu", "pool")
MODEL = residual()
NETWORK = harvest_onnx(MODEL)


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries({node: st.sets(st.integers(0, 4), max_size=2) for node in NODES}),
    st.sets(st.integers(0, 4)),
)
def test_nothing_is_lost_or_counted_twice(homes, movers):
    layers = [
        layer(
            str(i),
            *(n for n in NODES if i in homes[n]),
            kind="Reformat" if i in movers else "kgen",
            reads=[tensor("x")],
        )
        for i in range(5)
    ]
    assume(any(homes.values()))
    found = engine_cost(layers, MODEL, NETWORK)
    assert [use.layer for use in found.layers] == [item.name for item in layers]
    covered = [name for site in found.network.sites for name in site.name.split(" || ")]
    assert sorted(covered) == ["conv", "stem"]
    # Each of the four other operators is in one pattern, one operator's site, or counted.
    inside = sum(
        (part in ("add", "relu")) for site in found.network.sites for part in site.shape.pattern.split("+")
    )
    apart = sum(
        len(dict(site.shape.attributes)["ops"].split("+")) if site.shape.op == "Fused" else 1
        for site in found.network.ops
        if site.shape.op not in ("Reformat", "Kernel")
    )
    assert inside + apart + sum(found.network.others.values()) == 4
    sites = {site.name for site in (*found.network.sites, *found.network.ops)}
    assert sites >= {name for use in found.layers for name in use.sites}
    assert {n for n in NODES if not homes[n]} == set(found.unmatched)


def test_a_second_addition_is_no_pattern():
    net = Net()
    net.conv("x", "a")
    net.op("Add", ["a", "x"], "once")
    net.op("Add", ["once", "x"], "twice")
    found = cost(net.bytes("twice"), layer("1", "a", "once", "twice"))
    assert patterns(found) == {"a": "conv+bias+add"}
    assert dict(found.network.others) == {"add": 1}


def test_equals_that_read_different_values_are_no_siblings():
    net = Net()
    net.conv("x", "a")
    net.conv("a", "b")
    found = cost(net.bytes("b"), layer("1", "a", "b"))
    assert found.merged == ()
    assert roles(found) == ["shared"]
    assert patterns(found) == {"a": "conv+bias", "b": "conv+bias"}


def test_what_is_moved_last_follows_what_wrote_it():
    net = Net()
    net.conv("x", "a")
    last = layer("Reformatting", kind="Reformat", reads=[tensor("inner")], writes=[tensor("outer")])
    found = cost(net.bytes("a"), layer("1", "a", writes=[tensor("inner")]), last)
    (site,) = found.network.ops
    assert site.at(found.network.counts({"a.out": 7})).inputs == ((1, 7, 8, 8),)


def test_outputs_of_a_linear_layer_keep_their_groups():
    net = Net()
    net.weights += [numpy_helper.from_array(np.ones((10, 16), np.float16), "fc.weight")]
    net.conv("x", "a")
    net.op("ReduceMean", ["a"], "mean", axes=[2, 3], keepdims=0)
    net.op("Gemm", ["mean", "fc.weight"], "fc", transB=1)
    net.op("Relu", ["fc"], "relu")
    model = net.bytes("relu")
    group, hidden = Channels(terms=(("g", 1),)), Channels(terms=(("h", 1),))
    axes = {"a": (Channels(16), group), "fc": (group, hidden)}
    network = harvest_onnx(model).regroup(axes, {"g": 16, "h": 10})
    counts = network.counts({"g": 5, "h": 3})
    for parts in (["fc"], ["fc", "relu"], ["mean", "fc", "relu"]):
        layers = [layer("1", "a"), layer("2", *parts), layer("3", *({"mean", "relu"} - {*parts}))]
        found = engine_cost(layers, model, network)
        shape = next(op.at(counts) for op in found.network.ops if op.shape.weights)
        assert shape.weights == ((3, 5),)
        assert shape.op == ("Fused" if len(parts) == 3 else "Gemm")
        assert dict(shape.attributes).get("activation", "") == ("relu" if len(parts) == 2 else "")
