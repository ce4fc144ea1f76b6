"""Who measures what next: one queue, any number of workers, and a journal that only this process writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from latency_model.errors import GharialError, MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config
from profiler.drift import Watch
from profiler.journal import Journal
from profiler.work import Work
from profiler.workers.base import Died, Done, Event, Ready, Row, Task, Workers

__all__ = ["Scheduler"]

_DEATHS = 20  # so many workers in a row that end without a row: it is the device, not the configurations
_WAIT_S = 1.0

Purpose = Literal["rows", "again", "confirm", "sentinel", "networks"]


@dataclass
class _Slot:
    """What one worker is doing."""

    watch: Watch
    idle: bool = True
    purpose: Purpose = "rows"
    task: Task | None = None
    pending: dict[Config, None] = field(default_factory=dict)


@dataclass
class Scheduler:
    """Gives the workers their tasks and records what comes of them, each event before the next task.

    ``progress`` is told each configuration that is over, ``note`` sentences for the user.
    """

    workers: Workers
    journal: Journal
    run_id: str
    sentinel_seconds: float
    progress: Callable[[str], None]
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        self._slots = [_Slot(Watch(self.journal, name, self.sentinel_seconds)) for name in self.workers.names]
        self._gone: set[int] = set()
        self._deaths = 0
        self._networks: tuple[Measurement, ...] | MeasurementError = ()

    def measure(self, todo: Sequence[Config]) -> None:
        """Record a row or a failure of each of ``todo``."""
        self._run(Work(todo), "rows")

    def measure_again(self, configs: Sequence[Config]) -> None:
        """Measure rows once more, at another time; of the two the one with the narrower interval stays."""
        self._run(Work(configs), "again")

    def confirm(self, configs: Sequence[Config]) -> None:
        """Take another reading of each of ``configs`` into account, see ``profiler.readings``.

        In fresh processes where there are worker processes: where its memory lies makes a process faster or
        slower as a whole.
        """
        self._settle()
        self.workers.renew()
        self._run(Work(configs), "confirm")

    def check_drift(self) -> None:
        """Read every sentinel that has rows since its last reading."""
        self._run(Work(()), "sentinel")

    def time_networks(self, models: Sequence[bytes]) -> tuple[Measurement, ...]:
        """Return the times of ``models`` read by turns by the first worker; ``MeasurementError`` if it cannot."""
        self._settle()
        first = next((index for index, slot in enumerate(self._slots) if slot.idle), None)
        if first is None:
            raise MeasurementError("no worker is left to time it")
        self._submit(first, "networks", Task(self.run_id, models=tuple(models)))
        self._settle()
        if isinstance(self._networks, MeasurementError):
            raise self._networks
        return self._networks

    def _settle(self) -> None:
        """Wait until every worker is idle."""
        self._run(Work(()), "rows")

    def _run(self, work: Work, purpose: Purpose) -> None:
        last = purpose == "sentinel"
        while True:
            for index, slot in enumerate(self._slots):
                if slot.idle:
                    self._assign(index, slot, work, purpose, last=last)
            busy = [
                slot for index, slot in enumerate(self._slots) if index not in self._gone and not slot.idle
            ]
            if not busy and not work:
                return
            self._handle(self.workers.wait(_WAIT_S), work)

    def _assign(self, index: int, slot: _Slot, work: Work, purpose: Purpose, *, last: bool) -> None:
        sentinel = slot.watch.sentinel
        if sentinel is not None and (slot.watch.readings or slot.watch.due(last=last)):
            self._submit(index, "sentinel", Task(self.run_id, (sentinel,)))
        elif work:
            # What becomes the sentinel is measured alone, as the sentinel will be.
            at_once = 1 if sentinel is None else self.workers.description.at_once
            workers = len(self._slots) - len(self._gone)
            self._submit(index, purpose, Task(self.run_id, work.take(at_once, workers=workers)))

    def _submit(self, index: int, purpose: Purpose, task: Task) -> None:
        slot = self._slots[index]
        slot.idle, slot.purpose, slot.task = False, purpose, task
        slot.pending = dict.fromkeys(task.configs)
        self.workers.submit(index, task)

    def _handle(self, events: Sequence[Event], work: Work) -> None:
        """Record ``events``: rows that arrived together wait for the disk together."""
        rows: dict[int, list[tuple[Config, Measurement]]] = {}
        for event in events:
            if isinstance(event, Row) and isinstance(event.outcome, Measurement):
                slot = self._slots[event.worker]
                slot.pending.pop(event.config, None)
                self._deaths = 0
                if slot.purpose == "sentinel":
                    self._sentinel(slot, event.outcome)
                elif slot.purpose != "again" or self._narrower(event.config, event.outcome):
                    rows.setdefault(event.worker, []).append((event.config, event.outcome))
                continue
            self._record(rows)
            if isinstance(event, Ready):
                self._gone.discard(event.worker)
                self._slots[event.worker].idle = self._slots[event.worker].task is None
            elif isinstance(event, Row):
                assert isinstance(event.outcome, MeasurementError)
                self._failed(event.worker, event.config, event.outcome, work)
            elif isinstance(event, Done):
                self._done(event, work)
            else:
                self._died(event, work)
        self._record(rows)

    def _record(self, rows: dict[int, list[tuple[Config, Measurement]]]) -> None:
        for index, pairs in rows.items():
            slot = self._slots[index]
            self.journal.add_rows(pairs, worker=slot.watch.worker, again=slot.purpose == "confirm")
            for config, row in pairs:
                slot.watch.saw(config, row)
                if slot.purpose != "again":
                    self.progress(config.text)
        rows.clear()

    def _narrower(self, config: Config, row: Measurement) -> bool:
        before = self.journal.contents.rows[config]
        return _width(row) < _width(before)

    def _sentinel(self, slot: _Slot, outcome: Measurement | MeasurementError | str) -> None:
        _, sentence = slot.watch.read(outcome)
        if sentence:
            self.note(sentence)

    def _failed(self, index: int, config: Config, error: MeasurementError, work: Work) -> None:
        slot = self._slots[index]
        slot.pending.pop(config, None)
        if slot.purpose == "sentinel":
            self._sentinel(slot, error)
        elif slot.purpose == "rows" and work.failed(config):
            self._give_up(index, config, str(error))

    def _give_up(self, index: int, config: Config, reason: str) -> None:
        self.journal.add_failure(config, reason, worker=self._slots[index].watch.worker)
        self.progress(config.text)

    def _done(self, event: Done, work: Work) -> None:
        slot = self._slots[event.worker]
        if slot.purpose == "networks":
            self._networks = event.networks
        silent = MeasurementError(
            "the back end gave neither a row nor a reason; this is a bug of the back end"
        )
        for config in list(slot.pending):
            self._failed(event.worker, config, silent, work)
        slot.idle, slot.task = True, None

    def _died(self, event: Died, work: Work) -> None:
        slot = self._slots[event.worker]
        task, pending = slot.task, list(slot.pending)
        slot.task, slot.pending, slot.idle = None, {}, False
        if event.lost:
            self._gone.add(event.worker)
            self.note(f"the worker {slot.watch.worker} was lost: it {event.reason}")
        if task is None:
            return
        self._deaths += not event.lost
        what = f"the worker process {event.reason} while timing"
        if slot.purpose == "networks":
            self._networks = MeasurementError(f"{what} it")
        elif slot.purpose == "sentinel":
            self._sentinel(slot, f"{what} it")
        elif slot.purpose == "rows":
            for config in work.died(task.configs, pending, lost=event.lost):
                self._give_up(event.worker, config, f"{what} it alone, and it was tried before")
        if self._deaths >= _DEATHS:
            raise GharialError(
                f"{self._deaths} workers in a row died without measuring anything (the last one "
                f"{event.reason}), so the device itself must be at fault; see to it, and run the same "
                "command again: it goes on where this run stopped"
            )


def _width(row: Measurement) -> float:
    """Return the width of the interval of the median, relative to it."""
    return (row.high_us - row.low_us) / row.latency_us
