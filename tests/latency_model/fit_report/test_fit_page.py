"""The page and the picture of a fit's report, whatever the fit may be."""

import dataclasses
import json
import math
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects
import pytest
from fit_report_things import EVIL, make, network, rows_of, shape
from PIL import Image

from latency_model.errors import InputError
from latency_model.fit_report import (
    Staircase,
    staircases,
    summary,
    write_report,
)
from latency_model.fit_report.charts import charts
from latency_model.fit_report.contents import Contents
from latency_model.fit_report.page import page, script_json


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
