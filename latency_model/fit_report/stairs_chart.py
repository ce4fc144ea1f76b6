"""A staircase with its intervals, as the dictionary that Plotly draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latency_model.fit_report.facts import Staircase
from latency_model.fit_report.marks import Chart
from latency_model.fit_report.ranges import top
from latency_model.fit_report.stairs import StairLine, stair_lines
from latency_model.fit_report.text import interval_text, us_text
from latency_model.plots.page import page_layout
from latency_model.plots.style import COLOURS

__all__ = ["stairs_chart"]


def stairs_chart(stairs: Staircase, curve: Staircase | None) -> Chart:
    """Return the measured points of ``stairs`` and its predictions, or those of ``curve`` where there is one."""
    lines = stair_lines(curve or stairs)
    data = [_band(line, first=line is lines[0]) for line in lines if line.known]
    data += [_line(line, "saved model" if curve else "predicted") for line in lines]
    if curve:
        data += [_dots(line, line.stairs.predicted_us, "left out") for line in stair_lines(stairs)]
    data += [_dots(line, line.stairs.measured_us, "measured") for line in stair_lines(stairs)]
    drawn = curve or stairs
    layout = page_layout(
        height=340 if len(lines) == 1 else 380,
        xaxis={"title": {"text": "output channels"}, "showgrid": False, "zeroline": False},
        yaxis={
            "title": {"text": "latency (µs)"},
            "range": [
                0,
                top([*stairs.measured_us, *stairs.predicted_us, *drawn.predicted_us, *drawn.high_us]),
            ],
        },
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "font": {"size": 11}},
        hovermode="closest",
    )
    return {"data": data, "layout": layout}


def _band(line: StairLine, *, first: bool) -> Chart:
    counts = [line.stairs.counts[place] for place in line.known]
    low = [line.stairs.low_us[place] for place in line.known]
    high = [line.stairs.high_us[place] for place in line.known]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*counts, *reversed(counts)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": line.colour,
        "opacity": 0.25,
        "line": {"width": 0, "color": line.colour},
        "name": "interval",
        "legendgroup": "interval",
        "showlegend": first,
        "hoverinfo": "skip",
    }


def _line(line: StairLine, name: str) -> Chart:
    stairs = line.stairs
    ends = zip(stairs.counts, stairs.predicted_us, stairs.low_us, stairs.high_us, strict=True)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(stairs.counts),
        "y": list(stairs.predicted_us),
        "text": [
            f"{count} channels: predicted {us_text(value)}<br>interval {interval_text(low, high)}"
            for count, value, low, high in ends
        ],
        "line": {"color": line.colour, "width": 1.5},
        "name": f"{name}{line.suffix}",
        "hovertemplate": "%{text}<extra></extra>",
    }


def _dots(line: StairLine, values: Sequence[float], name: str) -> Chart:
    pairs = [pair for pair in zip(line.stairs.counts, values, strict=True) if not math.isnan(pair[1])]
    measured = name == "measured"
    symbol = "circle" if line.aligned else "x"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [count for count, _ in pairs],
        "y": [value for _, value in pairs],
        "name": f"{name}{line.suffix}",
        "text": [us_text(value) for _, value in pairs],
        "marker": {
            "color": COLOURS[0] if measured else line.colour,
            "size": 5,
            "symbol": symbol if measured else f"{symbol}-open",
        },
        "hovertemplate": f"%{{x}} channels: {name} %{{text}}<extra></extra>",
    }
