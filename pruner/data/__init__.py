"""Image classification data: Parquet, CIFAR folders, image folders and scikit-learn's digits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruner.data.load import load_data
    from pruner.data.split import Split, Splits

__all__ = ["Split", "Splits", "load_data"]

# Imported when first asked for: the processes that decode images import this package, and need no torch.
_HOMES = {"Split": "pruner.data.split", "Splits": "pruner.data.split", "load_data": "pruner.data.load"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pruner.data' has no attribute {name!r}")
