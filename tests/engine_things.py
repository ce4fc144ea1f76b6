"""A network, and the layers that an engine of it may list."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from latency_model.harvest import harvest_onnx
from latency_model.harvest.engine_layers import EngineLayer, EngineTensor
from latency_model.harvest.from_engine import engine_cost

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
