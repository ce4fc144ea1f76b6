import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.ops import OpShape, parse_config
from latency_model.shapes import ConvShape

sizes = st.lists(st.integers(1, 4096), min_size=1, max_size=5).map(tuple)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
values = st.from_regex(r"[A-Za-z0-9_.,+-]{0,12}", fullmatch=True)
operators = st.builds(
    OpShape,
    names,
    st.lists(sizes, min_size=1, max_size=3).map(tuple),
    st.lists(sizes, max_size=2).map(tuple),
    st.dictionaries(names, values, max_size=3).map(lambda d: tuple(d.items())),
    st.sampled_from(("fp32", "fp16")),
    st.sampled_from(("nchw", "nhwc")),
)


@given(operators)
def test_text_parses_back(op):
    assert parse_config(op.text) == op
    assert OpShape.parse(op.text).text == op.text


def test_a_convolution_parses_as_one():
    shape = ConvShape(1, 8, 8, 8, 16)
    assert parse_config(shape.text) == shape


def test_attributes_have_one_order():
    first = OpShape("MaxPool", ((1, 8, 8, 8),), attributes=(("strides", "2,2"), ("pads", "0,0,0,0")))
    assert first.attributes == (("pads", "0,0,0,0"), ("strides", "2,2"))
    assert first.batch == 1


@pytest.mark.parametrize(
    "text",
    [
        "op Add",
        "op Add fp32 nchw",
        "op 1x2 1x2 fp32 nchw",
        "op Add 1x0 fp32 nchw",
        "op Add 1x2 fp99 nchw",
        "op Add 1x2 fp32 nwhc",
        "op Add 1x2 =3 fp32 nchw",
        "op Add 1x2 axis fp32 nchw",
    ],
)
def test_what_is_no_operator_is_refused(text):
    with pytest.raises(InputError):
        OpShape.parse(text)
