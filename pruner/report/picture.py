"""The report as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.report.figures import headline, latency_text, ratio_text
from pruner.report.run_report import RunReport, Staircase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["STYLE", "picture"]

BEFORE, AFTER, PREDICTED, CHOSEN, INK, FAINT = (
    "#b8c4ce",
    "#00798c",
    "#edae49",
    "#d1495b",
    "#22303c",
    "#8795a1",
)
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,
}
_SHORT = 34
# Heights in inches.
_TITLE, _BARS, _STAIRS = 0.9, 2.6, 3.3


def picture(report: RunReport, path: Path) -> None:
    """Draw latency against budget, a staircase and the channels of each group into the PNG ``path``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # rc_context without pyplot: no global figure, no display, and the caller's style is left alone.
    with mpl.rc_context(STYLE):
        height = min(max(_TITLE + _BARS + _STAIRS, _TITLE + 0.7 + 0.235 * len(report.groups)), 24.0)
        engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.10, rect=(0, 0, 1, 1 - _TITLE / height))
        figure = Figure(figsize=(13.0, height), dpi=110, layout=engine)
        FigureCanvasAgg(figure)
        # The left charts keep their height beside a long list of groups.
        rest = height - _TITLE - _BARS - _STAIRS
        heights = (_BARS, _STAIRS, rest) if rest > 1 else (_BARS, _STAIRS)
        grid = figure.add_gridspec(len(heights), 2, width_ratios=(1.05, 1), height_ratios=heights)
        left = grid[0, 0] if report.staircase is not None else grid[:2, 0]
        _bars(figure.add_subplot(left), report)
        if report.staircase is not None:
            _staircase(figure.add_subplot(grid[1, 0]), report.staircase)
        _groups(figure.add_subplot(grid[:, 1]), report, height)
        top = 1 - 0.28 / height
        title = f"{report.model or 'model'} pruned by {report.method} to {report.budget}"
        figure.text(0.012, top, _short(title, 90), fontsize=15, fontweight="bold", va="center")
        facts = [f"{f.name} {f.before} → {f.after}" for f in headline(report) if f.name.startswith("acc")]
        about = [report.device, report.runtime, f"batch {report.batch}", report.precision, *facts]
        subtitle = " · ".join(text for text in about if text)
        figure.text(0.012, 1 - 0.62 / height, _short(subtitle, 150), fontsize=10, color=FAINT, va="center")
        figure.savefig(path, format="png", facecolor="white")


def _short(text: str, length: int = _SHORT) -> str:
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2) :]}"


def _bars(axes: Axes, report: RunReport) -> None:
    """Before, predicted and measured, against the budget's line."""
    bars = [("before", report.latency_before_us, BEFORE, "latency_before_us", "")]
    ratio = ratio_text(report.ratio_predicted)
    bars.append(("predicted", report.latency_predicted_us, PREDICTED, "latency_predicted_us", ratio))
    if report.latency_after_us is not None:
        ratio = "" if report.ratio_measured is None else ratio_text(report.ratio_measured)
        bars.append(("measured", report.latency_after_us, AFTER, "latency_after_us", ratio))
    largest = max(value for _, value, _, _, _ in bars)
    unit, scale = ("ms", 1000.0) if largest >= 1000 else ("µs", 1.0)
    for row, (_, value, colour, field, note) in enumerate(bars):
        error: Any = None
        end = value
        if field in report.intervals:
            low, high = report.intervals[field]
            error = [[max(0.0, value - low) / scale], [max(0.0, high - value) / scale]]
            end = max(value, high)
        axes.barh(row, value / scale, color=colour, height=0.62, xerr=error, ecolor=INK, capsize=3, zorder=2)
        label = f"{latency_text(value)}{'   ' + note if note else ''}"
        axes.text((end + 0.015 * largest) / scale, row, label, va="center", fontweight="bold", zorder=4)
    if report.budget_target_us is not None:
        target = report.budget_target_us / scale
        axes.axvline(target, color=CHOSEN, linestyle=(0, (5, 3)), linewidth=1.6, zorder=3)
        name = f"budget {latency_text(report.budget_target_us)}"
        axes.text(target + 0.012 * largest / scale, -0.62, name, color=CHOSEN, va="center")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.set_ylim(len(bars) - 0.45, -0.8)
    axes.set_xlim(0, 1.28 * largest / scale)
    axes.set_xlabel(f"latency of one run, {unit}")
    axes.set_title("Latency: predicted, measured, budget")
    axes.tick_params(axis="y", length=0)


def _staircase(axes: Axes, stairs: Staircase) -> None:
    """One convolution's latency over its channels."""
    axes.set_title(_short(stairs.title, 64))
    dense = len(stairs.counts) > 48
    axes.step(stairs.counts, stairs.latency_us, where="pre", color=FAINT, linewidth=1.4, zorder=2)
    if not dense:
        axes.plot(stairs.counts, stairs.latency_us, "o", color=FAINT, markersize=3.5, zorder=2)
    at = dict(zip(stairs.counts, stairs.latency_us, strict=True))
    efficient = [count for count in stairs.efficient if count in at]
    axes.plot(
        efficient,
        [at[count] for count in efficient],
        "o",
        color=AFTER,
        markersize=5.5,
        zorder=3,
        label="efficient count: the last before a step",
    )
    if stairs.chosen in at:
        value = at[stairs.chosen]
        label = f"chosen: {stairs.chosen} of {stairs.counts[-1]}, {latency_text(value)}"
        axes.axvline(stairs.chosen, color=CHOSEN, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        axes.plot([stairs.chosen], [value], "D", color=CHOSEN, markersize=9, zorder=4, label=label)
    axes.set_ylim(0, 1.22 * max(stairs.latency_us))
    axes.set_xlim(left=0)
    axes.set_xlabel(_short(stairs.axis, 60))
    axes.set_ylabel("latency, µs")
    axes.grid(axis="y", color="#e4e9ed", zorder=0)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def _groups(axes: Axes, report: RunReport, height: float) -> None:
    """Channels of each group before and after."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Channels of each group")
    if not report.groups:
        axes.set_axis_off()
        return
    rows = range(len(report.groups))
    size = min(9.5, max(4.0, 52 * height / (1.25 * len(report.groups))))
    largest = max(max(group.before, group.after) for group in report.groups) or 1
    axes.barh(rows, [group.before for group in report.groups], color=BEFORE, height=0.78, label="before")
    axes.barh(rows, [group.after for group in report.groups], color=AFTER, height=0.78, label="after")
    for row, group in enumerate(report.groups):
        removed = group.after == 0
        text = "removed" if removed else f"{group.after} of {group.before}"
        axes.text(
            max(group.before, group.after) + 0.012 * largest,
            row,
            text,
            va="center",
            fontsize=size,
            color=CHOSEN if removed else INK,
            fontweight="bold" if removed else "normal",
        )
    axes.set_yticks(rows, [_short(group.name) for group in report.groups], fontsize=size)
    axes.set_ylim(len(report.groups) - 0.4, -0.6)
    axes.set_xlim(0, 1.2 * largest)
    axes.set_xlabel("channels")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    # Above the bars, where no bar or number can lie under it.
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2, frameon=False, fontsize=9
    )
