"""The caller's own process as the only worker: nothing to isolate, everything to debug."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement
from profiler.backends.base import Backend, Outcome
from profiler.workers.base import Description, Done, Event, Row, Task

__all__ = ["InProcess"]


class InProcess:
    """A back end that the caller has opened. An outcome is made when it is waited for; errors are raised."""

    names: tuple[str, ...] = ("",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outcomes: Iterator[Outcome] | None = None
        self._task: Task | None = None
        self.description = Description.of(backend)

    def submit(self, worker: int, task: Task) -> None:
        """Keep the task for the next ``wait``."""
        assert worker == 0 and self._task is None
        self._task = task

    def renew(self) -> None:
        """Do nothing: the caller's process stays."""

    def wait(self, seconds: float) -> Sequence[Event]:  # noqa: ARG002 - there is nobody to wait for
        """Time one more configuration, or all networks of the task, and return what came of it."""
        if self._task is None:
            return []
        task = self._task
        if task.models:
            self._task = None
            return [Done(0, self._networks(task))]
        if self._outcomes is None:
            self._outcomes = iter(self._backend.measure_many(task.configs, run_id=task.run_id))
        outcome = next(self._outcomes, None)
        if outcome is None:
            self._outcomes = self._task = None
            return [Done(0)]
        return [Row(0, *outcome)]

    def _networks(self, task: Task) -> tuple[Measurement, ...] | MeasurementError:
        try:
            return tuple(self._backend.time_networks(task.models, run_id=task.run_id))
        except MeasurementError as error:
            return error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the back end open: it is the caller's."""
