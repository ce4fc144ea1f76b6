"""A message whose lengths do not fit, read by the guard alone: the libraries behind it would say something else."""

import onnx
import pytest

from latency_model.errors import ModelError
from latency_model.service.api.onnx_guard import check_encoding

MODEL = onnx.ModelProto.DESCRIPTOR


def test_a_field_that_is_longer_than_what_holds_it_is_refused():
    whole = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString()
    check_encoding(whole, MODEL, most_depth=48)
    graph = MODEL.fields_by_name["graph"].number
    # A graph of two bytes, of which the name alone would take five.
    inner = bytes([2 << 3 | 2, 5])
    with pytest.raises(ModelError, match="longer than what holds it"):
        check_encoding(bytes([graph << 3 | 2, len(inner)]) + inner + b"abcde", MODEL, most_depth=48)
    # An unknown field that goes on behind the end.
    with pytest.raises(ModelError, match="longer than what holds it"):
        check_encoding(bytes([15 << 3 | 2, 9]) + b"short", MODEL, most_depth=48)
