"""The report of a fit: figures against sums by hand, and the page and the picture of whatever a fit may be."""

import dataclasses
import json
import math
import random
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import plotly.graph_objects
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latency_model.columns import ConvColumns
from latency_model.errors import InputError
from latency_model.fit_report import (
    FitFacts,
    NetworkFact,
    Staircase,
    headline,
    staircases,
    summary,
    write_report,
)
from latency_model.fit_report.charts import charts
from latency_model.fit_report.contents import Contents, thinned
from latency_model.fit_report.groups import by_alignment, by_family, by_kernel, by_size
from latency_model.fit_report.page import page, script_json
from latency_model.fit_report.stairs import stair_lines
from latency_model.shapes import ConvShape

EVIL = "</script><img src=x onerror=alert(1)>%{x}$\\frac$ & \u2028"


def shape(inputs=64, outputs=64, *, k=3, batch=8, size=14, groups=1, padding=None, precision="fp16"):
    pad = k // 2 if padding is None else padding
    return ConvShape(
        batch, inputs, size, size, outputs, (k, k), (1, 1), (pad,) * 4, groups=groups, precision=precision
    )


def network(name="net", family="resnet", measured=100.0, predicted=103.0, **changes):
    fields = {"low_us": 95.0, "high_us": 110.0, "raw_sum_us": 90.0}
    return NetworkFact(name, family, measured, predicted, **{**fields, **changes})


def make(shapes=None, measured=None, predicted=None, **changes):
    if shapes is None:
        shapes = [shape(256, count) for count in range(4, 68, 2)] + [
            shape(32, count, k=1) for count in (8, 16)
        ]
    count = len(shapes)
    rng = np.random.default_rng(0)
    measured = rng.uniform(3, 300, count) if measured is None else np.array(measured, dtype=float)
    predicted = measured * rng.uniform(0.8, 1.2, count) if predicted is None else np.array(predicted)
    fields = {
        "title": "rows.parquet",
        "low_us": 0.9 * predicted,
        "high_us": 1.1 * predicted,
        "confidence": 0.9,
        "family": ["xmma", "", "nvjet"] * (count // 3) + ["xmma"] * (count % 3),
        "networks": [network(), network("b", "vgg", 50.0, 48.0, low_us=48.5, high_us=49.0)],
        "notes": ["Clocks unlocked."],
        "facts": [("device", "Example GPU")],
    }
    return FitFacts(
        columns=ConvColumns.of(shapes), measured_us=measured, predicted_us=predicted, **{**fields, **changes}
    )


def by_hand(rows):
    """The figures of (measured, predicted, low, high) one row at a time."""
    errors = [(p - m) / m for m, p, _, _ in rows]
    size = sorted(abs(e) for e in errors)
    n = len(rows)
    known = [(m, p, lo, hi) for m, p, lo, hi in rows if lo == lo]
    widths = sorted((hi - lo) / p for _, p, lo, hi in known)
    return {
        "mape": sum(size) / n,
        "median_error": (size[(n - 1) // 2] + size[n // 2]) / 2,
        "within_5": sum(e <= 0.05 for e in size) / n,
        "within_10": sum(e <= 0.1 for e in size) / n,
        "bias": sum(errors) / n,
        "sum_error": sum(p for _, p, _, _ in rows) / sum(m for m, _, _, _ in rows) - 1,
        "coverage": sum(lo <= m <= hi for m, _, lo, hi in known) / len(known) if known else None,
        "interval_width": (widths[(len(known) - 1) // 2] + widths[len(known) // 2]) / 2 if known else None,
    }


def rows_of(facts):
    columns = (facts.measured_us, facts.predicted_us, facts.low_us, facts.high_us)
    return list(zip(*(values.tolist() for values in columns), strict=True))


positive = st.floats(0.01, 1e6)


@st.composite
def fits(draw):
    rows = draw(
        st.lists(
            st.tuples(
                positive,
                st.floats(0.3, 3) | st.floats(0.89, 1.11),
                st.none() | st.tuples(st.floats(0, 2), st.floats(0, 2)),
            ),
            min_size=1,
            max_size=60,
        )
    )
    shapes = st.builds(shape, st.integers(1, 96), st.integers(1, 96), k=st.sampled_from([1, 3, 5]))
    return make(
        draw(st.lists(shapes, min_size=len(rows), max_size=len(rows))),
        [m for m, _, _ in rows],
        [m * r for m, r, _ in rows],
        low_us=np.array([m * min(i) if i else math.nan for m, _, i in rows]),
        high_us=np.array([m * max(i) if i else math.nan for m, _, i in rows]),
        family=draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=len(rows), max_size=len(rows))),
    )


@given(facts=fits())
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_a_sum_by_hand(facts):
    found = summary(facts)
    for name, value in by_hand(rows_of(facts)).items():
        assert found[name] == (value if value is None else pytest.approx(value, abs=1e-12)), name
    assert found["rows"] == len(facts)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(headline(found)) == 13


@given(facts=fits())
@settings(max_examples=40, deadline=None)
def test_every_row_is_in_one_group_of_each_kind(facts):
    rows = rows_of(facts)
    for groups in (by_size(facts), by_alignment(facts), by_kernel(facts)):
        assert sum(group.errors.count for group in groups) == len(rows)
    sizes = by_size(facts)
    assert len(sizes) <= max(1, min(10, len(rows) // 5))
    edges = iter(sorted(m for m, _, _, _ in rows))
    ends = [[next(edges) for _ in range(group.errors.count)] for group in sizes]
    assert all(before[-1] < after[0] for before, after in pairwise(ends))
    for power, group in ((int(g.label.split()[0]), g) for g in by_alignment(facts)):
        members = []
        for row, conv in zip(rows, facts.columns, strict=True):
            largest = max(
                p for p in (1, 2, 4, 8, 16, 32, 64) if conv.in_channels % p == conv.out_channels % p == 0
            )
            if largest == power:
                members.append(row)
        assert group.errors.count == len(members)
        assert group.errors.mape == pytest.approx(by_hand(members)["mape"], abs=1e-12)


def test_groups_of_kernels_and_families():
    facts = make([shape(64, 64, groups=64), shape(64, 64, groups=4), shape(64, 64, k=1), shape(64, 32, k=1)])
    assert [(g.label, g.errors.count) for g in by_kernel(facts)] == [
        ("1x1", 2),
        ("3x3 depthwise", 1),
        ("3x3 grouped", 1),
    ]
    assert by_family(make(family=[""] * 34)) == ()
    many = by_family(make(family=[f"f{place:02}" for place in range(20)] + ["", *["f19"] * 13]))
    assert [group.label for group in many][:2] == ["f19", "f00"]
    assert (many[-1].label, many[-1].errors.count, len(many)) == ("9 other families", 9, 13)


def test_tenths_are_of_nearly_equal_count():
    facts = make([shape()] * 1000, range(1, 1001), family=[""] * 1000)
    assert [group.errors.count for group in by_size(facts)] == [100] * 10
    assert [group.errors.count for group in by_size(make(measured=[7.0] * 34))] == [34]


def test_errors_of_exactly_five_and_ten_percent_are_within():
    facts = make([shape()] * 4, [100.0] * 4, [105.0, 94.5, 90.0, 110.5])
    assert (summary(facts)["within_5"], summary(facts)["within_10"]) == (0.25, 0.75)


def test_figures_without_intervals_and_with_infinite_ones():
    nothing = summary(make(low_us=np.full(34, np.nan), high_us=np.full(34, np.nan), networks=[]))
    assert (nothing["coverage"], nothing["interval_width"], nothing["networks"]) == (None, None, None)
    infinite = summary(make(high_us=np.full(34, np.inf)))
    assert 0 < infinite["coverage"] < 1
    assert infinite["interval_width"] is None
    assert {figure.note for figure in headline(infinite)} >= {"most have no upper bound"}


def test_networks_are_judged_by_themselves():
    found = summary(make())["networks"]
    assert (found["count"], found["families"]) == (2, 2)
    assert found["mape"] == pytest.approx((0.03 + 0.04) / 2)
    assert found["bias"] == pytest.approx((0.03 - 0.04) / 2)
    assert found["coverage"] == 0.5
    assert found["raw_sum"]["mape"] == pytest.approx((0.1 + 0.8) / 2)
    families = Contents.of(make()).network_families
    assert [(g.label, round(g.errors.bias, 6)) for g in families] == [("resnet", 0.03), ("vgg", -0.04)]


def test_staircases_are_the_sites_with_the_most_counts():
    shapes = [shape(64, count) for count in (8, 32, 16, 16)]  # three different counts
    shapes += [shape(count, count, groups=count) for count in (16, 24, 8, 40)]  # depthwise: four
    shapes += [shape(count, 64) for count in (8, 16, 24)]  # other inputs are other sites
    shapes += [shape(64, count, batch=1) for count in (8, 16)]
    shapes += [shape(64, count, padding=0) for count in (8, 16, 24, 32, 40)]
    random.Random(0).shuffle(shapes)
    facts = make(shapes, [float(s.out_channels + 10 * s.batch) for s in shapes])
    found = staircases(facts)
    assert [stairs.counts for stairs in found] == [(8, 16, 24, 32, 40), (8, 16, 24, 40), (8, 16, 16, 32)]
    assert len({stairs.site_text for stairs in found}) == 3
    assert "padding 0,0,0,0" in found[0].site_text
    assert found[1].measured_us == (88.0, 96.0, 104.0, 120.0)
    assert [c.in_channels for c in found[1].at([5, 7])] == [5, 7]
    assert [(c.in_channels, c.out_channels) for c in found[0].at([5, 7])] == [(64, 5), (64, 7)]
    assert len(staircases(facts, most=1)) == 1


@given(facts=fits())
@settings(max_examples=40, deadline=None)
def test_staircases_of_any_rows(facts):
    sites = {}
    for conv in facts.columns:
        key = dataclasses.replace(conv, out_channels=conv.groups)
        sites.setdefault(key, set()).add(conv.out_channels)
    best = sorted((len(counts) for counts in sites.values() if len(counts) >= 3), reverse=True)[:6]
    assert [len(set(stairs.counts)) for stairs in staircases(facts)] == best


def test_counts_that_suit_tensor_cores_have_a_line_of_their_own():
    stairs = staircases(make([shape(64, count) for count in (8, 9, 10, 16, 24, 25)]))[0]
    first, second = stair_lines(stairs)
    assert (first.stairs.counts, second.stairs.counts) == ((8, 16, 24), (9, 10, 25))
    assert len(stair_lines(staircases(make([shape(64, count) for count in (8, 9, 16, 24)]))[0])) == 1


@given(st.lists(positive, max_size=60), st.integers(4, 30))
def test_thinned_rows_keep_the_worst_and_both_ends(measured, most):
    values = np.array(measured)
    always = np.arange(min(3, len(values)))
    kept, note = thinned(values, always, most=most)
    assert len(set(kept.tolist())) == len(kept) <= most
    assert set(always.tolist()) <= set(kept.tolist())
    assert (np.diff(values[kept]) >= 0).all()
    if len(values) <= most:
        assert len(kept) == len(values)
        assert note.startswith("all ")
    else:
        assert len(kept) == most
        assert f"{most} of {len(values)}" in note


class Tags(HTMLParser):
    """What a browser would load, the scripts by id, the tables, and the text outside of scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.loaded, self.ids, self.scripts, self.text = [], [], [], {}, ""
        self.rows = {}
        self.inside = self.script = self.table = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.inside = tag
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "script":
            self.script = found.get("id", f"script {len(self.scripts)}")
            self.scripts[self.script] = ""
        if tag == "table":
            self.table = found.get("id", "")
        if tag == "tr":
            self.rows.setdefault(self.table, []).append([])
        if tag in ("td", "th"):
            self.rows[self.table][-1].append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[self.script] += data
        elif self.inside != "style":
            self.text += data.replace("\u00a0", " ")
            if self.inside in ("td", "th"):
                self.rows[self.table][-1][-1] += data


def test_the_page_loads_nothing_and_shows_everything():
    facts = make()
    contents = Contents.of(facts)
    found = Tags(page(contents))
    assert found.loaded == []
    assert found.tags.count("script") == 4
    assert max(map(len, found.scripts.values())) > 1_000_000
    drawn = json.loads(found.scripts["charts"])
    assert list(drawn) == ["points", "size", "family", "alignment", "kernel", "stairs0", "networks"]
    assert set(drawn) <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    for chart in drawn.values():
        plotly.graph_objects.Figure(chart)  # refuses what Plotly does not know
    for words in (
        "rows.parquet",
        "34 rows, each predicted without it",
        "2 networks of 2 families, each predicted without its family",
        f"{100 * summary(facts)['mape']:.1f} %",
        "coverage at 90 %",
        "Example GPU",
        "Clocks unlocked.",
        "all 34 rows are drawn",
        "256 input channels, 3x3 convolution, stride 1, input 14x14, batch 8",
    ):
        assert words in found.text, words
    factors = [abs(math.log(p / m)) for m, p, _, _ in rows_of(facts)]
    worst = sorted(range(len(facts)), key=lambda place: -factors[place])[:20]
    shapes = list(facts.columns)
    assert [row[0] for row in found.rows["worst"][1:]] == [shapes[place].text for place in worst]
    assert found.rows["families"][1][:4] == ["resnet", "1", "3.0 %", "+3.0 %"]


def test_the_numbers_are_in_the_page_for_machines():
    facts = make(high_us=np.full(34, np.inf))
    numbers = json.loads(Tags(page(Contents.of(facts))).scripts["facts"])
    assert numbers["summary"] == summary(facts)
    assert numbers["points"]["measured_us"] == sorted(facts.measured_us.tolist())
    assert set(numbers["points"]["high_us"]) == {None}
    assert numbers["networks"][1]["raw_sum_us"] == 90.0
    assert numbers["staircases"][0]["counts"] == list(range(4, 68, 2))
    assert numbers["worst"]["error"][0] == pytest.approx(
        numbers["worst"]["predicted_us"][0] / numbers["worst"]["measured_us"][0] - 1
    )
    assert sum(group["count"] for group in numbers["groups"]["size"]) == 34
    assert numbers["network_families"][0]["mape"] == pytest.approx(0.03)


def test_points_and_networks_inside_and_outside_their_intervals():
    facts = make(
        [shape(64, count) for count in (8, 16, 24)],
        [10.0, 10.0, 10.0],
        [10.0, 20.0, 30.0],
        low_us=np.array([9.0, 18.0, np.nan]),
        high_us=np.array([11.0, 22.0, np.nan]),
        networks=[network(predicted=np.float64(103.0), low_us=np.float64(95.0))],
    )
    drawn = charts(Contents.of(facts))
    marks = {trace["name"]: trace for trace in drawn["points"]["data"][2:]}
    assert {name: trace["y"] for name, trace in marks.items()} == {
        "measured inside its interval": [10.0],
        "measured outside": [20.0],
        "no interval": [30.0],
    }
    assert "8x64x14x14 -&gt;16 " in marks["measured outside"]["text"][0]
    assert [trace.get("name") for trace in drawn["networks"]["data"]][2:] == [
        "interval at 90 %",
        "measured inside its interval",
    ]
    assert drawn["networks"]["data"][2]["y"] == [95.0, 110.0, None]


def test_a_curve_takes_the_place_of_the_line():
    facts = make()
    stairs = staircases(facts)[0]
    counts = range(4, 67)
    curve = Staircase(
        stairs.site_text, counts, [math.nan] * 63, *([float(c) for c in counts] for _ in range(3))
    )
    with_curve = dataclasses.replace(facts, curves=[curve])
    lines = [
        t for t in charts(Contents.of(with_curve))["stairs0"]["data"] if t["name"].startswith("saved model")
    ]
    assert sorted(count for line in lines for count in line["x"]) == list(counts)
    assert "which has seen the measured points" in Tags(page(Contents.of(with_curve))).text
    with pytest.raises(InputError, match="is not drawn"):
        Contents.of(dataclasses.replace(facts, curves=[dataclasses.replace(curve, site_text="elsewhere")]))


def none():
    return make([], [], [], low_us=np.array([]), high_us=np.array([]), networks=[], notes=[], facts=[])


CASES = {
    "none": none,
    "five": lambda: make(
        [shape(count, 8) for count in range(1, 6)], [5.0, 6, 7, 8, 9], networks=[], family=[""] * 5
    ),
    "constant": lambda: make([shape()] * 30, [7.0] * 30, [7.0] * 30, networks=[network(predicted=100.0)]),
    "unknown intervals": lambda: make(
        low_us=np.full(34, np.nan),
        high_us=np.full(34, np.nan),
        networks=[network(low_us=math.nan, high_us=math.nan)],
    ),
    "infinite": lambda: make(
        low_us=np.zeros(34), high_us=np.full(34, np.inf), networks=[network(low_us=0.0, high_us=math.inf)]
    ),
    "evil": lambda: make(
        title=EVIL,
        family=[EVIL] * 34,
        networks=[network(EVIL, EVIL)],
        notes=[EVIL],
        facts=[(EVIL, EVIL)],
    ),
    "wide": lambda: make([shape()] * 12, np.geomspace(1e-3, 1e8, 12), np.geomspace(1e8, 1e-3, 12)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_fit_has_a_report(name, tmp_path):
    facts = CASES[name]()
    html, png = write_report(facts, tmp_path / "out")
    assert (html, png) == (tmp_path / "out" / "report.html", tmp_path / "out" / "report.png")
    assert len(list((tmp_path / "out").iterdir())) == 2
    with Image.open(png) as image:
        assert image.size == (1600, 1425)
        assert len(image.getcolors(10**7)) > 20
    found = Tags(html.read_text(encoding="utf-8"))
    assert found.loaded == []
    assert "img" not in found.tags
    assert found.tags.count("script") == 4
    drawn = json.loads(found.scripts["charts"])
    assert set(drawn) <= set(found.ids)
    for chart in drawn.values():
        plotly.graph_objects.Figure(chart)
    assert json.loads(found.scripts["facts"])["summary"]["rows"] == len(facts)
    if name in ("none", "five"):
        assert "No measured networks were given" in found.text
        assert "No site has 3 or more measured output counts" in found.text
    if name == "none":
        assert found.text.count("There are no rows.") == 3
    if name == "five":
        assert "No kernel family is known" in found.text
    if name == "evil":
        assert EVIL in found.text
        assert drawn["family"]["data"][0]["hovertext"][0].startswith("&lt;/script&gt;&lt;img")
        assert "&lt;/script&gt;" in drawn["networks"]["data"][-1]["text"][0]


def test_the_same_fit_has_the_same_bytes(tmp_path):
    first, second = (write_report(make(), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_script_json_cannot_end_its_element():
    written = script_json({EVIL: [EVIL, math.inf]})
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == {EVIL: [EVIL, None]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": ["a"]}, "1 of family"),
        ({"low_us": np.ones(3)}, "3 of low_us"),
        ({"measured": [0.0] * 34, "predicted": [1.0] * 34}, "measured_us of a report must be positive"),
        ({"predicted": [math.nan] * 34}, "predicted_us of a report must be positive"),
        ({"low_us": np.full(34, 1e9)}, "ends exchanged"),
        ({"high_us": np.full(34, np.nan)}, "one end missing"),
        ({"confidence": 90.0}, "confidence lies between"),
    ],
)
def test_facts_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        make(**change)


def test_networks_and_staircases_that_are_none_are_refused():
    with pytest.raises(InputError, match="predicted_us of the network net is nan"):
        network(predicted=math.nan)
    with pytest.raises(InputError, match="the network net has its ends exchanged"):
        network(low_us=111.0)
    with pytest.raises(InputError, match="must not descend"):
        Staircase("site", [2, 1], [1, 1], [1, 1], [1, 1], [1, 1])
    with pytest.raises(InputError, match="2 counts and 1 of low_us"):
        Staircase("site", [1, 2], [1, 1], [1, 1], [1], [1, 1])
    with pytest.raises(InputError, match="not finite"):
        Staircase("site", [1], [1], [math.nan], [1], [1])
    with pytest.raises(InputError, match="no shape"):
        Staircase("site", [1], [1], [1], [1], [1]).at([1])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0123, "0.012 µs"), (9.996, "10.0 µs"), (99.96, "100 µs"), (999.6, "1.00 ms"), (1.5e6, "1.50 s")],
)
def test_latencies_in_words(value, expected):
    from latency_model.fit_report.text import us_text

    assert us_text(value) == expected
