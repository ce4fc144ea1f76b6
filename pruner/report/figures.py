"""The headline figures as text, the same in the terminal and on the page."""

from __future__ import annotations

from dataclasses import dataclass

from pruner.report.run_report import RunReport

__all__ = ["Figure", "headline", "latency_text", "ratio_text"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the headline table; ``change`` is empty where it has no meaning."""

    name: str
    before: str
    after: str
    change: str


def latency_text(latency_us: float) -> str:
    """Return a latency with three to four significant digits, in µs or ms."""
    if latency_us >= 1000:
        value = latency_us / 1000
        return f"{value:.{2 if value < 100 else 0}f} ms"
    return f"{latency_us:.{1 if latency_us < 100 else 0}f} µs"


def ratio_text(ratio: float) -> str:
    """Return a ratio as budgets are written, ``0.602x``."""
    return f"{ratio:.3f}x"


def _count_text(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def _interval(report: RunReport, name: str) -> str:
    if name not in report.intervals:
        return ""
    low, high = report.intervals[name]
    return f" ({latency_text(low)} to {latency_text(high)})"


def headline(report: RunReport) -> list[Figure]:
    """Return the figures that say whether the run did its job, the most important first."""
    before = latency_text(report.latency_before_us)
    figures = []
    if report.latency_after_us is not None:
        measured = "" if report.ratio_measured is None else ratio_text(report.ratio_measured)
        figures.append(
            Figure(
                "latency, measured",
                before + _interval(report, "latency_before_us"),
                latency_text(report.latency_after_us) + _interval(report, "latency_after_us"),
                measured,
            )
        )
    figures.append(
        Figure(
            "latency, predicted",
            before,
            latency_text(report.latency_predicted_us) + _interval(report, "latency_predicted_us"),
            ratio_text(report.ratio_predicted),
        )
    )
    if report.latency_bound_us is not None and report.budget_confidence is not None:
        bound = report.latency_bound_us
        name = f"latency, bound at {100 * report.budget_confidence:.6g} %"
        figures.append(Figure(name, "", latency_text(bound), ratio_text(bound / report.latency_before_us)))
    if report.budget_target_us is not None:
        target = report.budget_target_us
        figures.append(
            Figure("budget", "", latency_text(target), ratio_text(target / report.latency_before_us))
        )
    if report.accuracy_after is not None:
        change, started = "", ""
        if report.accuracy_before is not None:
            started = f"{report.accuracy_before:.2f} %"
            change = f"{report.accuracy_after - report.accuracy_before:+.2f} points"
        figures.append(Figure("accuracy, top-1", started, f"{report.accuracy_after:.2f} %", change))
    for name, old, new in (
        ("parameters", report.params_before, report.params_after),
        ("MACs of convolutions", report.macs_before, report.macs_after),
    ):
        change = ratio_text(new / old) if old else ""
        figures.append(Figure(name, _count_text(old), _count_text(new), change))
    return figures
