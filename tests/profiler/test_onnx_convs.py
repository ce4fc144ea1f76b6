import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latency_model import ConvShape
from latency_model.errors import ModelError
from latency_model.shapes import PATTERNS
from profiler.graphs import conv_copies
from profiler.onnx_convs import read_convs
from profiler.onnx_export import export_onnx


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 16, 3, stride=2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return nn.functional.silu(self.wide(nn.functional.relu6(self.deep(x) + x))).mean((2, 3))


def test_convolutions_are_read_with_their_epilogues():
    shapes, others = read_convs(export_onnx(Net(), (3, 12, 12), batch=2))
    assert [shape.text for shape in shapes] == [
        "2x3x12x12 ->8 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
        "2x8x12x12 ->8 k3 s1 p1 g8 conv+bias+add+clip fp32 nchw",
        "2x8x12x12 ->16 k3 s2 p0 g1 conv+bias+silu fp32 nchw",
    ]
    assert others == {"ReduceMean": 1}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PATTERNS), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_what_the_graphs_build_is_read_back(pattern, copies, groups, stride):
    shape = ConvShape(
        1, 8, 9, 7, 12, (3, 1), (stride, 1), (1, 0, 0, 0), (1, 2), groups, pattern, precision="fp32"
    )
    shapes, _ = read_convs(conv_copies(shape, copies))
    # A sink reads each result too, but only after its epilogue.
    assert shapes.count(shape) == copies


def test_an_addition_belongs_to_the_convolution_on_its_first_input():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x):
            short, long = self.one(x), self.two(x)
            return torch.relu(long + short)

    shapes, others = read_convs(export_onnx(Two(), (3, 8, 8), batch=1))
    assert {shape.kernel[0]: shape.pattern for shape in shapes} == {1: "conv+bias", 3: "conv+bias+add+relu"}
    assert others == {}


def test_what_is_no_network_is_a_model_error():
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_convs(b"junk")
    model = onnx.load_model_from_string(conv_copies(ConvShape(1, 8, 8, 8, 8), 1))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ModelError, match="fixed"):
        read_convs(model.SerializeToString())
