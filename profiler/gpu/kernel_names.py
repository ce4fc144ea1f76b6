"""Which kernels of ONNX Runtime's CUDA provider are what, by their demangled names.

Seen on an H100 with ONNX Runtime 1.31, CUDA 13 and cuDNN 9.19; a sample is in ``tests/profiler/gpu``.
"""

from __future__ import annotations

import re

from profiler.typed_graphs import MARKER_OP

__all__ = ["BIAS", "BOUNDARY", "MARKER", "RELU", "TENSORRT_BOUNDARY"]

# Names of kernels that cuDNN runs inside a convolution (nhwcAddPaddingKernel, tensorTransformGeneric,
# nchwToNhwcKernel, convertTensor_kernel) are not here on purpose: every use of the convolution pays for them.
MARKER = re.compile(rf"_UnaryElementWise<.*\bOP_{MARKER_OP}<")
BOUNDARY = re.compile(
    r"onnxruntime::cuda::Transpose"  # ONNX Runtime's own, tiled (3D), by element (4D) or general
    r"|\btranspose(NoOverlap|_readWrite_alignment_kernel)\b"  # what stands for it where it is a matrix
    r"|onnxruntime::cuda::(Cast|CudaCast)\w*Kernel"
    r"|_UnaryElementWise<.*\bOP_Cast<"
)
BIAS = re.compile(r"\bop_generic_tensor_kernel<|onnxruntime::cuda::\w*BiasN\w*Kernel")
# Traces that cut names to 60 characters end before the operator; among such names ReLU is the only unary one.
RELU = re.compile(r"_UnaryElementWise<.*(\bOP_Relu<|on$)")
# TensorRT's reformatting kernels, from its documentation and profiles that others published; not yet seen by us.
TENSORRT_BOUNDARY = re.compile(
    r"genericReformat|copyPackedKernel|copyVectorizedKernel|nchwTonhwc|nhwcTonchw", re.I
)
