from collections import Counter

import pytest

from latency_model.errors import InputError
from latency_model.network import Axis, Channels, NetworkCost, OpSite, Site
from latency_model.networks import kernels_of, network_of_spec
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

RESNET = {
    "family": "resnet", "block": "basic", "stem": 16, "stream": [16], "inner": [[[16]]],
    "input": 64, "batch": 2, "precision": "fp16", "classes": 10,
}  # fmt: skip


def conv(pattern, name="c"):
    shape = ConvShape(1, 3, 8, 8, 4, pattern=pattern, precision="fp16", layout="nhwc")
    return Site(name, shape, Channels(3), Channels(terms=(("g", 1),)))


def op(text, axes=()):
    return OpSite("op", OpShape.parse(text), axes)


def kinds(network, runtime="onnxruntime-cuda"):
    return [kernel.kind for kernel in kernels_of(network, runtime)]


def test_a_residual_network_in_half_precision():
    found = kernels_of(network_of_spec(RESNET))
    assert [kernel.kind for kernel in found] == [
        "image_transpose", "conv", "bias", "unary", "conv", "bias", "unary",
        "conv", "bias", "binary", "unary", "max_pool", "mean", "gemm_bias", "gemm",
    ]  # fmt: skip
    by_kind = {kernel.kind: kernel for kernel in found}
    image, stem, half, quarter = (2 * 2 * n for n in (3 * 64 * 64, 16 * 32 * 32, 16 * 16 * 16, 16))
    assert (by_kind["image_transpose"].read_bytes, by_kind["image_transpose"].written_bytes) == (image, image)
    assert (found[1].read_bytes, found[1].written_bytes) == (image + 2 * 16 * 3 * 49, stem)
    assert (by_kind["binary"].read_bytes, by_kind["binary"].written_bytes) == (2 * half, half)
    assert (by_kind["max_pool"].read_bytes, by_kind["max_pool"].written_bytes) == (stem, half)
    assert (by_kind["mean"].read_bytes, by_kind["mean"].written_bytes) == (half, quarter)
    assert by_kind["gemm"].read_bytes == quarter + 2 * 160
    assert by_kind["gemm"].macs == 2 * 16 * 10
    assert [k.shape for k in found if k.kind == "conv"] == [
        site.shape for site in network_of_spec(RESNET).sites
    ]


def test_a_runtime_that_fuses_has_one_kernel_per_pattern():
    found = kinds(network_of_spec(RESNET), "fused")
    assert Counter(found) == {"conv": 3, "max_pool": 1, "mean": 1, "gemm": 1}


def test_counts_make_kernels_smaller_and_remove_what_is_empty():
    network = network_of_spec(RESNET)
    inner = network.sites[1].outputs.terms[0][0]
    full, less = kernels_of(network), kernels_of(network, counts={inner: 8})
    assert less[5].written_bytes == full[5].written_bytes // 2
    assert len(kernels_of(network, counts={inner: 0})) == len(full) - 3


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("conv", []),
        ("conv+bias", ["bias"]),
        ("conv+bias+add+relu", ["bias", "binary", "unary"]),
        ("conv+bias+clip", ["bias", "unary"]),
        ("conv+bias+hardswish", ["bias", "unary", "binary"]),
        ("conv+silu", ["unary"]),
    ],
)
def test_epilogues(pattern, wanted):
    network = NetworkCost("n", (conv(pattern),), {"g": 4})
    assert kinds(network) == ["image_transpose", "conv", *wanted]
    assert kinds(network, "fused") == ["conv"]


@pytest.mark.parametrize(
    ("text", "wanted", "written"),
    [
        ("op Concat 1x4x8x8 1x6x8x8 axis=1 fp16 nhwc", "concat", 2 * 10 * 64),
        ("op Mul 1x4x8x8 1x4x1x1 fp16 nhwc", "broadcast", 2 * 4 * 64),
        ("op Mul 1x4x8x8 1x4x8x8 fp16 nhwc", "binary", 2 * 4 * 64),
        ("op Add 1x4x8x8 w4 fp16 nhwc", "broadcast", 2 * 4 * 64),
        ("op Sigmoid 1x4x1x1 fp32 nhwc", "unary", 4 * 4),
        ("op AveragePool 1x4x8x8 kernel_shape=2,2 pads=0,0,0,0 strides=2,2 fp16 nhwc", "average_pool", 128),
        ("op MaxPool 1x4x9x9 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp16 nhwc", "max_pool", 200),
        ("op Resize 1x4x8x8 mode=nearest scales=1,1,2,2 fp16 nhwc", "resize", 2 * 4 * 256),
        ("op LayerNormalization 1x4x8x8 w8 w8 fp16 nhwc", "normalize", 2 * 4 * 64),
        ("op NonMaxSuppression 1x4x8x8 fp16 nhwc", "unknown", 2 * 4 * 64),
    ],
)
def test_operators(text, wanted, written):
    network = NetworkCost("n", (), {}, {}, (op(text),))
    (kernel,) = kernels_of(network)
    assert (kernel.kind, kernel.written_bytes) == (wanted, written)
    assert kernel.op == text.split()[1]


def test_an_activation_that_the_cpu_fuses_is_a_kernel():
    for text in (
        "op BatchNormalization 1x4x8x8 activation=relu fp16 nhwc",
        "op Gemm 1x4 w6x4 activation=relu fp16 nhwc",
    ):
        assert kinds(NetworkCost("n", (), {}, {}, (op(text),)))[1:] == ["unary"]


def test_flattened_pixels_are_transposed_first():
    axis = Axis(0, 1, Channels(terms=(("g", 64),)))
    linear = op("op Gemm 2x256 w10x256 w10 fp16 nhwc", (axis,))
    network = NetworkCost("n", (conv("conv"),), {"g": 4}, {}, (linear,))
    found = kernels_of(network)
    assert [kernel.kind for kernel in found[2:]] == ["transpose", "gemm_bias", "gemm"]
    assert found[2].read_bytes == 2 * 2 * 256


def test_one_row_needs_no_broadcast_of_its_bias():
    assert kinds(NetworkCost("n", (), {}, {}, (op("op Gemm 1x8 w4x8 w4 fp16 nhwc"),))) == ["gemm"]


def test_a_shuffle_of_channels_goes_to_the_plain_layout_and_back():
    shuffle = op("op Transpose 1x2x4x8x8 perm=0,2,1,3,4 fp16 nhwc")
    assert kinds(NetworkCost("n", (), {}, {}, (shuffle,))) == ["transpose"] * 3


def test_operators_without_a_size_are_not_free():
    network = NetworkCost("n", (conv("conv+bias"),), {"g": 4}, {"roll": 2})
    unknown = [kernel for kernel in kernels_of(network) if kernel.kind == "unknown"]
    assert [kernel.op for kernel in unknown] == ["roll", "roll"]
    assert all(kernel.moved_bytes > 0 for kernel in unknown)


def test_an_unknown_runtime_is_named():
    with pytest.raises(InputError, match="'tvm' are not known"):
        kernels_of(network_of_spec(RESNET), "tvm")


def test_what_only_the_cpu_fuses_keeps_its_size_in_nhwc():
    import torch

    from latency_model.harvest import harvest
    from latency_model.zoo import LoadedModel

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 1), torch.nn.Sigmoid())
    loaded = LoadedModel("gate", module, (3, 8, 8))
    assert kinds(harvest(loaded, layout="nhwc"))[1:] == ["conv", "bias", "unary"]
    assert harvest(loaded, layout="nchw").others == {"sigmoid": 1}
