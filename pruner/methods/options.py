"""Settings of a method as people type them, ``NAME=VALUE``, made into its configuration."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from latency_model.errors import InputError

__all__ = ["configured", "described", "parse_options"]

Config = TypeVar("Config")
_TRUE, _FALSE = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def parse_options(texts: typing.Sequence[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a mapping; ``InputError`` for another form and for a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise InputError(f"not a setting: {text!r}; write it like floor=0.25")
        if name in found:
            raise InputError(f"the setting {name} is given twice; keep one")
        found[name] = value.strip()
    return found


def configured(kind: type[Config], options: Mapping[str, str], *, of: str) -> Config:
    """Return the dataclass ``kind`` with ``options`` read as the types of its fields.

    Numbers, words, yes or no, and lists with commas. Raises ``InputError`` that names the nearest setting of the
    method ``of``, or says what a value must be; what the class itself refuses it says itself.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names) or 'none'}"
            raise InputError(f"the method {of} has no setting {name!r}{hint}")
        values[name] = _read(text, hints[name], f"{name} of {of}")
    return kind(**values)


def described(config: object) -> dict[str, Any]:
    """Return the settings of a configuration and their values, ready for JSON."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()  # type: ignore[call-overload]
    }


def _read(text: str, kind: Any, what: str) -> Any:
    if isinstance(kind, types.UnionType):
        if text.lower() in ("none", ""):
            return None
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_read(part.strip(), inner, what) for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() not in (*_TRUE, *_FALSE):
            raise InputError(f"{what} is yes or no, not {text!r}")
        return text.lower() in _TRUE
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"{what} is a number, not {text!r}") from error
