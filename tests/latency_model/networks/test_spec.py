"""Descriptions give what a reader finds in the ONNX graph of the same network."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_model.errors import InputError, ModelError
from latency_model.harvest import harvest_onnx
from latency_model.networks import network_of_spec

BASIC = {
    "family": "resnet", "block": "basic", "stem": 8, "stream": [8, 12], "inner": [[[6]], [[10], [14]]],
    "input": 32, "batch": 2, "precision": "fp16", "classes": 10,
}  # fmt: skip
BOTTLENECK = BASIC | {"block": "bottleneck", "inner": [[[4, 6]], [[4, 4], [6, 8]]], "input": 64}
VGG = {"family": "vgg", "widths": [[4, 6], [8]], "input": 16, "batch": 1, "precision": "fp16", "classes": 10}
MOBILE = {
    "family": "mobilenet", "stem": 8, "blocks": [[8, 8, 1], [16, 12, 2], [24, 12, 1]], "last": 20,
    "input": 32, "batch": 3, "precision": "fp32", "classes": 10,
}  # fmt: skip


class Graph:
    """An ONNX graph that grows by one layer at a time: the oracle, written without the code under test."""

    def __init__(self, spec):
        self.half = spec["precision"] == "fp16"
        self.nodes, self.weights, self.channels = [], [], {"x": 3}

    def _weight(self, *shape):
        name = f"w{len(self.weights)}"
        data = np.zeros(shape, np.float16 if self.half else np.float32)
        self.weights.append(numpy_helper.from_array(data, name))
        return name

    def _node(self, op, *inputs, channels=None, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        self.channels[name] = channels or self.channels[inputs[0]]
        return name

    def conv(self, x, width, k, stride=1, groups=1, relu=True):
        weight = self._weight(width, self.channels[x] // groups, k, k)
        y = self._node("Conv", x, weight, self._weight(width), channels=width, kernel_shape=[k, k],
                       strides=[stride] * 2, pads=[k // 2] * 4, group=groups)  # fmt: skip
        return self._node("Relu", y) if relu else y

    def add(self, x, y, relu=True):
        z = self._node("Add", x, y)
        return self._node("Relu", z) if relu else z

    def pool(self, x, k, stride, pad):
        return self._node("MaxPool", x, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)

    def bytes(self, x, spec):
        x = self._node("Flatten", self._node("GlobalAveragePool", x))
        y = self._node("Gemm", x, self._weight(10, self.channels[x]), self._weight(10), transB=1)
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        size = [spec["batch"], 3, spec["input"], spec["input"]]
        ends = [helper.make_tensor_value_info(n, kind, s) for n, s in (("x", size), (y, [spec["batch"], 10]))]
        graph = helper.make_graph(self.nodes, "net", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def basic():
    g = Graph(BASIC)
    x = g.conv("x", 8, 3)
    x = g.add(g.conv(g.conv(x, 6, 3), 8, 3, relu=False), x)
    skip = g.conv(x, 12, 1, 2, relu=False)
    x = g.add(g.conv(g.conv(x, 10, 3, 2), 12, 3, relu=False), skip)
    x = g.add(g.conv(g.conv(x, 14, 3), 12, 3, relu=False), x)
    return g.bytes(x, BASIC)


def bottleneck():
    g = Graph(BOTTLENECK)
    x = g.pool(g.conv("x", 8, 7, 2), 3, 2, 1)
    x = g.add(g.conv(g.conv(g.conv(x, 4, 1), 6, 3), 8, 1, relu=False), x)
    skip = g.conv(x, 12, 1, 2, relu=False)
    x = g.add(g.conv(g.conv(g.conv(x, 4, 1), 4, 3, 2), 12, 1, relu=False), skip)
    x = g.add(g.conv(g.conv(g.conv(x, 6, 1), 8, 3), 12, 1, relu=False), x)
    return g.bytes(x, BOTTLENECK)


def vgg():
    g = Graph(VGG)
    x = g.pool(g.conv(g.conv("x", 4, 3), 6, 3), 2, 2, 0)
    return g.bytes(g.pool(g.conv(x, 8, 3), 2, 2, 0), VGG)


def mobile():
    g = Graph(MOBILE)
    x = g.conv("x", 8, 3, 2)
    x = g.add(g.conv(g.conv(x, 8, 3, groups=8), 8, 1, relu=False), x, relu=False)
    x = g.conv(g.conv(g.conv(x, 16, 1), 16, 3, 2, groups=16), 12, 1, relu=False)
    y = g.conv(g.conv(g.conv(x, 24, 1), 24, 3, groups=24), 12, 1, relu=False)
    return g.bytes(g.conv(g.add(y, x, relu=False), 20, 1), MOBILE)


@pytest.mark.parametrize(
    ("spec", "model"), [(BASIC, basic), (BOTTLENECK, bottleneck), (VGG, vgg), (MOBILE, mobile)]
)
def test_a_description_gives_what_the_graph_has(spec, model):
    made = model()
    onnx.checker.check_model(onnx.load_model_from_string(made))
    found, wanted = network_of_spec(spec), harvest_onnx(made, layout="nhwc")
    assert [site.shape for site in found.sites] == [site.shape for site in wanted.sites]
    assert [op.shape for op in found.ops] == [op.shape for op in wanted.ops]
    assert not found.others


def test_a_named_model_comes_from_the_zoo():
    found = network_of_spec({"model": "resnet20", "batch": 4, "precision": "fp16"})
    assert {site.shape.precision for site in found.sites} == {"fp16"}
    assert found.sites[0].shape.batch == 4
    assert found.sites[0].shape.layout == "nhwc"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"family": "transformer"}, "unknown network family 'transformer'"),
        ({key: value for key, value in VGG.items() if key != "widths"}, "lacks 'widths'"),
        (VGG | {"widths": [["many"]]}, "cannot be read"),
        (VGG | {"widths": [[0]]}, "every size must be positive"),
        (BASIC | {"block": "round"}, "no residual block 'round'"),
        (BASIC | {"inner": [[[6]]]}, "cannot be read"),
        (VGG | {"precision": "fp7"}, "unknown precision 'fp7'"),
        ({"model": "resnet20", "precision": "fp16"}, "needs a batch"),
    ],
)
def test_bad_descriptions_are_named(spec, says):
    with pytest.raises(InputError, match=says):
        network_of_spec(spec)


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match="resnot"):
        network_of_spec({"model": "torchvision:resnot", "batch": 1, "precision": "fp16"})
