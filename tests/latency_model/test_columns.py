"""Convolutions as arrays and back."""

import numpy as np
import pytest

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import InputError
from latency_model.shapes import ConvShape

TEXTS = (
    "8x64x56x56 ->128 k3 s2 p1 g1 conv+bias+relu fp16 nhwc",
    "1x3x224x200 ->64 k7 s2 p3 g1 conv+bias+relu fp32 nchw",
    "2x32x15x14 ->32 k3x5 s1x2 p0,1,2,3 d2x1 g32 conv fp32 nchw",
    "8x48x56x56 ->120 k3 s2 p1 g1 conv+bias+relu fp16 nhwc",
)
SHAPES = [ConvShape.parse(text) for text in TEXTS]


def test_columns_give_back_the_shapes_they_were_made_of() -> None:
    columns = ConvColumns.of(SHAPES)
    assert list(columns) == SHAPES
    assert len(columns) == 4
    assert len(columns.kinds) == 3
    assert columns.kinds[0] == Kind.of(SHAPES[3])


def test_output_sizes_agree_with_the_shapes() -> None:
    columns = ConvColumns.of(SHAPES)
    assert columns.out_height.tolist() == [shape.out_height for shape in SHAPES]
    assert columns.out_width.tolist() == [shape.out_width for shape in SHAPES]
    assert columns.each("stride", 1).tolist() == [shape.stride[1] for shape in SHAPES]


def test_a_part_of_the_columns_keeps_its_order() -> None:
    columns = ConvColumns.of(SHAPES)
    assert list(columns.take(np.array([3, 0]))) == [SHAPES[3], SHAPES[0]]
    assert list(columns.take(np.array([False, True, False, False]))) == SHAPES[1:2]
    assert list(columns.take(slice(2, None))) == SHAPES[2:]


def test_no_convolution_is_no_column() -> None:
    columns = ConvColumns.of([])
    assert len(columns) == 0
    assert list(columns) == []
    assert columns.out_height.tolist() == []


def test_arrays_of_different_lengths_are_refused() -> None:
    one, two = np.ones(1, dtype=np.int64), np.ones(2, dtype=np.int64)
    with pytest.raises(InputError, match="different lengths"):
        ConvColumns(one, one, one, two, one, one, one, (Kind(),))
