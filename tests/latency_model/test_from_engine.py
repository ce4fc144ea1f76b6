"""What an engine fused with what, and what that is a site or an operator of."""

import json

import numpy as np
import pytest
from engine_things import Net, cost, entry, layer, patterns, residual, roles, siblings, tensor, texts
from onnx import numpy_helper

from latency_model.harvest import harvest_onnx
from latency_model.harvest.engine_layers import layers_from_json
from latency_model.harvest.from_engine import engine_cost
from latency_model.network import Channels

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
