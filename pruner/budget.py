"""Budgets as people write them: ``latency=0.7x``, ``latency=1.8ms@95%``, ``macs=20M``, ``params=0.4x``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latency_model.errors import BudgetError

__all__ = ["METRICS", "Budget", "parse_budgets"]

METRICS = ("latency", "macs", "params")
_ALIASES = {"flops": "macs"}
_UNITS = {
    "latency": {"us": 1.0, "ms": 1e3, "s": 1e6},
    "macs": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "params": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
}
_FORM = re.compile(
    r"(?P<metric>[a-z]+)=(?P<number>\d+\.?\d*|\.\d+)(?P<unit>[a-zA-Z]*)(?:@(?P<percent>\d+\.?\d*)%)?"
)
_HELP = "write it like latency=0.7x, latency=1.8ms@95%, macs=0.5x or latency=0.7x,params=400K"
# Decimals of a confidence in percent: as many as keep a float's last bits out of the text.
_DECIMALS = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper bound on one metric, relative to the network as it is (``x``) or absolute.

    ``value`` is the ratio when ``relative``, else microseconds, multiply-accumulates or parameters.
    ``flops`` is accepted for ``macs``: a ratio is the same in both. With a ``confidence`` (of latencies only, above
    0.5) the bound is for the upper end of the model's one-sided interval, P(latency <= bound) >= confidence; without
    one it is for the prediction itself.

    >>> Budget.parse("latency=0.7x").target(1000.0)
    700.0
    >>> Budget.parse("latency=1.8ms@95%").confidence
    0.95
    """

    metric: str
    value: float
    relative: bool
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.confidence is None:
            return
        if self.metric != "latency":
            raise BudgetError(
                f"{self.metric} are counted exactly: a budget of them takes no confidence; leave @ away"
            )
        if not 0.5 < self.confidence < 1:
            raise BudgetError(
                f"the confidence of a budget lies above 50% and below 100%, not at {_percent(self.confidence)}; "
                "write it like latency=0.7x@90%"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that ``text`` states; ``BudgetError`` says how to write one."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise BudgetError(f"not a budget: {text!r}; {_HELP}")
        metric = _ALIASES.get(match["metric"], match["metric"])
        if metric not in METRICS:
            raise BudgetError(f"unknown budget metric {match['metric']!r} in {text!r}; {_HELP}")
        number, unit = float(match["number"]), match["unit"]
        sure = None if match["percent"] is None else round(float(match["percent"]) / 100, _DECIMALS + 2)
        if unit == "x":
            if not 0 < number <= 1:
                raise BudgetError(f"the ratio in {text!r} must be above 0 and at most 1")
            return cls(metric, number, True, sure)
        if unit not in _UNITS[metric]:
            known = ", ".join(["x", *filter(None, _UNITS[metric])])
            raise BudgetError(f"unknown unit {unit!r} in {text!r}; {metric} takes {known}")
        if number == 0:
            raise BudgetError(f"the budget {text!r} is zero; {_HELP}")
        return cls(metric, number * _UNITS[metric][unit], False, sure)

    @property
    def text(self) -> str:
        """Canonical form; ``parse`` reads it back."""
        unit = "x" if self.relative else "us" if self.metric == "latency" else ""
        sure = "" if self.confidence is None else f"@{_percent(self.confidence)}"
        return f"{self.metric}={self.value!r}{unit}{sure}"

    def __str__(self) -> str:
        return self.text

    def target(self, full: float) -> float:
        """Return the bound in the metric's own unit, for a network that now spends ``full``."""
        return self.value * full if self.relative else self.value

    def ratio(self, full: float) -> float:
        """Return the bound as a share of ``full``."""
        return self.target(full) / full


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """Return the budgets that ``text`` states, separated by commas; that of the latency comes first.

    Raises ``BudgetError`` for what is no budget, and for two of one metric.

    >>> [str(budget) for budget in parse_budgets("params=0.5x,latency=0.7x")]
    ['latency=0.7x', 'params=0.5x']
    """
    found = sorted((Budget.parse(part) for part in text.split(",")), key=lambda b: b.metric != "latency")
    metrics = [budget.metric for budget in found]
    for metric in metrics:
        if metrics.count(metric) > 1:
            raise BudgetError(f"{text!r} bounds {metric} twice; keep one of them")
    return tuple(found)


def _percent(confidence: float) -> str:
    return f"{round(100 * confidence, _DECIMALS):.{_DECIMALS}f}".rstrip("0").rstrip(".") + "%"
