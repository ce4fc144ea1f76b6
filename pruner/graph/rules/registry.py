"""The registry of operator rules, and what several rules do to labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruner.graph.context import Context, Rule

__all__ = ["RULES", "couple", "equal_parts", "rule"]

RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the ATen operators ``names``, separated by blanks, and their in-place forms."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = RULES[name + "_"] = function
        return function

    return register


def couple(context: Context, rows: Tensor, place: str) -> Tensor:
    """Join the rows, so that equal parts shrink alike; return the first."""
    for row in rows[1:]:
        context.labels.unify(rows[0], row, f"part of it stays whole, and the parts must be equal, at {place}")
    return rows[0]


def equal_parts(context: Context, labels: Tensor, axis: int, size: int, place: str) -> None:
    """Join the equal parts along ``axis``: the code that divides them expects them to stay equal."""
    first, *others = torch.split(labels, size, dim=axis)
    for part in others:
        context.labels.unify(first, part, f"part of it stays whole, and the parts must be equal, at {place}")
