"""The charts of the page, as the dictionaries that Plotly draws."""

from __future__ import annotations

from collections.abc import Sequence

from latency_model.fit_report.contents import Contents
from latency_model.fit_report.groups import Group
from latency_model.fit_report.marks import Chart, label
from latency_model.fit_report.square_charts import networks_chart, points_chart
from latency_model.fit_report.stairs_chart import stairs_chart
from latency_model.fit_report.text import percent_text
from latency_model.kernel_names import short_kernels
from latency_model.plots.page import page_layout
from latency_model.plots.style import COLOURS

__all__ = ["charts"]

_LABEL = 26


def charts(contents: Contents) -> dict[str, Chart]:
    """Return the charts of the page by the ids of their places; those that would be empty are not among them."""
    found: dict[str, Chart] = {}
    if len(contents.points):
        found["points"] = points_chart(contents.points)
    for name in ("size", "family", "alignment", "kernel"):
        groups = getattr(contents, name)
        if groups:
            found[name] = _bars(groups, short=name == "family")
    for place, stairs in enumerate(contents.staircases):
        found[f"stairs{place}"] = stairs_chart(stairs, contents.curve(stairs))
    if contents.facts.networks:
        found["networks"] = networks_chart(contents.facts.networks, contents.facts.confidence)
    return found


def _bars(groups: Sequence[Group], *, short: bool) -> Chart:
    names = [group.label for group in groups]
    labels = short_kernels(names, longest=_LABEL) if short else {name: name for name in names}
    places = list(range(len(groups)))
    mape = [100 * (group.errors.mape or 0.0) for group in groups]
    bias = [100 * (group.errors.bias or 0.0) for group in groups]
    hover = [
        f"{label(group.label)}<br>{group.errors.count:,} rows<br>MAPE {percent_text(group.errors.mape)}, "
        f"median {percent_text(group.errors.median_error)}<br>mean signed error "
        f"{percent_text(group.errors.bias, signed=True)}<br>within 10 %: {percent_text(group.errors.within_10)}<br>"
        f"coverage {percent_text(group.errors.coverage)}"
        for group in groups
    ]
    shared = {"y": places, "hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>"}
    data = [
        {
            **shared,
            "type": "bar",
            "orientation": "h",
            "x": mape,
            "text": [f"{percent_text(group.errors.mape)} · {group.errors.count:,}" for group in groups],
            "textposition": "outside",
            "cliponaxis": False,
            "marker": {"color": COLOURS[4]},
            "name": "MAPE · rows",
        },
        {
            **shared,
            "type": "scatter",
            "mode": "markers",
            "x": bias,
            "marker": {"symbol": "diamond", "size": 8, "color": COLOURS[1]},
            "name": "mean signed error",
        },
    ]
    widest = max([*mape, *bias, 0.1])
    least = min(1.1 * min(bias), -0.03 * widest)
    layout = page_layout(
        height=110 + 27 * len(groups),
        # Room for the texts beside the longest bars, on a narrow screen too.
        xaxis={"title": {"text": "error (%)"}, "range": [least, widest + 0.6 * (widest - least)]},
        yaxis={
            "tickvals": places,
            "ticktext": [label(labels[name]) for name in names],
            "range": [len(groups) - 0.4, -0.6],
            "showgrid": False,
            "zeroline": False,
        },
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )
    return {"data": data, "layout": layout}
