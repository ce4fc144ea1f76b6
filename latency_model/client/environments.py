"""The environments of a server, and which of them a user means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_model.environment import Environment
from latency_model.errors import TableError

__all__ = ["KEY", "ServedEnvironment", "choose"]

KEY = re.compile(r"[0-9a-f]{12}")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ServedEnvironment:
    """An environment and how many rows the server has of it; ``changed_at`` is in seconds since the epoch.

    ``fresh`` says whether its lookups are of the latest ``revision`` already.
    """

    key: str
    environment: Environment
    revision: int
    convs: int
    ops: int
    networks: int
    failures: int
    changed_at: float
    fresh: bool

    @property
    def text(self) -> str:
        """One line for people."""
        return self.environment.text

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServedEnvironment:
        """Return what the server says of an environment; fields that it adds later are passed over."""
        return cls(
            key=str(data["key"]),
            environment=Environment.from_json(data["environment"]),
            revision=int(data["revision"]),
            convs=int(data["convs"]),
            ops=int(data["ops"]),
            networks=int(data["networks"]),
            failures=int(data["failures"]),
            changed_at=float(data["changed_at"]),
            fresh=bool(data["fresh"]),
        )


def choose(known: Sequence[ServedEnvironment], text: str | None, *, where: str) -> ServedEnvironment:
    """Return the environment that ``text`` names: a key, a device, or words that only one of ``known`` has.

    Words may be parts of words where whole ones fit nothing: "a10" is an A10, and an A100 where there is no A10.
    None is the only environment that there is. Raises ``TableError`` that lists the candidates.
    """
    if not known:
        raise TableError(f"{where} has no tables yet; import one, or ask for configurations to be measured")
    if text is None:
        if len(known) == 1:
            return known[0]
        raise TableError(f"{where} has {_listed(known)}; choose with --environment")
    words = text.casefold().split()
    rules: tuple[Callable[[ServedEnvironment], bool], ...] = (
        lambda one: one.key == text.strip(),
        lambda one: set(words) <= set(_words(one)),
        lambda one: all(word in f"{one.key} {' '.join(_words(one))}" for word in words),
    )
    for rule in rules if words else ():
        found = [one for one in known if rule(one)]
        if len(found) == 1:
            return found[0]
        if found:
            raise TableError(f"{text!r} may be {_listed(found)} of {where}; say more, or give the key")
    raise TableError(f"{where} has no environment {text!r}; it has {_listed(known)}")


def _words(one: ServedEnvironment) -> list[str]:
    environment = one.environment
    options = " ".join(f"{name}={value}" for name, value in environment.options)
    texts = (environment.device, environment.kind, environment.runtime, environment.runtime_version, options)
    return re.findall(r"[^\s()·,]+", " ".join(texts).casefold())


def _listed(known: Sequence[ServedEnvironment]) -> str:
    shown = [f"{one.key} ({one.text})" for one in known[:_SHOWN]]
    if len(known) > _SHOWN:
        return ", ".join(shown) + f" and {len(known) - _SHOWN} more"
    return ", ".join(shown[:-1]) + (" or " if len(shown) > 1 else "") + shown[-1]
