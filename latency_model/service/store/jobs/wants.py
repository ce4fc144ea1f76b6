"""Which worker may take a job: what the job wants against what the worker offers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.shapes import PRECISIONS

__all__ = ["Offer", "Wants"]

_TEXTS = ("environment", "device", "kind", "runtime", "runtime_version")
_WORD = re.compile(r"[^\s()]+")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Wants:
    """What a worker must offer; what is empty may be anything.

    ``environment`` is the key of one environment. ``device`` holds words that must all be among those of the
    device's name, in any case: ``h100`` is an NVIDIA H100, ``a10`` no A100. ``kind`` (cpu, cuda), ``runtime`` and
    ``runtime_version`` must be equal, and each of ``options`` must be an option of the environment with that value.
    The worker must time all of ``precisions``, and with ``ops`` operators that are no convolutions.
    """

    environment: str = ""
    device: str = ""
    kind: str = ""
    runtime: str = ""
    runtime_version: str = ""
    precisions: tuple[str, ...] = ()
    ops: bool = False
    options: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def from_json(cls, data: Any) -> Wants:
        """Return what a dictionary says; ``precision`` may be one text, ``options`` is a dictionary of texts."""
        if not isinstance(data, Mapping):
            raise InputError('what a job wants is an object like {"device": "H100", "precision": "fp16"}')
        known = {*_TEXTS, "precision", "precisions", "ops", "options"}
        if unknown := set(data) - known:
            raise InputError(
                f"a job cannot want {sorted(map(str, unknown))[0]!r}; it may want {', '.join(sorted(known))}"
            )
        texts = {name: data.get(name, "") for name in _TEXTS}
        for name, value in texts.items():
            if not isinstance(value, str) or len(value) > _LONGEST:
                raise InputError(f"the {name} that a job wants is a text of at most {_LONGEST} characters")
        named = data.get("precisions", [])
        if not isinstance(named, list | tuple):
            raise InputError("the precisions that a job wants are a list of texts")
        precisions = [*([data["precision"]] if data.get("precision") else []), *named]
        for precision in precisions:
            if precision not in PRECISIONS:
                raise InputError(f"unknown precision {precision!r}; known are {', '.join(PRECISIONS)}")
        ops, options = data.get("ops", False), data.get("options", {})
        if not isinstance(ops, bool):
            raise InputError("a job wants ops true or false")
        if not isinstance(options, Mapping):
            raise InputError('the options that a job wants are an object like {"threads": "1"}')
        for name, value in options.items():
            if isinstance(value, Mapping | list) or len(f"{name}{value}") > _LONGEST:
                raise InputError(f"the option {name!r} that a job wants must be one short text or number")
        pairs = tuple(sorted((str(name), str(value)) for name, value in options.items()))
        return cls(**texts, precisions=tuple(sorted(set(precisions))), ops=ops, options=pairs)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary without what is empty; ``from_json`` reads it back."""
        data: dict[str, Any] = {name: getattr(self, name) for name in _TEXTS if getattr(self, name)}
        if self.precisions:
            data["precisions"] = list(self.precisions)
        if self.ops:
            data["ops"] = True
        if self.options:
            data["options"] = dict(self.options)
        return data

    def allows(self, environment: Environment) -> bool:
        """Whether rows of ``environment`` are what is wanted."""
        return (
            self.environment in ("", environment.key)
            and _words(self.device) <= _words(environment.device)
            and self.kind in ("", environment.kind)
            and self.runtime in ("", environment.runtime)
            and self.runtime_version in ("", environment.runtime_version)
            and set(self.options) <= set(environment.options)
        )

    def accepts(self, offer: Offer) -> bool:
        """Whether a worker with ``offer`` may take the job."""
        return (
            set(self.precisions) <= set(offer.precisions)
            and (offer.times_ops or not self.ops)
            and self.allows(offer.environment)
        )


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can do: the environment its rows belong to, and what it can time there."""

    environment: Environment
    precisions: tuple[str, ...]
    times_ops: bool = False

    @classmethod
    def from_json(cls, data: Any) -> Offer:
        """Return the offer that ``to_json`` wrote; ``InputError`` for anything else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("environment"), Mapping):
            raise InputError("an offer is an object with the worker's environment and its precisions")
        fields = data["environment"]
        options = fields.get("options", {})
        if not isinstance(options, Mapping) or not all(
            isinstance(value, str) for name, value in fields.items() if name != "options"
        ):
            raise InputError("the environment of an offer is an object of texts, its options one of texts")
        precisions, times_ops = data.get("precisions"), data.get("times_ops", False)
        if not isinstance(precisions, list) or not set(map(str, precisions)) <= set(PRECISIONS):
            raise InputError(f"the precisions of an offer are a list of {', '.join(PRECISIONS)}")
        if missing := {"device", "kind", "runtime", "runtime_version"} - set(fields):
            raise InputError(f"the environment of an offer lacks {sorted(missing)[0]!r}")
        return cls(Environment.from_json(fields), tuple(precisions), bool(times_ops))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "environment": self.environment.to_json(),
            "precisions": list(self.precisions),
            "times_ops": self.times_ops,
        }
