"""The drawing of which layers keep the same channels."""

import plotly.graph_objects
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pruner.report import GroupRow, RunReport, SiteRow
from pruner.report.hypergraph import hypergraph, hypergraph_picture, layers_of, lines_of

LAYERS = tuple(f"layer{i}" for i in range(12))


@st.composite
def groups(draw):
    layers = st.lists(st.sampled_from(LAYERS), max_size=4, unique=True).map(tuple)
    return [
        GroupRow(f"g{i}", 8, draw(st.sampled_from([0, 3, 8])), draw(layers), draw(layers))
        for i in range(draw(st.integers(0, 9)))
    ]


@given(groups=groups())
def test_lines_span_their_layers_and_never_meet_in_a_column(groups):
    layers = layers_of(groups, LAYERS)
    taken = set()
    for group, (column, first, last) in zip(groups, lines_of(groups, layers), strict=True):
        rows = {layers.index(layer) for layer in (*group.writers, *group.readers)}
        if not rows:
            assert last < first
            continue
        assert (first, last) == (min(rows), max(rows))
        cells = {(column, row) for row in range(first, last + 1)}
        assert not cells & taken
        taken |= cells
    # No more columns than lines that overlap in some row: optimal for intervals.
    depth = max((sum(1 for _, row in taken if row == r) for r in range(len(layers))), default=0)
    assert len({column for column, _ in taken}) == depth


def test_layers_come_in_the_order_of_the_network_and_then_the_others():
    rows = [GroupRow("a", 4, 4, ("late", "fc"), ("early",))]
    assert layers_of(rows, ["early", "unused", "late"]) == ["early", "late", "fc"]


@pytest.fixture
def report():
    rows = (
        GroupRow("stem", 16, 9, ("stem", "a.conv2"), ("a.conv1", "<fc>")),
        GroupRow("a.conv1", 16, 0, ("a.conv1",), ("a.conv2",)),
        GroupRow("bare", 4, 4),
    )
    return RunReport(
        method="gator",
        device="CPU",
        runtime="onnxruntime",
        budget="latency=0.6x",
        latency_before_us=10.0,
        latency_after_us=6.0,
        latency_predicted_us=6.0,
        ratio_measured=0.6,
        ratio_predicted=0.6,
        accuracy_before=None,
        accuracy_after=None,
        params_before=10,
        params_after=5,
        macs_before=10,
        macs_after=5,
        seconds=1.0,
        groups=rows,
        sites=tuple(SiteRow(name, 1.0, 1.0) for name in ("stem", "a.conv1", "a.conv2")),
    )


def test_the_chart_has_each_line_with_its_writers_and_readers(report):
    chart = hypergraph(report)
    plotly.graph_objects.Figure(chart)
    lines = [trace for trace in chart["data"] if trace["mode"] == "lines"]
    assert [(trace["x"][0], *trace["y"]) for trace in lines] == [(0, 0, 3), (1, 1, 2)]
    assert "stem: 9 of 16 channels" in lines[0]["text"]
    assert "removed" in lines[1]["text"]
    writers = [
        trace["y"] for trace in chart["data"] if trace.get("marker", {}).get("symbol") == "triangle-up"
    ]
    assert writers == [[0, 2], [1]]
    assert chart["layout"]["yaxis"]["ticktext"] == ["stem", "a.conv1", "a.conv2", "&lt;fc&gt;"]


def test_the_picture_is_drawn(report, tmp_path):
    hypergraph_picture(report, tmp_path / "graph.png")
    with Image.open(tmp_path / "graph.png") as image:
        assert image.width > 300
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
