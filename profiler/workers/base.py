"""What the scheduler knows of workers: tasks go in, events come out, whoever does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from latency_model.environment import Environment
from latency_model.errors import InputError, MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config
from profiler.backends.base import Backend

__all__ = ["TIME_LIMIT_S", "Description", "Died", "Done", "Event", "Ready", "Row", "Task", "Workers", "same"]

# How long one configuration may take, its build and search included, before its worker counts as hung.
TIME_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker does next: time ``configs``, or else the networks ``models`` (ONNX), by turns."""

    run_id: str
    configs: tuple[Config, ...] = ()
    models: tuple[bytes, ...] = field(default=(), repr=False)

    def limit_s(self, time_limit_s: float) -> float:
        """Return how long the worker may be silent: a pack is built whole before its first result.

        A network counts as ten configurations, because its runs are not stopped by a clock.
        """
        return time_limit_s * max(1, 10 * len(self.models)) + max(0, len(self.configs) - 1)


@dataclass(frozen=True, slots=True)
class Description:
    """What a worker says of its back end when it has opened it."""

    environment: Environment
    precisions: tuple[str, ...]
    at_once: int
    times_ops: bool = False
    reorders: bool = False
    passes: int = 1

    @classmethod
    def of(cls, backend: Backend) -> Description:
        """Return what there is to say of ``backend``."""
        return cls(
            backend.environment,
            tuple(backend.precisions),
            backend.at_once,
            bool(getattr(backend, "times_ops", False)),
            bool(getattr(backend, "reorders", False)),
            int(getattr(backend, "passes", 1)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "environment": self.environment.to_json(),
            "precisions": list(self.precisions),
            "at_once": self.at_once,
            "times_ops": self.times_ops,
            "reorders": self.reorders,
            "passes": self.passes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Description:
        """Return the description that ``to_json`` wrote."""
        return cls(
            Environment.from_json(data["environment"]),
            tuple(data["precisions"]),
            data["at_once"],
            data["times_ops"],
            data["reorders"],
            data["passes"],
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that takes the place of a dead one has opened its back end and waits for a task."""

    worker: int


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one configuration of the worker's task."""

    worker: int
    config: Config
    outcome: Measurement | MeasurementError


@dataclass(frozen=True, slots=True)
class Done:
    """The worker has ended its task and waits for another; ``networks`` is what the task was for, if it was."""

    worker: int
    networks: tuple[Measurement, ...] | MeasurementError = ()


@dataclass(frozen=True, slots=True)
class Died:
    """The worker is gone. Another takes its place when ``Ready`` follows.

    ``reason`` completes the sentence "the worker process …". ``lost`` says that its machine or its supervisor
    went away, which is no fault of what it was timing.
    """

    worker: int
    reason: str
    lost: bool = False


Event: TypeAlias = Ready | Row | Done | Died


class Workers(Protocol):
    """One or several workers of one environment; a context manager that opens and ends them.

    ``names`` tell them apart in the journal. After ``__enter__`` every worker is ready, and the description is
    that of all of them.
    """

    names: tuple[str, ...]
    description: Description

    def submit(self, worker: int, task: Task) -> None:
        """Give a task to a worker that waits for one."""
        ...

    def renew(self) -> None:
        """Go on in fresh processes where that is possible; no worker may have a task."""
        ...

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what has happened, in order, waiting up to ``seconds`` for the first event.

        Raises ``InputError`` when a worker that died cannot be started again.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def same(names: Sequence[str], described: Sequence[Description]) -> Description:
    """Return the one description of all workers; ``InputError`` says which differs and what to do."""
    first = described[0]
    for name, other in zip(names, described, strict=True):
        if other.environment != first.environment:
            what = "; ".join(first.environment.differences(other.environment))
            raise InputError(
                f"{name} is not like {names[0]} ({what}), and a table holds one environment only; "
                "profile them one after the other, each with its own --out"
            )
    return first
