"""Measures what a table lacks, survives being killed at any moment, and writes the table at the end."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from latency_model.environment import Environment
from latency_model.errors import MeasurementError, TableError
from latency_model.measurement import Measurement, NetworkRow
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from profiler.backends.base import Backend
from profiler.journal import Journal, journal_path

__all__ = ["Network", "missing", "profile"]

# A network to time: its name, its ONNX model, and the convolutions that it runs.
Network = tuple[str, bytes, tuple[ConvShape, ...]]

DRIFT = 0.05
DRIFT_US = 0.3  # smaller moves are within what the median of a tiny shape does anyway


def profile(
    backend: Backend,
    shapes: Iterable[ConvShape],
    *,
    out: Path | str,
    networks: Sequence[Network] = (),
    progress: Callable[[int, int, str], None] | None = None,
    note: Callable[[str], None] | None = None,
    retry_failed: bool = False,
    sentinel_seconds: float = 60.0,
) -> LatencyTable:
    """Measure those of ``shapes`` and ``networks`` that the table ``out`` lacks; write it and return it.

    Every finished row is in a journal beside ``out`` before the next is begun, so the same call goes on
    where a killed one stopped. At the end, and at Ctrl-C, the journal becomes part of the table.
    A configuration that fails twice is recorded as failed and not tried again without ``retry_failed``.
    Every ``sentinel_seconds`` one configuration is measured again; when it is more than 5 % off its first
    value, the rows since the last such check get the flag ``drift``.

    ``progress`` is called with (done, total, what was measured), ``note`` with sentences for the user.
    Raises ``TableError`` when ``out`` or its journal belongs to another environment.
    """
    out = Path(out)
    environment = backend.environment
    before = _load(out, environment)
    with Journal(journal_path(out), environment) as journal:
        wanted = list(dict.fromkeys(shapes))
        done = before.merge(journal.contents.table())
        todo = [s for s in wanted if s not in done and (retry_failed or s not in done.failures)]
        timed = {(network.name, network.shapes) for network in done.networks}
        # In random order, slow drift of the machine does not look like a slope over the channel counts.
        random.Random(0).shuffle(todo)
        try:
            run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
            run = _Run(backend, journal, run_id, note, progress)
            run.measure(_sentinel_first(todo), len(wanted) - len(todo), sentinel_seconds)
            run.time_networks([n for n in networks if (n[0], n[2]) not in timed])
        finally:
            # Also at Ctrl-C. A second interrupt here loses nothing: the journal goes after the table is safe.
            table = before.merge(journal.reread().table())
            table.save(out)
            journal.delete()
    return table


def missing(
    shapes: Iterable[ConvShape], *, out: Path | str, environment: Environment
) -> tuple[ConvShape, ...]:
    """Return those of ``shapes`` that neither the table ``out`` nor its journal has, failures excluded."""
    out = Path(out)
    done = _load(out, environment)
    if journal_path(out).is_file():
        with Journal(journal_path(out), environment) as journal:
            done = done.merge(journal.contents.table())
    return tuple(shape for shape in shapes if shape not in done and shape not in done.failures)


def _load(out: Path, environment: Environment) -> LatencyTable:
    if not out.exists():
        return LatencyTable(environment)
    table = LatencyTable.load(out)
    if table.environment != environment:
        raise TableError(
            f"{out} was measured in another environment "
            f"({'; '.join(table.environment.differences(environment))}); give another --out"
        )
    return table


def _sentinel_first(todo: list[ConvShape]) -> list[ConvShape]:
    """Return ``todo`` with a shape of middling work first: it becomes the sentinel."""
    if not todo:
        return []
    middle = sorted(todo, key=lambda shape: shape.macs)[len(todo) // 2]
    return [middle, *(shape for shape in todo if shape != middle)]


@dataclass(frozen=True)
class _Run:
    backend: Backend
    journal: Journal
    run_id: str
    note: Callable[[str], None] | None
    progress: Callable[[int, int, str], None] | None

    def tell(self, sentence: str) -> None:
        if self.note is not None:
            self.note(sentence)

    def report(self, done: int, total: int, what: str) -> None:
        if self.progress is not None:
            self.progress(done, total, what)

    def measure(self, todo: Sequence[ConvShape], skipped: int, sentinel_seconds: float) -> None:
        total = skipped + len(todo)
        self.report(skipped, total, "")
        checked = time.monotonic()
        for done, shape in enumerate(todo, start=skipped + 1):
            try:
                row = self._twice(shape)
            except MeasurementError as error:
                self.journal.add_failure(shape, str(error))
            else:
                self.journal.add_row(shape, row)
                if self.journal.contents.sentinel is None:
                    # The first row doubles as the first sentinel, so that a short run costs nothing more.
                    self.journal.add_sentinel(shape, row.latency_us, drift=False)
            self.report(done, total, shape.text)
            if time.monotonic() - checked >= sentinel_seconds:
                self._check_sentinel()
                checked = time.monotonic()
        if todo:
            self._check_sentinel()

    def _twice(self, shape: ConvShape) -> Measurement:
        try:
            return self.backend.measure(shape, run_id=self.run_id)
        except MeasurementError:
            return self.backend.measure(shape, run_id=self.run_id)

    def _check_sentinel(self) -> None:
        if self.journal.contents.sentinel is None or not self.journal.contents.open_segment:
            return
        shape, first_us = self.journal.contents.sentinel
        try:
            # A moment's disturbance of the sentinel is not drift: it must be off twice.
            now_us = min(
                (self.backend.measure(shape, run_id=self.run_id).latency_us for _ in range(2)),
                key=lambda latency_us: abs(latency_us - first_us),
            )
        except MeasurementError as error:
            self.tell(f"the sentinel {shape} could not be measured again: {error}")
            return
        drift = abs(now_us - first_us) > max(DRIFT * first_us, DRIFT_US)
        rows = len(self.journal.contents.open_segment)
        self.journal.add_sentinel(shape, now_us, drift=drift)
        if drift:
            self.tell(
                f"the device drifted: {shape} took {first_us:.1f} us at first and {now_us:.1f} us now; "
                f"{rows} rows are flagged 'drift'"
            )

    def time_networks(self, networks: Sequence[Network]) -> None:
        if not networks:
            return
        try:
            rows = self.backend.time_networks([model for _, model, _ in networks], run_id=self.run_id)
        except MeasurementError as error:
            if len(networks) == 1:
                self.tell(f"the network {networks[0][0]} was not timed: {error}")
            else:
                for network in networks:
                    self.time_networks([network])
            return
        for (name, _, shapes), row in zip(networks, rows, strict=True):
            self.journal.add_network(NetworkRow(name, shapes, row))
