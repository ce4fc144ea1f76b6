"""Budgets as people write them: ``latency=0.7x``, ``latency=1.8ms``, ``macs=20M``, ``params=0.4x``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latency_model.errors import BudgetError

__all__ = ["METRICS", "Budget"]

METRICS = ("latency", "macs", "params")
_ALIASES = {"flops": "macs"}
_UNITS = {
    "latency": {"us": 1.0, "ms": 1e3, "s": 1e6},
    "macs": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "params": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
}
_FORM = re.compile(r"(?P<metric>[a-z]+)=(?P<number>\d+\.?\d*|\.\d+)(?P<unit>[a-zA-Z]*)")
_HELP = "write it like latency=0.7x, latency=1.8ms, macs=0.5x or params=400K"


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper bound on one metric, relative to the network as it is (``x``) or absolute.

    ``value`` is the ratio when ``relative``, else microseconds, multiply-accumulates or parameters.
    ``flops`` is accepted for ``macs``: a ratio is the same in both.

    >>> Budget.parse("latency=0.7x").target(1000.0)
    700.0
    """

    metric: str
    value: float
    relative: bool

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
        if unit == "x":
            if not 0 < number <= 1:
                raise BudgetError(f"the ratio in {text!r} must be above 0 and at most 1")
            return cls(metric, number, True)
        if unit not in _UNITS[metric]:
            known = ", ".join(["x", *filter(None, _UNITS[metric])])
            raise BudgetError(f"unknown unit {unit!r} in {text!r}; {metric} takes {known}")
        if number == 0:
            raise BudgetError(f"the budget {text!r} is zero; {_HELP}")
        return cls(metric, number * _UNITS[metric][unit], False)

    @property
    def text(self) -> str:
        """Canonical form; ``parse`` reads it back."""
        if self.relative:
            return f"{self.metric}={self.value!r}x"
        return f"{self.metric}={self.value!r}{'us' if self.metric == 'latency' else ''}"

    def __str__(self) -> str:
        return self.text

    def target(self, full: float) -> float:
        """Return the bound in the metric's own unit, for a network that now spends ``full``."""
        return self.value * full if self.relative else self.value

    def ratio(self, full: float) -> float:
        """Return the bound as a share of ``full``."""
        return self.target(full) / full
