"""The report as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_model.fit_report.contents import Contents, held
from latency_model.fit_report.groups import Group
from latency_model.fit_report.ranges import log_ends, log_ticks, top
from latency_model.fit_report.stairs import stair_lines
from latency_model.fit_report.text import counted, percent_text, shorten
from latency_model.plots.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["picture"]

_INK, _FAINT = "#222222", "#666666"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "text.parse_math": False,
}
_HEIGHT, _TITLE = 11.4, 0.85
_MANY = 500


def picture(contents: Contents, path: Path) -> None:
    """Draw rows, errors by size, the largest staircase and networks (else errors by kernel) into the PNG ``path``.

    It is 1,600 pixels wide; the same contents give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # rc_context without pyplot: no global figure, no display, and the caller's style is left alone.
    with mpl.rc_context(_STYLE):
        engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, rect=(0, 0, 1, 1 - _TITLE / _HEIGHT))
        figure = Figure(figsize=(12.8, _HEIGHT), dpi=125, layout=engine)
        FigureCanvasAgg(figure)
        (rows, sizes), (stairs, networks) = figure.subplots(2, 2)
        _rows(rows, contents)
        _bars(sizes, contents.size, "Error by measured latency", "there are no rows")
        _stairs(stairs, contents)
        if contents.facts.networks:
            _networks(networks, contents)
        else:
            _bars(networks, contents.kernel, "Error by kernel size", "there are no rows")
        title = shorten(contents.facts.title, 100)
        figure.text(0.012, 1 - 0.28 / _HEIGHT, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 1 - 0.6 / _HEIGHT, _subtitle(contents), fontsize=10.5, color=_FAINT, va="center")
        figure.savefig(path, format="png", facecolor="white")


def _subtitle(contents: Contents) -> str:
    found, networks = contents.summary, contents.summary["networks"]
    parts = [
        f"{counted(found['rows'], 'row')}, left out: MAPE {percent_text(found['mape'])}",
        f"within 10 % {percent_text(found['within_10'])}",
        f"sum {percent_text(found['sum_error'], signed=True)}",
        f"coverage at {100 * found['confidence']:g} % {percent_text(found['coverage'])}",
    ]
    if networks:
        bias = percent_text(networks["bias"], signed=True)
        parts.append(
            f"{counted(networks['count'], 'network')}: MAPE {percent_text(networks['mape'])}, bias {bias}"
        )
    return " · ".join(parts)


def _empty(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", color=_FAINT, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _square(axes: Axes, values: Sequence[float]) -> None:
    ends = log_ends(values)
    edges = np.array(ends)
    axes.fill_between(
        edges, 0.9 * edges, 1.1 * edges, color="0.88", linewidth=0, zorder=0, label="within 10 %"
    )
    axes.plot(edges, edges, color="0.55", linewidth=0.9, zorder=1)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel="measured (µs)", ylabel="predicted (µs)")
    ticks = log_ticks(ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks])
        axis.set_ticks([], minor=True)


def _rows(axes: Axes, contents: Contents) -> None:
    axes.set_title("Rows: predicted against measured")
    points = contents.points
    if not len(points):
        _empty(axes, "there are no rows")
        return
    _square(axes, [*points.measured_us, *points.predicted_us])
    measured, predicted = np.array(points.measured_us), np.array(points.predicted_us)
    size = 2.6 if len(points) > _MANY else 4.5
    inside = held(points.measured_us, points.low_us, points.high_us)
    for kind, colour, marker, text in (
        (True, COLOURS[0], "o", "measured inside its interval"),
        (False, COLOURS[1], "x", "measured outside"),
        (None, COLOURS[0], "o", "no interval"),
    ):
        chosen = [place for place, found in enumerate(inside) if found is kind]
        if chosen:
            axes.plot(
                measured[chosen], predicted[chosen], marker, color=colour, markersize=size, alpha=0.55, label=text
            )  # fmt: skip
    _legend(axes)


def _networks(axes: Axes, contents: Contents) -> None:
    axes.set_title("Networks: predicted against measured")
    networks = contents.facts.networks
    measured, predicted = [n.measured_us for n in networks], [n.predicted_us for n in networks]
    known = [n for n in networks if n.low_us > 0 and math.isfinite(n.high_us)]
    _square(axes, [*measured, *predicted, *(end for n in known for end in (n.low_us, n.high_us))])
    if known:
        axes.vlines(
            [n.measured_us for n in known], [n.low_us for n in known], [n.high_us for n in known],
            color="0.55", linewidth=1, zorder=2, label=f"interval at {100 * contents.facts.confidence:g} %",
        )  # fmt: skip
    axes.plot(measured, predicted, "o", color=COLOURS[0], markersize=5, zorder=3, label="network")
    _legend(axes)


def _legend(axes: Axes) -> None:
    legend = axes.legend(loc="upper left", fontsize=9, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _bars(axes: Axes, groups: Sequence[Group], title: str, why: str) -> None:
    axes.set_title(title, pad=22 if groups else None)
    if not groups:
        _empty(axes, why)
        return
    places = range(len(groups))
    mape = [100 * (group.errors.mape or 0.0) for group in groups]
    bias = [100 * (group.errors.bias or 0.0) for group in groups]
    axes.barh(places, mape, color=COLOURS[4], height=0.72, label="MAPE, rows")
    axes.plot(bias, places, "D", color=COLOURS[1], markersize=5, label="mean signed error", zorder=3)
    widest = max([*mape, *bias, 0.1])
    for place, group, end in zip(places, groups, mape, strict=True):
        text = f"{percent_text(group.errors.mape)}, {group.errors.count:,}"
        axes.text(max(end, bias[place]) + 0.025 * widest, place, text, va="center", fontsize=9)
    axes.set_yticks(places, [shorten(group.label, 30) for group in groups], fontsize=9)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(min(1.1 * min(bias), -0.03 * widest), 1.35 * widest)
    axes.set_xlabel("error (%)")
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=_FAINT, linewidth=0.8)
    # Above the bars, where no bar or number can lie under it.
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2, frameon=False, fontsize=9
    )


def _stairs(axes: Axes, contents: Contents) -> None:
    if not contents.staircases:
        axes.set_title("Staircase")
        _empty(axes, "no site has enough measured output counts")
        return
    stairs = contents.staircases[0]
    curve = contents.curve(stairs)
    drawn = curve or stairs
    axes.set_title(_two_lines(stairs.site_text))
    confidence = f"interval at {100 * contents.facts.confidence:g} %"
    for line in stair_lines(drawn):
        counts, low, high = (np.array(getattr(line.stairs, n)) for n in ("counts", "low_us", "high_us"))
        if line.known:
            axes.fill_between(
                counts[line.known], low[line.known], high[line.known],
                color=line.colour, alpha=0.22, linewidth=0, label=confidence + line.suffix,
            )  # fmt: skip
        name = "saved model" if curve else "predicted"
        axes.plot(
            counts, line.stairs.predicted_us, color=line.colour, linewidth=1.4, label=name + line.suffix
        )
    for line in stair_lines(stairs):
        marker = "o" if line.aligned else "x"
        if curve:
            axes.plot(
                line.stairs.counts, line.stairs.predicted_us, marker,
                color=line.colour, markerfacecolor="none", markersize=4, label=f"left out{line.suffix}",
            )  # fmt: skip
        axes.plot(
            line.stairs.counts, line.stairs.measured_us, marker,
            color=COLOURS[0], markersize=3.6, zorder=3, label=f"measured{line.suffix}",
        )  # fmt: skip
    ends = [*stairs.measured_us, *stairs.predicted_us, *drawn.predicted_us, *drawn.high_us]
    # Room for the legend above the points.
    axes.set_ylim(0, 1.3 * top(ends))
    axes.set(xlabel="output channels", ylabel="latency (µs)")
    axes.grid(axis="y", color="0.92", zorder=0)
    axes.legend(loc="upper left", fontsize=8.5, frameon=False, ncols=2)


def _two_lines(text: str, length: int = 62) -> str:
    if len(text) <= length:
        return text
    head, _, _ = text[:length].rpartition(", ")
    if not head:
        return shorten(text, length)
    return f"{head},\n{shorten(text[len(head) + 2 :], length)}"
