"""Pruning methods by name: those that ship, and those that other distributions register."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from latency_model.errors import InputError
from pruner.methods.base import Method, Problem, Rewriter, Values
from pruner.methods.options import configured

__all__ = ["Method", "Problem", "Rewriter", "Values", "method_names", "open_method"]

# The same strings as in pyproject.toml, so that a checkout works before it is installed.
_BUILT_IN = {
    "fpgm": "pruner.methods.fpgm:Fpgm",
    "gator": "pruner.methods.gator:Gator",
    "l1": "pruner.methods.l1:L1",
    "l2": "pruner.methods.l2:L2",
    "random": "pruner.methods.random:Random",
    "taylor": "pruner.methods.taylor:Taylor",
    "uniform": "pruner.methods.uniform:Uniform",
    "whc": "pruner.methods.whc:Whc",
}


def _registered() -> dict[str, str]:
    return _BUILT_IN | {entry.name: entry.value for entry in entry_points(group="pruner.methods")}


def method_names() -> tuple[str, ...]:
    """Return the names that ``open_method`` knows, sorted."""
    return tuple(sorted(_registered()))


def open_method(name: str, options: Mapping[str, str] | None = None) -> Method:
    """Return a new method: a registered name, or ``package.module:Class`` for one that is not registered.

    ``options`` are for its ``Config``. Raises ``InputError`` that names the nearest known one, or what is missing.
    """
    registered = _registered()
    if name not in registered and ":" not in name:
        near = difflib.get_close_matches(name, registered, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(registered))}"
        raise InputError(f"no pruning method {name!r}{hint}")
    module, _, attribute = registered.get(name, name).partition(":")
    try:
        kind = getattr(import_module(module), attribute)
        if not options:
            method: Method = kind()
            return method
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"the pruning method {name!r} cannot be opened ({error}); give package.module:Class of a class that "
            "is constructed without arguments"
        ) from error
    if (config := getattr(kind, "Config", None)) is None:
        raise InputError(f"the method {name} has no settings; leave {', '.join(options)} out")
    made: Method = kind(configured(config, options, of=name))
    return made
