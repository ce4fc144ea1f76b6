"""The network definitions that we build, run by a small interpreter of TensorRT's layers, against torch."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional

from latency_model.errors import MeasurementError
from latency_model.shapes import PATTERNS, ConvShape
from profiler.gpu.tensorrt_module import message_log
from profiler.gpu.tensorrt_network import conv_arrays, conv_network, scales
from profiler.graphs import conv_copies

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

SHAPE = ConvShape(2, 8, 7, 9, 12, pattern="conv+bias+relu")
ACTIVATIONS = {
    "relu": functional.relu,
    "clip": functional.relu6,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
}


def reference(shape, arrays, copy):
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    top, left, bottom, right = shape.padding
    x = functional.pad(tensors["x"], (left, right, top, bottom))
    parts = shape.pattern.split("+")
    y = functional.conv2d(
        x,
        tensors[f"w{copy}"],
        tensors[f"b{copy}"] if "bias" in parts else None,
        stride=shape.stride,
        dilation=shape.dilation,
        groups=shape.groups,
    )
    if "add" in parts:
        y = y + tensors["r"]
    return ACTIVATIONS.get(parts[-1], lambda value: value)(y).numpy()


def values(weights):
    """Return constant weights as fp32, as they are stored in the network."""
    array = np.asarray(weights if isinstance(weights, np.ndarray) else weights.numpy())
    return torch.from_numpy(np.array(array, dtype=np.float32))


def evaluate(network, inputs):
    """Run a network definition: only the layers that ours have, as TensorRT's documentation defines them."""
    known = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        read = [
            known[layer.get_input(i).name] for i in range(layer.num_inputs) if layer.get_input(i) is not None
        ]
        kind = layer.type
        if kind == trt.LayerType.CONSTANT:
            layer.__class__ = trt.IConstantLayer
            result = values(layer.weights).reshape(tuple(layer.shape))
        elif kind == trt.LayerType.QUANTIZE:
            layer.__class__ = trt.IQuantizeLayer
            result = torch.clip(torch.round(read[0] / along(read[1], layer.axis)), -128, 127)
        elif kind == trt.LayerType.DEQUANTIZE:
            layer.__class__ = trt.IDequantizeLayer
            result = read[0] * along(read[1], layer.axis)
        elif kind == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer
            result = convolve(layer, read)
        elif kind == trt.LayerType.ELEMENTWISE:
            layer.__class__ = trt.IElementWiseLayer
            product = layer.op == trt.ElementWiseOperation.PROD
            assert product or layer.op == trt.ElementWiseOperation.SUM
            result = read[0] * read[1] if product else read[0] + read[1]
        else:
            assert kind == trt.LayerType.ACTIVATION
            layer.__class__ = trt.IActivationLayer
            result = activate(layer, read[0])
        known[layer.get_output(0).name] = result
        assert tuple(layer.get_output(0).shape) == tuple(result.shape)
    return [known[network.get_output(i).name].numpy() for i in range(network.num_outputs)]


def along(scale, axis):
    return scale.reshape(-1, 1, 1, 1) if scale.numel() > 1 and axis == 0 else scale


def convolve(layer, read):
    kernel = read[1] if len(read) > 1 else values(layer.kernel)
    x, (top, left), (bottom, right) = read[0], layer.pre_padding, layer.post_padding
    groups = layer.num_groups
    kernel = kernel.reshape(layer.num_output_maps, x.shape[1] // groups, *layer.kernel_size_nd)
    bias = values(layer.bias)
    return functional.conv2d(
        functional.pad(x, (left, right, top, bottom)),
        kernel,
        bias if bias.numel() else None,
        stride=tuple(layer.stride_nd),
        dilation=tuple(layer.dilation_nd),
        groups=groups,
    )


def activate(layer, x):
    kinds = trt.ActivationType
    if layer.type == kinds.RELU:
        return torch.relu(x)
    if layer.type == kinds.CLIP:
        return torch.clip(x, layer.alpha, layer.beta)
    if layer.type == kinds.SIGMOID:
        return torch.sigmoid(x)
    assert layer.type == kinds.HARD_SIGMOID
    return torch.clip(layer.alpha * x + layer.beta, 0, 1)


def define(shape, copies=1):
    logger, _ = message_log(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    alive = conv_network(trt, shape, copies)(network, logger)
    return builder, network, (alive, logger)


def run(shape, copies=1):
    _builder, network, _alive = define(shape, copies)
    arrays, steps = conv_arrays(shape, copies), scales(shape)
    inputs = {}
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        array = arrays[name[0]]
        if shape.precision == "int8":
            array = np.clip(np.rint(array / np.float32(steps[name[0]])), -128, 127)
        inputs[name] = array
    found = evaluate(network, inputs)
    return [y * steps["y"] for y in found] if shape.precision == "int8" else found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_computes_what_torch_does(pattern):
    shape = dataclasses.replace(SHAPE, pattern=pattern)
    arrays = conv_arrays(shape, 2)
    for copy, found in enumerate(run(shape, 2)):
        np.testing.assert_allclose(found, reference(shape, arrays, copy), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "1x8x9x11 ->8 k3 s2 p1 g8 conv+bias+relu fp32 nchw",
        "1x8x9x11 ->12 k1x5 s1x2 p0,2,0,1 g4 conv+bias fp32 nhwc",
        "2x6x9x11 ->10 k3 s1 p2,0,1,3 d2x1 g2 conv+bias+add+relu fp32 nchw",
    ],
)
def test_every_geometry_computes_what_torch_does(text):
    shape = ConvShape.parse(text)
    np.testing.assert_allclose(run(shape)[0], reference(shape, conv_arrays(shape), 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["conv+bias+relu", "conv+add", "conv+bias+add+silu"])
def test_int8_is_the_fp32_convolution_up_to_its_steps(pattern):
    shape = dataclasses.replace(SHAPE, pattern=pattern, precision="int8")
    expected = reference(shape, conv_arrays(shape), 0)
    # Half a step of the output, and the steps of the operands, averaged over the fan-in.
    assert np.abs(run(shape)[0] - expected).max() < 3 * scales(shape)["y"]
    assert np.abs(run(shape)[0] - expected).mean() < scales(shape)["y"]


def test_the_data_is_that_of_our_onnx():
    shape = dataclasses.replace(SHAPE, precision="bf16")
    model = onnx.load_from_string(conv_copies(dataclasses.replace(shape, precision="fp32"), 2))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    arrays = conv_arrays(shape, 2)
    assert set(arrays) == {"x", "w0", "b0", "w1", "b1"}
    for name in ("w0", "b0", "w1", "b1"):
        assert np.array_equal(arrays[name], stored[name])
    assert not np.array_equal(arrays["w0"], arrays["w1"])
    assert np.array_equal(conv_arrays(shape)["w0"], arrays["w0"])  # whatever the number of copies
    assert not np.array_equal(conv_arrays(shape, seed=1)["w0"], arrays["w0"])


def test_each_copy_has_an_input_of_its_own():
    _builder, network, _alive = define(dataclasses.replace(SHAPE, pattern="conv+add"), 3)
    names = {network.get_input(i).name for i in range(network.num_inputs)}
    assert names == {"x0", "x1", "x2", "r0", "r1", "r2"}
    assert [network.get_output(i).name for i in range(network.num_outputs)] == ["y0", "y1", "y2"]


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", "FLOAT"), ("tf32", "FLOAT"), ("fp16", "HALF"), ("bf16", "BF16"), ("int8", "INT8")],
)
def test_the_types_are_those_of_the_precision(precision, kind):
    _builder, network, _alive = define(dataclasses.replace(SHAPE, precision=precision))
    assert network.get_input(0).dtype.name == kind
    assert network.get_output(0).dtype.name == kind


def test_bf16_is_rounded_to_nearest():
    # The interpreter above cannot read bf16, so look at the bits that TensorRT is given.
    _builder, _network, (kept, _logger) = define(dataclasses.replace(SHAPE, precision="bf16"))
    arrays = conv_arrays(SHAPE)
    stored = {array.size: array for array in kept}
    for name in ("w0", "b0"):
        expected = torch.from_numpy(arrays[name].copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(stored[arrays[name].size].ravel(), expected.ravel())


def test_an_unknown_precision_is_named():
    shape = dataclasses.replace(SHAPE)
    object.__setattr__(shape, "precision", "fp8")
    with pytest.raises(MeasurementError, match="fp8"):
        conv_network(trt, shape)
