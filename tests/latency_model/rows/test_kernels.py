from latency_model.rows import main_kernel
from latency_model.rows.kernels import split_kernels


def test_the_main_kernel_is_none_of_the_helpers():
    text = "void nhwcAddPaddingKernel<a, b>(int;void cudnn::nchwToNhwcKernel<x>;main<1, 2>; second;main<1, 2>"
    assert main_kernel(text) == "main<1, 2>"
    assert split_kernels(text) == (
        "main<1, 2>",
        "void nhwcAddPaddingKernel<a, b>(int",
        "void cudnn::nchwToNhwcKernel<x>",
        "second",
    )


def test_only_helpers_or_nothing():
    assert main_kernel("splitKreduce_kernel;tensorTransformGeneric") == "splitKreduce_kernel"
    assert main_kernel("") == ""
    assert split_kernels(" ; ") == ()
