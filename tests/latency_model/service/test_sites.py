from collections import Counter
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.columns import ConvColumns
from latency_model.service import sites as module
from latency_model.service.sites import sites
from latency_model.shapes import ConvShape


@st.composite
def shapes(draw):
    batch, size = draw(st.sampled_from([1, 8])), draw(st.sampled_from([4, 7]))
    inputs, outputs = draw(st.sampled_from([2, 4, 6])), draw(st.sampled_from([2, 4, 6, 12]))
    groups = draw(st.sampled_from([1, 2, inputs]))
    if inputs % groups or outputs % groups:
        groups = 1
    kernel, pad = draw(st.sampled_from([(3, 1), (1, 0)]))
    precision = draw(st.sampled_from(["fp32", "fp16"]))
    text = f"{batch}x{inputs}x{size}x{size} ->{outputs} k{kernel} s1 p{pad} g{groups} conv {precision} nchw"
    return ConvShape.parse(text)


def key(shape):
    # The placeholder of two groups looks like that of a depthwise convolution.
    return shape.depthwise, shape.site


@settings(deadline=None)
@given(st.sets(shapes(), max_size=40), st.sampled_from([None, 1]), st.sampled_from([None, "fp16"]))
def test_sites_are_those_of_the_rows(found, batch, precision):
    lookups = SimpleNamespace(columns=ConvColumns.of(sorted(found)))
    fitting = [s for s in found if batch in (None, s.batch) and precision in (None, s.precision)]
    answer = sites(lookups, batch=batch, precision=precision)
    rows = Counter(map(key, fitting))
    assert answer["total"] == len(rows)
    counted = {}
    for entry in answer["sites"]:
        shape = ConvShape.parse(entry["config"])
        assert shape in fitting and key(shape) not in counted
        assert shape.in_channels == max(s.in_channels for s in fitting if key(s) == key(shape))
        counted[key(shape)] = entry["rows"]
    assert counted == rows
    assert [e["rows"] for e in answer["sites"]] == sorted(rows.values(), reverse=True)


def test_only_so_many_are_listed(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    texts = [
        f"1x8x{size}x{size} ->{8 * n} k3 s1 p1 g1 conv fp32 nchw"
        for size in (4, 5, 6)
        for n in range(1, size)
    ]
    found = sites(SimpleNamespace(columns=ConvColumns.of([ConvShape.parse(text) for text in texts])))
    assert found["total"] == 3
    assert [entry["config"] for entry in found["sites"]] == [
        "1x8x6x6 ->40 k3 s1 p1 g1 conv fp32 nchw", "1x8x5x5 ->32 k3 s1 p1 g1 conv fp32 nchw"
    ]  # fmt: skip
