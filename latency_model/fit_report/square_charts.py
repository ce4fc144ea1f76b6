"""Predicted over measured, rows and networks, as the dictionaries that Plotly draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latency_model.fit_report.contents import Points, held
from latency_model.fit_report.facts import NetworkFact
from latency_model.fit_report.marks import BAND, GREY, Chart, label
from latency_model.fit_report.ranges import log_ends, log_ticks
from latency_model.fit_report.text import interval_text, percent_text, us_text
from latency_model.plots.page import page_layout
from latency_model.plots.style import COLOURS

__all__ = ["networks_chart", "points_chart"]

_MANY = 500


def points_chart(points: Points) -> Chart:
    """Return the rows; hovering over one names its shape."""
    texts = [
        f"{label(shape)}<br>measured {us_text(measured)}, predicted {us_text(predicted)} "
        f"({percent_text(error, signed=True)})<br>interval {interval_text(low, high)}"
        + (f"<br>{label(family)}" if family else "")
        for shape, family, measured, predicted, low, high, error in zip(
            points.shape,
            points.family,
            points.measured_us,
            points.predicted_us,
            points.low_us,
            points.high_us,
            points.error,
            strict=True,
        )
    ]
    inside = held(points.measured_us, points.low_us, points.high_us)
    marks = _marks(
        points.measured_us,
        points.predicted_us,
        texts,
        inside,
        size=5 if len(points) > _MANY else 7,
        opacity=0.55,
    )
    return _square(points.measured_us, points.predicted_us, marks)


def networks_chart(networks: Sequence[NetworkFact], confidence: float) -> Chart:
    """Return the networks with their intervals at ``confidence``."""
    measured, predicted = [n.measured_us for n in networks], [n.predicted_us for n in networks]
    texts = [
        f"{label(n.name)} ({label(n.family or 'unknown family')})<br>measured {us_text(n.measured_us)}, predicted "
        f"{us_text(n.predicted_us)} ({percent_text(n.predicted_us / n.measured_us - 1, signed=True)})<br>"
        f"interval {interval_text(n.low_us, n.high_us)}<br>raw sum {us_text(n.raw_sum_us)}"
        for n in networks
    ]
    known = [n for n in networks if math.isfinite(n.low_us) and math.isfinite(n.high_us) and n.low_us > 0]
    intervals = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for n in known for x in (n.measured_us, n.measured_us, None)],
        "y": [y for n in known for y in (n.low_us, n.high_us, None)],
        "line": {"color": GREY, "width": 1},
        "name": f"interval at {100 * confidence:g} %",
        "hoverinfo": "skip",
    }
    inside = held(measured, [n.low_us for n in networks], [n.high_us for n in networks])
    marks = _marks(measured, predicted, texts, inside, size=8, opacity=0.9)
    ends = [end for n in known for end in (n.low_us, n.high_us)]
    return _square(measured, [*predicted, *ends], [*([intervals] if known else []), *marks])


def _marks(
    measured: Sequence[float],
    predicted: Sequence[float],
    texts: Sequence[str],
    inside: Sequence[bool | None],
    *,
    size: int,
    opacity: float,
) -> list[Chart]:
    kinds = (
        (True, "measured inside its interval", COLOURS[0], "circle"),
        (False, "measured outside", COLOURS[1], "x"),
        (None, "no interval", COLOURS[0], "circle"),
    )
    marks = []
    for kind, name, colour, symbol in kinds:
        chosen = [place for place, found in enumerate(inside) if found is kind]
        if chosen:
            marks.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [measured[place] for place in chosen],
                    "y": [predicted[place] for place in chosen],
                    "text": [texts[place] for place in chosen],
                    "marker": {"color": colour, "size": size, "symbol": symbol, "opacity": opacity},
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    return marks


def _square(measured: Sequence[float], predicted: Sequence[float], marks: Sequence[Chart]) -> Chart:
    """Predicted over measured on two equal logarithmic axes, behind the marks the diagonal and 10 % around it."""
    ends = log_ends([*measured, *predicted])
    low, high = ends
    shared = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    band = {
        **shared,
        "x": [low, high, high, low],
        "y": [0.9 * low, 0.9 * high, 1.1 * high, 1.1 * low],
        "fill": "toself",
        "fillcolor": BAND,
        "line": {"width": 0},
        "name": "within 10 %",
    }
    line = {
        **shared,
        "x": [low, high],
        "y": [low, high],
        "line": {"color": GREY, "width": 1},
        "showlegend": False,
    }
    ticks = log_ticks(ends)
    axis = {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:,g}" for tick in ticks],
    }
    layout = page_layout(
        height=520,
        xaxis={**axis, "title": {"text": "measured (µs)"}},
        yaxis={**axis, "title": {"text": "predicted (µs)"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        hovermode="closest",
    )
    return {"data": [band, line, *marks], "layout": layout}
