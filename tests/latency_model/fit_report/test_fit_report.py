"""Figures of a fit against sums by hand, and what is refused."""

import dataclasses
import json
import math
import random
from itertools import pairwise

import numpy as np
import pytest
from fit_report_things import by_hand, fits, make, network, positive, rows_of, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.fit_report import (
    Staircase,
    headline,
    staircases,
    summary,
)
from latency_model.fit_report.contents import Contents, thinned
from latency_model.fit_report.groups import by_alignment, by_family, by_kernel, by_size
from latency_model.fit_report.stairs import stair_lines


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
