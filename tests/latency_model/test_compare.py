import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import conv_shapes, measurements

from latency_model.compare import REASONS, VERDICTS, compare, compare_tables
from latency_model.environment import Environment
from latency_model.measurement import Measurement, NetworkRow
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

SHAPE = ConvShape(1, 8, 9, 9, 16)
ADD = OpShape("Add", ((1, 8, 9, 9), (1, 8, 9, 9)))
ENVIRONMENT = Environment("chip", "cuda", "fake", "1")
SWAPPED = {"SAME": "SAME", "FASTER": "SLOWER", "SLOWER": "FASTER", "UNCLEAR": "UNCLEAR"}


def row(us, half=0.1, *, clock=None, flags=(), method="kernel-trace", kernel=None):
    low, high = us - half, us + half
    kernels = ((kernel, 1.0),) if kernel else ()
    return Measurement(
        us, low, high, low, low, high, high, low, 30, method, kernels, sm_clock_mhz=clock, flags=flags
    )


def verdict(a, b, **options):
    (found,) = compare({SHAPE: a}, {SHAPE: b}, **options)
    return found.verdict, found.reason


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (row(10), row(10.1), ("SAME", "")),
        (row(10), row(9), ("FASTER", "")),
        (row(10), row(11), ("SLOWER", "")),
        (row(10), row(10.5, 0.6), ("UNCLEAR", "wide")),
        # 10 % slower at a clock 10 % lower: the same cycles.
        (row(10, clock=1980), row(11, clock=1800), ("UNCLEAR", "clock")),
        (row(10, clock=1980), row(11, clock=1980), ("SLOWER", "")),
        (row(10, clock=1980), row(11, clock=1410), ("UNCLEAR", "clock")),
        (row(10, clock=1980), row(11, clock=1965), ("SLOWER", "")),
        # In cycles they differ, in time they do not: time is what a table is about.
        (row(10, clock=1980), row(10, clock=1000), ("SAME", "")),
        (row(10, clock=1980), row(11), ("SLOWER", "one-clock")),
        (row(10), row(11, flags=("drift",)), ("UNCLEAR", "drift")),
        (row(10, flags=("shared-device",)), row(11), ("UNCLEAR", "shared-device")),
        (row(10, flags=("throttled",)), row(11), ("UNCLEAR", "throttled")),
        (row(10, flags=("throttled:sw-power-cap",)), row(11), ("UNCLEAR", "throttled")),
        (row(10, flags=("throttled",), clock=1980), row(11, clock=1980), ("SLOWER", "")),
        (row(10), row(14, method="graph-increment"), ("UNCLEAR", "method")),
        (row(10), row(20, method="graph-increment"), ("SLOWER", "")),
    ],
)
def test_the_rule(a, b, expected):
    assert verdict(a, b) == expected
    assert verdict(b, a) == (SWAPPED[expected[0]], expected[1])


def test_a_threshold_hides_what_is_smaller():
    assert verdict(row(10, 0.01), row(10.15, 0.01)) == ("SLOWER", "")
    assert verdict(row(10, 0.01), row(10.15, 0.01), threshold=0.02) == ("SAME", "threshold")
    assert verdict(row(10, 0.01), row(10.25, 0.01), threshold=0.02) == ("SLOWER", "")


@given(st.dictionaries(conv_shapes(), st.tuples(measurements(), measurements()), max_size=5), st.floats(0, 1))
def test_swapping_the_tables_swaps_faster_and_slower(pairs, threshold):
    first, second = ({shape: pair[side] for shape, pair in pairs.items()} for side in (0, 1))
    there = compare(first, second, threshold=threshold)
    back = compare(second, first, threshold=threshold)
    assert [SWAPPED[row.verdict] for row in there] == [row.verdict for row in back]
    assert [(row.reason, row.stands) for row in there] == [(row.reason, row.stands) for row in back]
    for one, other in zip(there, back, strict=True):
        assert one.ratio == pytest.approx(1 / other.ratio)
        assert one.verdict in VERDICTS and one.reason in {"", *REASONS}
        assert one.stands <= (one.verdict in ("FASTER", "SLOWER"))


@given(st.dictionaries(conv_shapes(), measurements(), max_size=5))
def test_a_table_against_itself_has_no_faster_and_no_slower(rows):
    assert {row.verdict for row in compare(rows, rows)} <= {"SAME", "UNCLEAR"}


def _noise(widths, rows, shift=0.0, seed=0):
    """Medians with normal errors, and the 95 % intervals that fit them."""
    random = np.random.default_rng(seed)
    tables = []
    for width, offset in zip(widths, (0.0, shift), strict=True):
        medians = 100 + offset + width / 1.959964 * random.standard_normal(rows)
        tables.append({ConvShape(1, 1 + i, 9, 9, 1): row(float(m), width) for i, m in enumerate(medians)})
    return compare(*tables)


@pytest.mark.parametrize(("widths", "rate"), [((1, 1), 0.00557), ((0.2, 2), 0.0318)])
def test_false_alarms_are_as_frequent_as_the_docstring_says(widths, rate):
    rows = _noise(widths, 20_000)
    alarms = sum(row.verdict in ("FASTER", "SLOWER") for row in rows)
    expected = sum(row.false_alarm for row in rows)
    assert expected == pytest.approx(20_000 * rate, rel=0.02)
    assert alarms == pytest.approx(expected, abs=4 * math.sqrt(expected))
    assert sum(row.stands for row in rows) <= 2


def test_a_true_difference_stands():
    rows = _noise((1, 1), 2000, shift=5.0)
    assert sum(row.verdict == "SLOWER" for row in rows) > 1990
    assert sum(row.stands for row in rows) > 1980
    assert not any(row.verdict == "FASTER" for row in rows)


def test_exact_intervals_differ_for_certain():
    (found,) = compare({SHAPE: row(10, 0)}, {SHAPE: row(11, 0)})
    assert (found.verdict, found.chance, found.false_alarm, found.stands) == ("SLOWER", 0, 0, True)
    (found,) = compare({SHAPE: row(10, 0)}, {SHAPE: row(10, 0)})
    assert (found.verdict, found.chance) == ("SAME", 1)


def test_tables_with_operators_networks_kernels_and_rows_of_one_side():
    other = dataclasses.replace(ENVIRONMENT, driver="2")
    here = SHAPE.with_channels(8, 24)
    net = NetworkRow("net", (SHAPE,), row(100))
    first = LatencyTable(
        ENVIRONMENT, {SHAPE: row(10, kernel="a"), here: row(1)}, (net,), ops={ADD: row(4, kernel="k")}
    )
    second = LatencyTable(
        other,
        {SHAPE: row(20, clock=1000, kernel="b")},
        (dataclasses.replace(net, measurement=row(50)), NetworkRow("more", (), row(1))),
        ops={ADD: row(2, kernel="k")},
    )
    found = compare_tables(first, second)
    assert [(r.kind, r.verdict, r.kernel_changed) for r in found.rows] == [
        ("conv", "SLOWER", True),
        ("op", "FASTER", False),
        ("network", "FASTER", None),
    ]
    assert found.geometric_mean == pytest.approx(1.0)
    assert (found.only_first, found.only_second, found.kernels_changed) == (1, 1, 1)
    assert found.environment == ("driver: '' against '2'",)
    assert found.summary()["summary"] == {"SAME": 0, "FASTER": 2, "SLOWER": 1, "UNCLEAR": 0}
    assert compare_tables(LatencyTable(ENVIRONMENT), second).geometric_mean is None
