"""An engine's list against the network that it was built of: any order, any names, nothing lost."""

import dataclasses

import numpy as np
import pytest
from engine_things import Net, cost, layer, patterns, residual, roles, siblings, tensor
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from latency_model.errors import InputError, ModelError
from latency_model.harvest import harvest_onnx
from latency_model.harvest.engine_layers import layers_from_log
from latency_model.harvest.from_engine import engine_cost
from latency_model.network import Channels


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
