"""Pruning methods by name: those that ship, and those that other distributions register."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from latency_model.errors import InputError
from pruner.methods.base import Method, Problem, Values
from pruner.methods.options import configured

__all__ = ["Method", "Problem", "Values", "method_names", "open_method"]

# The same strings as in pyproject.toml, so that a checkout works before it is installed.
_BUILT_IN = {"gator": "pruner.methods.gator:Gator", "l1": "pruner.methods.l1:L1"}


def _registered() -> dict[str, str]:
    return _BUILT_IN | {entry.name: entry.value for entry in entry_points(group="pruner.methods")}


def method_names() -> tuple[str, ...]:
    """Return the names that ``open_method`` knows, sorted."""
    return tuple(sorted(_registered()))


def open_method(name: str, options: Mapping[str, str] | None = None) -> Method:
    """Return a new method with ``options`` for its ``Config``; ``InputError`` names the nearest known one."""
    registered = _registered()
    if name not in registered:
        near = difflib.get_close_matches(name, registered, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(registered))}"
        raise InputError(f"no pruning method {name!r}{hint}")
    module, _, attribute = registered[name].partition(":")
    kind = getattr(import_module(module), attribute)
    method: Method
    if not options:
        method = kind()
    elif (config := getattr(kind, "Config", None)) is None:
        raise InputError(f"the method {name} has no settings; leave {', '.join(options)} out")
    else:
        method = kind(configured(config, options, of=name))
    return method
