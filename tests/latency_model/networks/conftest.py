"""Names of kernels as traces have them, by the kind of kernel that they stand for."""

NAMES = {
    "image_transpose": "void onnxruntime::cuda::Transpose3DKernel<short, 32u>(long, ",
    "transpose": "(anonymous namespace)::transposeNoOverlap(__half*",
    "conv": "sm90_xmma_fprop_implicit_gemm_f16f16",
    "gemm": "nvjet_sm90_hsh_64x8_64x16",
    "bias": "void op_generic_tensor_kernel<4, __half, float",
    "unary": "void onnxruntime::cuda::_UnaryElementWise<__half, __half, on",
    "binary": "void onnxruntime::cuda::_BinaryElementWiseSimple<true, true,",
    "max_pool": "void cudnn::pooling_fw_kernel_max_nhwc<__half, float, 0, (cu",
    "mean": "void cudnn::pooling_fw_4d_kernel<__half, float, cudnn::averp",
    "gemm_bias": "void onnxruntime::cuda::BroadcastBiasKernel<__half, int, fal",
}
