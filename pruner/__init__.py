"""The pruner: channel graph, methods, budgets, allocation, surgery, recovery and proof."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruner.budget import Budget
    from pruner.graph import trace
    from pruner.oracle import check
    from pruner.pipeline import PruneRequest, prune
    from pruner.plan import Plan
    from pruner.saved import rebuild
    from pruner.surgery import remove

__all__ = ["Budget", "Plan", "PruneRequest", "check", "prune", "rebuild", "remove", "trace"]

# Most of these modules import torch, so each is imported when its name is first asked for. No name here may
# also be the name of a submodule: the submodule would take its place once imported.
_HOMES = {
    "Budget": "pruner.budget",
    "Plan": "pruner.plan",
    "PruneRequest": "pruner.pipeline",
    "check": "pruner.oracle",
    "prune": "pruner.pipeline",
    "rebuild": "pruner.saved",
    "remove": "pruner.surgery",
    "trace": "pruner.graph",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pruner' has no attribute {name!r}")
