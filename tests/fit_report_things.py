"""Facts of a fit, by default and at random, and their figures by hand."""

import math

import numpy as np
from hypothesis import strategies as st

from latency_model.columns import ConvColumns
from latency_model.fit_report import (
    FitFacts,
    NetworkFact,
)
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
