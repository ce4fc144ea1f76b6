"""What opens a back end in another process: names and plain values, no objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError

if TYPE_CHECKING:
    from profiler.backends.base import Backend

__all__ = ["BackendSpec", "device_specs"]


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A back end by name: what ``open_backend`` needs to make it, here or in a worker process.

    ``options`` are the keyword arguments of the back end's class, as sorted (name, value) pairs; the values
    must be what JSON can hold. ``to_json`` and ``from_json`` are inverse.

    >>> BackendSpec("fake", options={"seed": 3}).open().environment.device
    'fake device'
    """

    runtime: str
    device: str = "cpu"
    threads: int = 1
    options: tuple[tuple[str, Any], ...] | Mapping[str, Any] = field(default=())

    def __post_init__(self) -> None:
        try:
            options = json.loads(json.dumps(dict(self.options), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the options of the back end {self.runtime} must be plain values, numbers or text: {error}"
            ) from error
        object.__setattr__(
            self, "options", tuple(sorted((name, _frozen(value)) for name, value in options.items()))
        )

    def open(self) -> Backend:
        """Return the back end; use it as a context manager. Raises what ``open_backend`` raises."""
        from profiler.backends import open_backend

        return open_backend(
            self.runtime, device=self.device, precision=None, threads=self.threads, **dict(self.options)
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "runtime": self.runtime,
            "device": self.device,
            "threads": self.threads,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BackendSpec:
        """Return the specification that ``to_json`` wrote; unknown fields are an error."""
        if unknown := set(data) - {"runtime", "device", "threads", "options"}:
            raise InputError(f"a back end specification has no field {sorted(unknown)[0]!r}")
        return cls(**data)


def device_specs(
    runtime: str, devices: list[str], *, threads: int = 1, options: Mapping[str, Any] | None = None
) -> list[BackendSpec]:
    """Return one specification for each of ``devices``; ``cuda:all`` stands for every visible GPU.

    Raises ``InputError`` when a device is given twice or ``cuda:all`` finds none.
    """
    named = [name for device in devices for name in (_all_gpus() if device == "cuda:all" else [device])]
    for name in named:
        if named.count(name) > 1:
            raise InputError(f"the device {name} is given twice; name each --device once")
    return [BackendSpec(runtime, name, threads, tuple((options or {}).items())) for name in named]


def _all_gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise InputError(
            "cuda:all finds no GPU that this process can use; see what nvidia-smi lists and what "
            "CUDA_VISIBLE_DEVICES hides, or use --device cpu"
        )
    return [f"cuda:{index}" for index in range(count)]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
