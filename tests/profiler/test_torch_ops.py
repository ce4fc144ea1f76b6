import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from latency_model.errors import MeasurementError
from latency_model.ops import OpShape, parse_config
from profiler.reference import reference_inputs
from profiler.torch_ops import OPERATORS, operator
from profiler.typed_ops import plan_op

CASES = """
op Add 1x4x5x5 1x4x5x5 fp32 nchw
op Add 1x4x5x5 1x4x1x1 fp32 nchw
op Sub 1x4x5x5 1x4x5x5 fp32 nchw
op Mul 1x4x5x5 1x4x1x1 fp32 nchw
op Div 1x4x5x5 1x4x5x5 fp32 nchw
op AveragePool 1x4x9x8 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp32 nchw
op AveragePool 1x4x9x8 count_include_pad=1 kernel_shape=3,3 pads=1,1,1,1 fp32 nchw
op AveragePool 1x4x9x8 count_include_pad=1 kernel_shape=3,2 pads=0,1,1,0 strides=2,2 fp32 nchw
op AveragePool 1x4x8x8 kernel_shape=2,2 strides=2,2 fp32 nchw
op MaxPool 1x4x9x8 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp32 nchw
op MaxPool 1x4x9x8 kernel_shape=3,3 pads=0,0,1,1 strides=2,2 fp32 nchw
op MaxPool 1x4x9x8 ceil_mode=1 kernel_shape=3,3 strides=2,2 fp32 nchw
op MaxPool 1x4x9x8 dilations=2,2 kernel_shape=2,2 fp32 nchw
op BatchNormalization 2x4x5x5 w4 w4 w4 w4 epsilon=0.001 fp32 nchw
op Clip 1x4x5x5 max=6.0 min=0.0 fp32 nchw
op Concat 1x4x5x5 1x3x5x5 1x2x5x5 axis=1 fp32 nchw
op Gemm 3x8 w8x5 w5 fp32 nchw
op Gemm 3x8 w5x8 w5 transB=1 fp32 nchw
op Gemm 3x8 w5x8 alpha=0.5 transB=1 fp32 nchw
op Gemm 3x8 w5x8 w5 alpha=0.5 beta=2.0 transB=1 fp32 nchw
op GlobalAveragePool 2x4x5x7 fp32 nchw
op GlobalMaxPool 2x4x5x7 fp32 nchw
op HardSigmoid 1x4x5x5 fp32 nchw
op HardSigmoid 1x4x5x5 alpha=0.16666667 fp32 nchw
op HardSwish 1x4x5x5 fp32 nchw
op LeakyRelu 1x4x5x5 alpha=0.1 fp32 nchw
op MatMul 3x8 w8x5 fp32 nchw
op ReduceMean 2x4x5x7 axes=2,3 fp32 nchw
op ReduceMean 2x4x5x7 axes=2,3 keepdims=0 fp32 nchw
op Relu 1x4x5x5 fp32 nchw
op Resize 1x4x5x5 coordinate_transformation_mode=asymmetric mode=nearest nearest_mode=floor scales=1,1,2,2 fp32 nchw
op Resize 1x4x5x5 mode=nearest scales=1,1,2,2 fp32 nchw
op Resize 1x4x5x5 mode=nearest scales=1,1,3,3 fp32 nchw
op Resize 1x4x5x5 mode=nearest scales=1,1,4,2 fp32 nchw
op Resize 1x4x5x5 mode=linear scales=1,1,2,2 fp32 nchw
op Resize 1x4x5x5 coordinate_transformation_mode=align_corners mode=linear sizes=1,4,9,7 fp32 nchw
op Resize 1x4x5x5 coordinate_transformation_mode=pytorch_half_pixel mode=linear sizes=1,4,9,7 fp32 nchw
op Sigmoid 1x4x5x5 fp32 nchw
op Softmax 3x10 axis=1 fp32 nchw
op Tanh 1x4x5x5 fp32 nchw
op Transpose 1x4x5x6 perm=0,2,3,1 fp32 nchw
""".strip().splitlines()


def by_the_standard(config: OpShape, arrays: list[np.ndarray]) -> np.ndarray:
    """What ONNX's own reference implementation gives."""
    version = 17
    plan = plan_op(config, version)
    names = [f"t{index}" for index in range(len(arrays))]
    node = helper.make_node(config.op, plan.arrange(names, ""), ["y"], **plan.attributes)
    constants = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, (a, _) in plan.constants.items()]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "op", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    return ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))[0]


@pytest.mark.parametrize("text", CASES)
def test_operators_are_those_of_the_standard(text):
    config = parse_config(text)
    assert isinstance(config, OpShape)
    numbers = reference_inputs(config)
    arrays = [np.ascontiguousarray(array) for array in (*numbers.inputs, *numbers.weights)]
    result = operator(config)(*map(torch.from_numpy, arrays)).numpy()
    expected = by_the_standard(config, arrays)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_every_operator_is_tested():
    assert {parse_config(text).op for text in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    "text",
    [
        "op NonMaxSuppression 1x4x4 fp32 nchw",
        "op MaxPool 1x4x8 kernel_shape=3 fp32 nchw",
        "op MaxPool 1x4x8x8 auto_pad=SAME_UPPER kernel_shape=3,3 fp32 nchw",
        "op MaxPool 1x4x8x8 kernel_shape=3,3 storage_order=1 fp32 nchw",
        "op AveragePool 1x4x8x8 kernel_shape=3,3 pads=0,0,1,1 fp32 nchw",
        "op AveragePool 1x4x8x8 dilations=2,2 kernel_shape=3,3 fp32 nchw",
        "op Resize 1x4x8x8 mode=cubic scales=1,1,2,2 fp32 nchw",
        "op Resize 1x4x8x8 mode=nearest scales=1,1,1.5,1.5 fp32 nchw",
        "op Resize 1x4x8x8 antialias=1 mode=linear scales=1,1,2,2 fp32 nchw",
        "op Resize 1x4x8x8 coordinate_transformation_mode=asymmetric mode=nearest scales=1,1,2,2 fp32 nchw",
        "op Resize 1x4x8x8 mode=nearest scales=1,2,2,2 fp32 nchw",
        "op Resize 1x4x8x8 mode=nearest scales=2,2 fp32 nchw",
        "op Resize 1x4x8x8 mode=nearest nearest_mode=ceil scales=1,1,2,2 fp32 nchw",
        "op Relu 1x4x8x8 unheard=1 fp32 nchw",
        "op Softmax 1x4 axis=one fp32 nchw",
    ],
)
def test_what_torch_cannot_express_is_refused_by_name(text):
    config = parse_config(text)
    with pytest.raises(MeasurementError, match=config.op):
        operator(config)
