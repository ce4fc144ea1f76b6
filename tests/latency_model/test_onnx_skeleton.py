import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from latency_model.errors import ModelError
from latency_model.harvest import harvest_onnx
from latency_model.harvest.onnx_skeleton import Skeleton, skeleton_of, varint


def conv_model(*, as_constant=False, kind=np.float32, channels=64, functions=False):
    """Return a model of two convolutions, a reshape whose target is a constant, and a linear layer."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=(channels, 3, 3, 3)).astype(kind)
    second = draw.normal(size=(channels, channels, 3, 3)).astype(kind)
    dense = draw.normal(size=(10, channels * 8 * 8)).astype(kind)
    tensors = [
        numpy_helper.from_array(array, name)
        for name, array in (
            ("a.weight", first),
            ("b.weight", second),
            ("fc.weight", dense),
            ("shape", np.array([1, channels * 8 * 8], dtype=np.int64)),
        )
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["h"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "b.weight"], ["g"], "b", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["g", "shape"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "fc.weight"], ["y"], "fc", transB=1),
    ]
    if as_constant:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + nodes
        tensors = []
    type_ = TensorProto.FLOAT16 if kind == np.float16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", type_, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", type_, [1, 10])],
        initializer=tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_skeleton_is_small_and_harvests_to_the_same(as_constant, kind):
    data = conv_model(as_constant=as_constant, kind=kind)
    skeleton = skeleton_of([data])
    assert len(skeleton) < 2000 < len(data)
    assert harvest_onnx(skeleton) == harvest_onnx(data)


def test_sizes_that_decide_shapes_stay():
    opened = onnx.load_model_from_string(skeleton_of([conv_model()]))
    kept = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in opened.graph.initializer if tensor.raw_data
    }
    assert kept["shape"].tolist() == [1, 64 * 64]
    assert "b.weight" not in kept
    assert all(list(t.dims) for t in opened.graph.initializer)


def test_large_integers_stay():
    array = np.arange(5000, dtype=np.int64)
    graph = helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(array, "i")])
    data = helper.make_model(graph).SerializeToString()
    assert skeleton_of([data]) == data


def test_values_as_a_list_of_floats_go_too():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4000], [1.5] * 4000)
    data = helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor])).SerializeToString()
    (found,) = onnx.load_model_from_string(skeleton_of([data])).graph.initializer
    assert (list(found.dims), len(found.float_data)) == ([4000], 0)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_pieces_of_any_size_give_the_same(sizes):
    data = conv_model(as_constant=True, channels=16)
    whole = skeleton_of([data])
    parts, at = [], 0
    for size in [*sizes, *[7000] * 20]:
        parts.append(data[at : at + size])
        at += size
    assert b"".join(parts) == data[:at]
    assert skeleton_of([*parts, data[at:]]) == whole
    assert skeleton_of(pieces(data, sizes[0])) == whole


@pytest.mark.parametrize("end", [1, 5, 500, 3000, -1])
def test_a_model_that_is_cut_off_is_refused(end):
    data = conv_model()
    with pytest.raises(ModelError, match=r"ends in the middle|cannot be read"):
        skeleton_of([data[:end]])


def test_what_is_no_protocol_buffer_is_refused():
    with pytest.raises(ModelError, match=r"cannot be read as ONNX|ends in"):
        skeleton_of([b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 30])
    with pytest.raises(ModelError, match="no known kind"):
        skeleton_of([b"\x0b\x00"])
    with pytest.raises(ModelError, match="no end"):
        skeleton_of([b"\x08" + b"\xff" * 12])


def test_a_length_beyond_its_message_is_refused():
    inner = b"\x2a" + varint(10_000) + b"x" * 2000  # an initializer that claims more than the graph has
    with pytest.raises(ModelError, match="longer than what holds it"):
        skeleton_of([b"\x3a" + varint(len(inner)) + inner])


def test_a_huge_length_is_refused_before_its_bytes_come():
    skeleton = Skeleton(most_bytes=10**6)
    with pytest.raises(ModelError, match="more than 1000000 bytes"):
        skeleton.feed(b"\x32" + varint(10**12))


def test_much_beside_the_weights_is_refused_before_it_is_kept():
    skeleton = Skeleton(most_bytes=10**9, most_kept=10_000)
    with pytest.raises(ModelError, match="10000 bytes beside its weights"):
        skeleton.feed(b"\x32" + varint(20_000) + b"doc")  # a doc_string
    skeleton = Skeleton(most_bytes=10**9, most_kept=10_000)
    with pytest.raises(ModelError, match="beside its weights"):
        for _ in range(100):
            skeleton.feed(b"\x32" + varint(500) + b"d" * 500)


def test_more_bytes_than_the_limit_are_refused_even_when_skipped():
    data = conv_model()
    skeleton = Skeleton(most_bytes=len(data) - 1)
    with pytest.raises(ModelError, match="more than"):
        for part in pieces(data, 1000):
            skeleton.feed(part)


def nested_graphs(depth):
    """Return a model of ``depth`` graphs within each other, each too large to be kept unread."""
    graph = b"\x52" + varint(2000) + b"d" * 2000
    for _ in range(depth):
        attribute = b"\x32" + varint(len(graph)) + graph  # AttributeProto.g
        node = b"\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(node)) + node
    return b"\x3a" + varint(len(graph)) + graph


def test_deep_nesting_is_refused():
    skeleton_of([nested_graphs(10)])
    with pytest.raises(ModelError, match="deeper"):
        skeleton_of([nested_graphs(30)])


@given(st.integers(0, 2**64 - 1))
def test_varints_have_seven_bits_a_byte(number):
    found = varint(number)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(found)) == number
    assert all(byte & 0x80 for byte in found[:-1]) and not found[-1] & 0x80


def test_networks_are_compared_in_full():
    one = harvest_onnx(conv_model())
    assert dataclasses.replace(one, name="other") != one


def test_millions_of_empty_parts_are_refused():
    nodes = b"\x0a\x00" * 300_000
    with pytest.raises(ModelError, match="more than 200000 parts"):
        skeleton_of(pieces(b"\x3a" + varint(len(nodes)) + nodes, 65536))
