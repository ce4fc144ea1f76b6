"""What a latency belongs to: device, runtime and every version that can change a number."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_model.errors import InputError

__all__ = ["Environment"]


@dataclass(frozen=True, slots=True, order=True)
class Environment:
    """Identity of a measuring set-up; two latencies may be compared only inside one environment.

    ``options`` holds every runtime setting that changes a latency (threads, graph optimisation level,
    algorithm search), as sorted (name, value) pairs. Empty strings mean "does not apply".
    """

    device: str
    kind: str
    runtime: str
    runtime_version: str
    driver: str = ""
    cuda: str = ""
    cudnn: str = ""
    options: tuple[tuple[str, str], ...] = field(default=())
    clock_policy: str = "unlocked"

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(sorted((str(k), str(v)) for k, v in self.options)))
        if not self.device or not self.runtime:
            raise InputError("an environment needs the names of a device and a runtime")

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that identify this environment."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def text(self) -> str:
        """One line for people."""
        options = ", ".join(f"{name}={value}" for name, value in self.options)
        return f"{self.device} · {self.runtime} {self.runtime_version}" + (f" · {options}" if options else "")

    def __str__(self) -> str:
        return self.text

    def differences(self, other: Environment) -> list[str]:
        """Return one 'field: ours, theirs' phrase for each field in which the two differ."""
        ours, theirs = self.to_json(), other.to_json()
        return [
            f"{name}: {ours[name]!r} against {theirs[name]!r}" for name in ours if ours[name] != theirs[name]
        ]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        data = dataclasses.asdict(self)
        data["options"] = dict(self.options)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Environment:
        """Return the environment that ``to_json`` wrote; unknown fields are an error."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(data) - known:
            raise InputError(
                f"an environment has no field {sorted(unknown)[0]!r}; was it written by a later version?"
            )
        return cls(**{**data, "options": tuple(dict(data.get("options", {})).items())})
