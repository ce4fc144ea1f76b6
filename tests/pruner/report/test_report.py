"""The report: JSON round trip, a page that needs nothing and runs nothing of the user's, a picture."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from latency_model.errors import InputError
from pruner.report import GroupRow, RunReport, SiteRow, Staircase, load_report, print_report, write_report
from pruner.report.figures import headline, latency_text
from pruner.report.page import _script_json, page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\u2028$x^2$"


def make(**changes: Any) -> RunReport:
    fields: dict[str, Any] = {
        "method": "gator",
        "device": "Example CPU",
        "runtime": "onnxruntime 1.32",
        "budget": "latency=0.6x",
        "latency_before_us": 4321.0,
        "latency_after_us": 2630.0,
        "latency_predicted_us": 2570.0,
        "ratio_measured": 2630 / 4321,
        "ratio_predicted": 2570 / 4321,
        "accuracy_before": 88.77,
        "accuracy_after": 87.9,
        "params_before": 272_474,
        "params_after": 150_000,
        "macs_before": 41_000_000,
        "macs_after": 22_000_000,
        "seconds": 812.0,
        "model": "resnet20",
        "budget_target_us": 0.6 * 4321,
        "environment": {"device": "Example CPU", "options": {"threads": "2"}},
        "versions": {"torch": "2.14"},
        "command": "gharial prune resnet20 --budget latency=0.6x",
        "intervals": {"latency_after_us": (2600.0, 2690.0)},
        "groups": (GroupRow("layer1.0.conv1", 16, 8), GroupRow("layer1.1.conv1", 16, 0)),
        "blocks_removed": ("layer1.1",),
        "staircase": Staircase(
            "layer3.0.conv2", "output channels", (8, 16, 24), (3.0, 3.5, 5.0), 16, (8, 16)
        ),
        "sites": (SiteRow("layer1.0.conv1", 10.0, 5.0),),
        "notes": ("Clocks unlocked.",),
    }
    return RunReport(**{**fields, **changes})


def test_a_bound_stands_beside_the_prediction() -> None:
    names = [figure.name for figure in headline(make())]
    bounded = make(budget="latency=0.6x@95%", budget_confidence=0.95, latency_bound_us=2590.0)
    figures = {figure.name: figure for figure in headline(bounded)}
    assert [name for name in figures if name not in names] == ["latency, bound at 95 %"]
    assert figures["latency, bound at 95 %"].after == "2.59 ms"
    assert figures["latency, bound at 95 %"].change == "0.599x"
    assert RunReport.from_json(json.loads(json.dumps(bounded.to_json()))) == bounded


number = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-3, 1e9)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
stairs = st.lists(st.tuples(st.integers(1, 4096), positive), min_size=1, unique_by=lambda p: p[0]).map(sorted)


@st.composite
def staircases(draw: st.DrawFn) -> Staircase:
    points = draw(stairs)
    counts = tuple(count for count, _ in points)
    efficient = tuple(draw(st.lists(st.sampled_from(counts), max_size=3)))
    latencies = tuple(latency for _, latency in points)
    return Staircase(draw(text), draw(text), counts, latencies, draw(st.sampled_from(counts)), efficient)


reports = st.builds(
    make,
    model=text,
    notes=st.lists(text, max_size=3).map(tuple),
    latency_before_us=positive,
    latency_after_us=st.none() | positive,
    ratio_measured=st.none() | positive,
    accuracy_before=st.none() | number,
    accuracy_after=st.none() | number,
    params_after=st.integers(0, 10**12),
    budget_target_us=st.none() | positive,
    environment=st.dictionaries(text, text | st.dictionaries(text, text, max_size=2), max_size=3),
    intervals=st.dictionaries(text, st.tuples(number, number), max_size=3),
    groups=st.lists(st.builds(GroupRow, text, st.integers(0, 4096), st.integers(0, 4096)), max_size=4).map(
        tuple
    ),
    sites=st.lists(st.builds(SiteRow, text, number, number), max_size=4).map(tuple),
    blocks_removed=st.lists(text, max_size=3).map(tuple),
    staircase=st.none() | staircases(),
)


@given(report=reports)
@settings(max_examples=100, deadline=None)
def test_json_round_trip(report: RunReport) -> None:
    written = json.dumps(report.to_json(), allow_nan=False)
    assert RunReport.from_json(json.loads(written)) == report
    print_report(report, Console(file=io.StringIO()))


def test_the_json_has_every_field() -> None:
    names = {field.name for field in dataclasses.fields(RunReport)}
    assert set(make().to_json()) == names | {"format_version"}
    required = {f.name for f in dataclasses.fields(RunReport) if f.default is f.default_factory}
    assert len(required) == 16


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"seconds": float("nan")}, "seconds"),
        ({"intervals": {"latency_after_us": (0.0, float("inf"))}}, "intervals.latency_after_us.1"),
        ({"sites": (SiteRow("a", 1.0, float("nan")),)}, "sites.0.predicted_us"),
    ],
)
def test_a_report_holds_finite_numbers_only(change: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError, match=where):
        make(**change)


def test_damaged_reports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_report(tmp_path)
    data = make().to_json()
    with pytest.raises(InputError, match="later version"):
        RunReport.from_json({**data, "format_version": 2})
    with pytest.raises(InputError, match="damaged"):
        RunReport.from_json({**data, "surprise": 1})
    with pytest.raises(InputError, match="damaged"):
        RunReport.from_json({name: value for name, value in data.items() if name != "budget"})
    broken = {name: value for name, value in data["staircase"].items() if name != "counts"}
    with pytest.raises(InputError, match="damaged"):
        RunReport.from_json({**data, "staircase": broken})
    with pytest.raises(InputError, match="must rise"):
        Staircase("a", "b", (2, 1), (1.0, 1.0), 1)


def test_it_writes_three_files(tmp_path: Path) -> None:
    report = make()
    write_report(report, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "report.json",
        "report.png",
    ]
    assert load_report(tmp_path / "out") == report
    with Image.open(tmp_path / "out" / "report.png") as image:
        assert image.width > 1000
        assert len(image.getcolors(10**7)) > 50


class Tags(HTMLParser):
    """Collects what a browser would load, and the text outside of scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = tag
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


def charts_of(script: str) -> dict[str, Any]:
    lines = re.findall(r"^  (\w+): (\{.*\}),$", script, re.MULTILINE)
    return {name: json.loads(chart) for name, chart in lines}


def test_the_page_loads_nothing_and_shows_everything() -> None:
    found = Tags(page(make()))
    assert found.loaded == []
    assert found.tags.count("script") == 2
    assert len(found.scripts[0]) > 1_000_000
    charts = charts_of(found.scripts[1])
    assert list(charts) == ["latency", "channels", "staircase", "sites"]
    for chart in charts.values():
        plotly.graph_objects.Figure(chart)  # refuses what Plotly does not know
    before, after = charts["channels"]["data"]
    assert (before["x"], after["x"]) == ([16, 16], [8, 0])
    assert before["text"] == ["8 of 16", "removed"]
    assert charts["staircase"]["data"][2]["x"] == [16]
    for words in (
        "resnet20 pruned by gator to latency=0.6x",
        "88.77 %",
        "-0.87 points",
        "0.609x",
        "2.63 ms (2.60 ms to 2.69 ms)",
        "Removed blocks: layer1.1.",
        "gharial prune resnet20 --budget latency=0.6x",
        "Clocks unlocked.",
        "Example CPU",
    ):
        assert words in found.text


def test_names_are_text_and_never_code(tmp_path: Path) -> None:
    plain = Tags(page(make()))
    evil = make(
        method=EVIL,
        device=EVIL,
        runtime=EVIL,
        budget=EVIL,
        model=EVIL,
        data=EVIL,
        command=EVIL,
        precision=EVIL,
        environment={EVIL: {EVIL: EVIL}},
        versions={EVIL: EVIL},
        groups=(GroupRow(EVIL, 16, 8), GroupRow("layer1.1.conv1", 16, 0)),
        blocks_removed=(EVIL,),
        staircase=Staircase(EVIL, EVIL, (8, 16), (3.0, 3.5), 16),
        sites=(SiteRow(EVIL, 1.0, 1.0),),
        notes=(EVIL,),
    )
    found = Tags(page(evil))
    assert [t for t in found.tags if t in ("script", "img")] == [
        t for t in plain.tags if t in ("script", "img")
    ]
    assert found.loaded == []
    charts = charts_of(found.scripts[1])
    assert charts["channels"]["data"][0]["y"][0].startswith("&lt;/script&gt;")
    write_report(evil, tmp_path)
    assert load_report(tmp_path) == evil


def test_script_json_cannot_end_its_element() -> None:
    written = _script_json({EVIL: [EVIL]})
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == {EVIL: [EVIL]}


@pytest.mark.parametrize("groups", [0, 1, 150])
def test_sparse_and_crowded_reports(tmp_path: Path, groups: int) -> None:
    report = make(
        groups=tuple(GroupRow(f"stage{i}.conv", 64, i % 64) for i in range(groups)),
        staircase=None,
        sites=(),
        latency_after_us=None,
        ratio_measured=None,
        accuracy_before=None,
        accuracy_after=None,
        budget_target_us=None,
        intervals={},
        notes=(),
    )
    write_report(report, tmp_path)
    assert "measured" not in {figure.name for figure in headline(report)}
    found = Tags((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert list(charts_of(found.scripts[1])) == ["latency", "channels"]


def test_the_terminal_table_is_not_markup() -> None:
    stream = io.StringIO()
    print_report(make(model="[red]net", notes=("[bold]x",)), Console(file=stream, width=120))
    printed = stream.getvalue()
    assert "[red]net" in printed
    assert "note: [bold]x" in printed
    assert "0.609x" in printed
    assert "1 blocks removed" not in printed


@pytest.mark.parametrize(
    ("latency_us", "expected"), [(1.234, "1.2 µs"), (250.4, "250 µs"), (4321.0, "4.32 ms"), (2e5, "200 ms")]
)
def test_latency_text(latency_us: float, expected: str) -> None:
    assert latency_text(latency_us) == expected
