"""The report as one self-contained web page."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from typing import Any

from pruner.report.figures import headline, latency_text, ratio_text
from pruner.report.hypergraph import hypergraph
from pruner.report.picture import AFTER, BEFORE, CHOSEN, FAINT, PREDICTED
from pruner.report.run_report import RunReport

__all__ = ["page"]


def page(report: RunReport) -> str:
    """Return the report as HTML that needs nothing from the network: Plotly's script is inside."""
    from jinja2 import Environment, select_autoescape
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True
    )
    source = files("pruner.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    charts = {"latency": _latency(report), "channels": _channels(report)}
    if report.staircase is not None:
        charts["staircase"] = _stairs(report)
    if report.sites:
        charts["sites"] = _sites(report)
    if any(group.writers or group.readers for group in report.groups):
        charts["hypergraph"] = hypergraph(report)
    return environment.from_string(source).render(
        report=report,
        figures=headline(report),
        plotly=get_plotlyjs(),
        charts={name: _script_json(chart) for name, chart in charts.items()},
        removed=[group.name for group in report.groups if group.after == 0],
    )


def _script_json(data: Any) -> str:
    # Inside a script element only these can end the element or begin a comment.
    text = json.dumps(data, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _label(text: str) -> str:
    # Plotly reads its labels as a kind of HTML.
    return html.escape(text, quote=False)


def _latency(report: RunReport) -> dict[str, Any]:
    bars = [
        ("before", report.latency_before_us, BEFORE, "latency_before_us", ""),
        (
            "predicted",
            report.latency_predicted_us,
            PREDICTED,
            "latency_predicted_us",
            ratio_text(report.ratio_predicted),
        ),
    ]
    if report.latency_after_us is not None:
        ratio = "" if report.ratio_measured is None else ratio_text(report.ratio_measured)
        bars.append(("measured", report.latency_after_us, AFTER, "latency_after_us", ratio))
    ends = [report.intervals.get(field, (value, value)) for _, value, _, field, _ in bars]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [name for name, *_ in bars],
        "x": [value for _, value, *_ in bars],
        "text": [f"{latency_text(value)} {note}".strip() for _, value, _, _, note in bars],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textfont": {"color": ["#ffffff" if colour == AFTER else "#14202a" for _, _, colour, _, _ in bars]},
        "marker": {"color": [colour for _, _, colour, _, _ in bars]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - value) for (_, high), (_, value, *_) in zip(ends, bars, strict=True)],
            "arrayminus": [
                max(0.0, value - low) for (low, _), (_, value, *_) in zip(ends, bars, strict=True)
            ],
            "color": FAINT,
        },
        "hovertemplate": "%{y}: %{x:.1f} µs<extra></extra>",
    }
    layout: dict[str, Any] = {
        "height": 260,
        "yaxis": {"autorange": "reversed"},
        "xaxis": {"title": {"text": "latency of one run, µs"}, "rangemode": "tozero"},
    }
    if report.budget_target_us is not None:
        line = {"color": CHOSEN, "width": 2, "dash": "dash"}
        target = report.budget_target_us
        layout["shapes"] = [
            {"type": "line", "x0": target, "x1": target, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        ]
        layout["annotations"] = [
            {
                "x": target,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                "text": f"budget {latency_text(target)}",
                "font": {"color": CHOSEN},
            }
        ]
    return {"data": [trace], "layout": layout}


def _stairs(report: RunReport) -> dict[str, Any]:
    stairs = report.staircase
    assert stairs is not None
    at = dict(zip(stairs.counts, stairs.latency_us, strict=True))
    efficient = [count for count in stairs.efficient if count in at]
    hover = "%{x} channels: %{y:.2f} µs<extra></extra>"
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "line": {"shape": "vh", "color": FAINT},
            "marker": {"size": 4},
            "x": list(stairs.counts),
            "y": list(stairs.latency_us),
            "name": "table",
            "hovertemplate": hover,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "marker": {"size": 8, "color": AFTER},
            "x": efficient,
            "y": [at[count] for count in efficient],
            "name": "efficient counts",
            "hovertemplate": hover,
        },
    ]
    if stairs.chosen in at:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "marker": {"size": 13, "color": CHOSEN, "symbol": "diamond"},
                "x": [stairs.chosen],
                "y": [at[stairs.chosen]],
                "name": f"chosen: {stairs.chosen}",
                "hovertemplate": hover,
            }
        )
    layout = {
        "height": 380,
        "xaxis": {"title": {"text": _label(stairs.axis)}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "latency, µs"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.12},
    }
    return {"data": data, "layout": layout}


def _rows_layout(count: int) -> dict[str, Any]:
    return {
        "height": 120 + 22 * count,
        "barmode": "overlay",
        "yaxis": {"autorange": "reversed", "type": "category", "automargin": True, "dtick": 1},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"},
    }


def _channels(report: RunReport) -> dict[str, Any]:
    groups = report.groups
    names = [_label(group.name) for group in groups]
    texts = ["removed" if group.after == 0 else f"{group.after} of {group.before}" for group in groups]
    before = {
        "type": "bar",
        "orientation": "h",
        "name": "before",
        "y": names,
        "x": [group.before for group in groups],
        "text": texts,
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": [CHOSEN if group.after == 0 else FAINT for group in groups]},
        "marker": {"color": BEFORE},
        "hovertemplate": "%{y}: %{x} before<extra></extra>",
    }
    after = {
        "type": "bar",
        "orientation": "h",
        "name": "after",
        "y": names,
        "x": [group.after for group in groups],
        "marker": {"color": AFTER},
        "hovertemplate": "%{y}: %{x} after<extra></extra>",
    }
    # Room for the texts beside the longest bars, on a narrow screen too.
    room = [0, 1.35 * max((group.before for group in groups), default=1)]
    layout = {**_rows_layout(len(groups)), "xaxis": {"title": {"text": "channels"}, "range": room}}
    return {"data": [before, after], "layout": layout}


def _sites(report: RunReport) -> dict[str, Any]:
    names = [_label(site.name) for site in report.sites]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": title,
            "y": names,
            "x": values,
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}: %{{x:.1f}} µs {title}<extra></extra>",
        }
        for title, colour, values in (
            ("before", BEFORE, [site.before_us for site in report.sites]),
            ("predicted", PREDICTED, [site.predicted_us for site in report.sites]),
        )
    ]
    layout = {**_rows_layout(len(names)), "xaxis": {"title": {"text": "latency, µs"}}}
    return {"data": data, "layout": layout}
