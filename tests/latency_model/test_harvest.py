"""The harvest of small networks against expectations written by hand."""

import dataclasses

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from strategies import conv_shapes
from torch import nn

from latency_model.errors import InputError, ModelError
from latency_model.harvest import harvest, harvest_onnx, onnx_at_batch
from latency_model.network import Channels
from latency_model.shapes import ConvShape
from latency_model.zoo import LoadedModel, load_model


class Net(nn.Module):
    """One of each: a strided stem with batch norm, a depthwise, a grouped, a shared and a 1-D convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 32, 3, 1, 1, groups=16)
        self.group = nn.Conv2d(32, 32, 3, 1, "same", dilation=2, groups=4)
        self.shared = nn.Conv2d(32, 32, (1, 3), 1, (0, 1))
        self.line = nn.Conv1d(32, 8, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = F.relu6(self.norm(self.stem(x)))
        x = F.silu(self.group(self.deep(x)))
        x = self.shared(self.shared(self.drop(x)))
        return self.line(x.flatten(2))


def loaded(module, shape=(3, 16, 16)):
    return LoadedModel("net", module, shape)


def test_every_site_of_a_mixed_network():
    module = Net().train()
    network = harvest(loaded(module), batch=2, precision="fp16", layout="nhwc")
    texts = {site.name: site.shape.text for site in network.sites}
    assert texts == {
        "stem": "2x3x16x16 ->16 k5 s2 p2 g1 conv+bias+clip fp16 nhwc",
        "deep": "2x16x8x8 ->32 k3 s1 p1 g16 conv+bias fp16 nhwc",
        "group": "2x32x8x8 ->32 k3 s1 p2 d2 g4 conv+bias fp16 nhwc",
        "shared": "2x32x8x8 ->32 k1x3 s1 p0x1 g1 conv+bias fp16 nhwc",
        "shared#2": "2x32x8x8 ->32 k1x3 s1 p0x1 g1 conv+bias fp16 nhwc",
    }
    assert network.others == {"conv1d": 1}
    assert [(op.name, op.shape.text) for op in network.ops] == [
        ("silu", "op QuickGelu 2x32x8x8 fp16 nhwc"),
    ]
    axes = {site.name: (site.inputs, site.outputs) for site in network.sites}
    assert axes["stem"] == (Channels(3), Channels(terms=(("stem.out", 1),)))
    assert axes["deep"] == (Channels(terms=(("deep", 1),)), Channels(terms=(("deep", 2),)))
    assert network.groups["deep"] == 16
    assert module.training
    assert module.drop.training


def test_padding_same_of_an_even_kernel_puts_the_odd_row_last():
    conv = nn.Conv2d(3, 4, 4, 1, "same")
    (site,) = harvest(loaded(conv), batch=1).sites
    assert site.shape.padding == (1, 1, 2, 2)
    assert (site.shape.out_height, site.shape.out_width) == (16, 16)


def test_resnet20_has_the_sites_of_its_checkpoint():
    network = harvest(load_model("resnet20"), batch=1)
    assert len(network.sites) == 21
    patterns = {site.name: site.shape.pattern for site in network.sites}
    assert patterns["conv1"] == "conv+bias+relu"
    assert patterns["layer2.0.conv2"] == "conv+bias+add+relu"
    assert patterns["layer2.0.downsample.0"] == "conv+bias"
    assert not network.others
    assert [(op.name, op.shape.text) for op in network.ops] == [
        ("mean", "op ReduceMean 1x64x8x8 axes=2,3 fp32 nchw"),
        ("fc", "op Gemm 1x64 w10x64 w10 fp32 nchw"),
    ]
    assert sum(shape.macs for _, shape in network.shapes()) == 40_812_544


@pytest.mark.parametrize("name", ["resnet20", "digits_resnet"])
def test_a_convolution_is_named_as_its_module(name):
    loaded_model = load_model(name)
    modules = {n for n, m in loaded_model.module.named_modules() if isinstance(m, nn.Conv2d)}
    assert {site.name for site in harvest(loaded_model, batch=3).sites} == modules


def test_a_model_that_cannot_be_traced_is_an_error_and_stays_as_it_was():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    module = Branches().train()
    with pytest.raises(ModelError, match="net cannot be traced"):
        harvest(loaded(module), batch=1)
    assert module.training
    with pytest.raises(ModelError, match="1x5x16x16"):
        harvest(loaded(nn.Conv2d(3, 4, 3), (5, 16, 16)), batch=1)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": 1, "precision": "fp17"}, {"batch": 1, "layout": "x"}]
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError):
        harvest(loaded(nn.Conv2d(3, 4, 3)), **wrong)


def onnx_model(nodes, weights, *, image=("N", 3, 9, 9), out="y", kind=TensorProto.FLOAT):
    constants = [
        helper.make_tensor(n, kind, d, torch.zeros(d).flatten().tolist()) for n, d in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, image)],
        [helper.make_tensor_value_info(out, kind, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def onnx_file(path, nodes, weights, **options):
    onnx.save(onnx_model(nodes, weights, **options), path)
    return load_model(str(path))


def conv(source, weight, target, *bias, **attributes):
    return helper.make_node("Conv", [source, weight, *bias], [target], name=f"node_{target}", **attributes)


def test_onnx_sizes_names_and_automatic_padding(tmp_path):
    nodes = [
        conv("x", "body.weight", "a", "b", auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"]),
        conv("r", "w2", "c", auto_pad="SAME_LOWER", kernel_shape=[2, 2]),
        helper.make_node("HardSwish", ["c"], ["h"]),
        conv("h", "w2", "d", auto_pad="VALID"),
        helper.make_node("Identity", ["d"], ["e"]),
        conv("e", "w2", "y", pads=[0, 1, 1, 0], dilations=[2, 1]),
    ]
    weights = {"body.weight": (4, 3, 4, 4), "b": (4,), "w2": (4, 4, 2, 2)}
    network = harvest(onnx_file(tmp_path / "m.onnx", nodes, weights), batch=7)
    assert [(site.name, site.shape.text) for site in network.sites] == [
        ("body", "7x3x9x9 ->4 k4 s2 p1,1,2,2 g1 conv+bias+relu fp32 nchw"),
        ("node_c", "7x4x5x5 ->4 k2 s1 p1,1,0,0 g1 conv+hardswish fp32 nchw"),
        ("node_d", "7x4x5x5 ->4 k2 s1 p0 g1 conv fp32 nchw"),
        ("node_y", "7x4x4x4 ->4 k2 s1 p0,1,1,0 d2x1 g1 conv fp32 nchw"),
    ]
    assert network.sites[0].inputs == Channels(3)
    assert dict(network.others) == {}


def test_onnx_counts_what_is_no_plain_convolution(tmp_path):
    nodes = [
        conv("x", "w", "a"),
        helper.make_node("Softmax", ["a"], ["s"]),
        helper.make_node("ConvTranspose", ["s", "t"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    network = harvest(
        onnx_file(tmp_path / "m.onnx", nodes, {"w": (4, 3, 9, 9), "t": (4, 4, 2, 2), "m": (16, 5)}), batch=1
    )
    assert network.others == {"conv_transpose": 1}
    assert [op.shape.text for op in network.ops] == [
        "op Softmax 1x4x1x1 axis=3 fp32 nchw",
        "op Gemm 1x16 w5x16 fp32 nchw",
    ]


def test_onnx_without_sizes_is_an_error(tmp_path):
    nodes = [
        helper.make_node("Unheard", ["x"], ["u"], domain="elsewhere"),
        conv("u", "w", "y"),
    ]
    with pytest.raises(ModelError, match="not known"):
        harvest(onnx_file(tmp_path / "m.onnx", nodes, {"w": (4, 3, 3, 3)}), batch=1)
    with pytest.raises(ModelError, match="fixed channels"):
        onnx_file(tmp_path / "n.onnx", nodes, {"w": (4, 3, 3, 3)}, image=("N", 3, "H", "W"))


@settings(max_examples=60, deadline=None)
@given(conv_shapes(), st.integers(1, 3))
def test_the_geometry_that_an_onnx_model_holds_is_read_back(wanted, copies):
    bare = dataclasses.replace(wanted, pattern="conv", precision="fp32")
    weight = (bare.out_channels, bare.in_channels // bare.groups, *bare.kernel)
    geometry = {
        "strides": bare.stride,
        "pads": bare.padding,
        "dilations": bare.dilation,
        "group": bare.groups,
    }
    nodes = [conv("x", "w", f"y{copy}", **geometry) for copy in range(copies)]
    image = (bare.batch, bare.in_channels, bare.height, bare.width)
    model = onnx_model(nodes, {"w": weight}, image=image, out="y0").SerializeToString()
    network = harvest_onnx(model, layout=bare.layout)
    assert [shape for _, shape in network.shapes()] == [bare] * copies
    assert dict(network.others) == {}


@pytest.mark.parametrize(
    ("kind", "own", "also"),
    [
        (TensorProto.FLOAT, "fp32", ["tf32"]),
        (TensorProto.FLOAT16, "fp16", []),
        (TensorProto.BFLOAT16, "bf16", []),
    ],
)
def test_the_precision_is_that_of_the_tensors(kind, own, also):
    nodes = [conv("x", "w", "a"), helper.make_node("Relu", ["a"], ["y"])]
    model = onnx_model(nodes, {"w": (4, 3, 3, 3)}, kind=kind, image=(1, 3, 9, 9)).SerializeToString()
    for asked in (None, own, *also):
        (site,) = harvest_onnx(model, precision=asked).sites
        assert site.shape.precision == (asked or own)
    for other in {"fp32", "tf32", "fp16", "bf16", "int8"} - {own, *also}:
        with pytest.raises(ModelError, match=f"computes in {own}, not in {other}"):
            harvest_onnx(model, precision=other)


def test_a_precision_that_no_table_has_is_an_error():
    model = onnx_model(
        [conv("x", "w", "y")], {"w": (4, 3, 3, 3)}, kind=TensorProto.DOUBLE, image=(1, 3, 9, 9)
    )
    with pytest.raises(ModelError, match="node_y: it computes in DOUBLE"):
        harvest_onnx(model.SerializeToString())


def test_the_batch_is_the_file_s_where_it_fixes_one(tmp_path):
    nodes, weights = [conv("x", "w", "y")], {"w": (4, 3, 3, 3)}
    fixed = onnx_file(tmp_path / "fixed.onnx", nodes, weights, image=(5, 3, 9, 9))
    free = onnx_file(tmp_path / "free.onnx", nodes, weights)
    assert (fixed.batch, free.batch) == (5, None)
    for loaded_file, asked, batch in ((fixed, None, 5), (fixed, 5, 5), (free, None, 1), (free, 3, 3)):
        network = harvest(loaded_file, batch=asked)
        assert network.sites[0].shape.batch == batch
        data = onnx_at_batch(loaded_file.onnx_path, batch=batch)
        assert harvest_onnx(data).sites[0].shape == network.sites[0].shape
        assert network.name == loaded_file.name
    with pytest.raises(ModelError, match=r"fixed\.onnx was exported with batch 5, not 1"):
        harvest(fixed, batch=1)
    with pytest.raises(ModelError, match="exported with batch 5"):
        onnx_at_batch(fixed.onnx_path, batch=1)
    with pytest.raises(ModelError, match="no fixed batch"):
        harvest_onnx(free.onnx_path)


@pytest.mark.parametrize("junk", [b"junk", b"", onnx.ModelProto().SerializeToString()])
def test_what_is_no_onnx_model_is_an_error(junk, tmp_path):
    with pytest.raises(ModelError, match="the ONNX model cannot be read"):
        harvest_onnx(junk)
    (tmp_path / "junk.onnx").write_bytes(junk)
    with pytest.raises(ModelError, match=r"junk\.onnx cannot be read"):
        load_model(str(tmp_path / "junk.onnx"))
    with pytest.raises(ModelError, match="no ONNX file"):
        harvest_onnx(tmp_path / "absent.onnx")


def test_regroup_puts_sites_on_real_groups():
    network = harvest(load_model("digits_resnet"), batch=1)
    highway = Channels(terms=(("stage", 1),))
    inner = Channels(terms=(("layer1.0.conv1", 1),))
    axes = {
        "conv1": (Channels(1), highway),
        "layer1.0.conv1": (highway, inner),
        "layer1.0.conv2": (inner, highway),
        "fc": (Channels(64), Channels(10)),
    }
    groups = {"stage": 32, "layer1.0.conv1": 32}
    regrouped = network.regroup(axes, groups)
    assert regrouped.groups == groups
    shapes = {site.name: shape for site, shape in regrouped.shapes({"stage": 24, "layer1.0.conv1": 8})}
    assert (shapes["layer1.0.conv1"].in_channels, shapes["layer1.0.conv1"].out_channels) == (24, 8)
    assert shapes["layer1.1.conv1"] == ConvShape.parse("1x32x16x16 ->32 k3 s1 p1 g1 conv+bias+relu fp32 nchw")
    assert "layer1.0.conv1" not in {s.name for s, _ in regrouped.shapes({"stage": 24, "layer1.0.conv1": 0})}
    with pytest.raises(InputError, match=r"conv1 writes 32 channels.* have 16"):
        network.regroup(axes, {"stage": 16, "layer1.0.conv1": 32})
    with pytest.raises(InputError, match="unknown channel group 'stage'"):
        network.regroup(axes, {"layer1.0.conv1": 32})
