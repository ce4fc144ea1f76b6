import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import conv_shapes

from latency_model.errors import InputError
from latency_model.lookup.texts import columns_of


@given(st.lists(conv_shapes(), max_size=30))
@settings(max_examples=60, deadline=None)
def test_texts_become_the_convolutions_that_they_name(shapes):
    assert list(columns_of([shape.text for shape in shapes])) == shapes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1x1x8x8 ->8 k3 s1 p1 g1 conv fp32",
        f"1x{10**20}x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw",
        "op Add 1x2 fp32 nchw",
    ],
)
def test_other_texts_are_refused(text):
    good = "1x1x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"
    with pytest.raises(InputError, match=r"not a convolution|not the canonical"):
        columns_of([good, text])
    with pytest.raises(InputError):
        columns_of([good.replace("conv", "nonsense")])
