"""Measures what a table lacks, survives being killed at any moment, and writes the table at the end."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from latency_model.environment import Environment
from latency_model.errors import MeasurementError, TableError
from latency_model.measurement import Measurement, NetworkRow
from latency_model.ops import Config
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from profiler.backends.base import Backend
from profiler.journal import Journal, journal_path, with_flag

__all__ = ["Network", "missing", "profile"]

# A network to time: its name, its ONNX model, and the convolutions and other operators that it runs.
Network = tuple[str, bytes, tuple[Config, ...]]

DRIFT = 0.05
_AGREE, _READINGS, _PAUSE_S = 0.02, 4, 1.0  # when two readings of a network settle it
DRIFT_US = 0.3  # smaller moves are within what the median of a tiny shape does anyway


def profile(
    backend: Backend,
    shapes: Iterable[Config],
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
        todo = [c for c in wanted if done.measured(c) is None and (retry_failed or c not in done.failures)]
        timed = {(network.name, network.shapes) for network in done.networks}
        # In random order, slow drift of the machine does not look like a slope over the channel counts.
        random.Random(0).shuffle(todo)
        try:
            run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
            run = _Run(backend, journal, run_id, note, progress)
            untimed = [n for n in networks if (n[0], n[2]) not in timed]
            earlier = run.read_networks(untimed, tell=False)
            run.measure(_sentinel_first(todo), len(wanted) - len(todo), sentinel_seconds)
            run.time_networks(untimed, earlier)
        finally:
            # Also at Ctrl-C. A second interrupt here loses nothing: the journal goes after the table is safe.
            table = before.merge(journal.reread().table())
            table.save(out)
            journal.delete()
    return table


def missing(shapes: Iterable[Config], *, out: Path | str, environment: Environment) -> tuple[Config, ...]:
    """Return those of ``shapes`` that neither the table ``out`` nor its journal has, failures excluded."""
    out = Path(out)
    done = _load(out, environment)
    if journal_path(out).is_file():
        with Journal(journal_path(out), environment) as journal:
            done = done.merge(journal.contents.table())
    return tuple(c for c in shapes if done.measured(c) is None and c not in done.failures)


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


def _sentinel_first(todo: list[Config]) -> list[Config]:
    """Return ``todo`` with a shape of middling work first: it becomes the sentinel."""
    if not todo:
        return []
    work = {config: config.macs for config in todo if isinstance(config, ConvShape)}
    if not work:
        return todo
    middle = sorted(work, key=lambda shape: shape.macs)[len(work) // 2]
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

    def measure(self, todo: Sequence[Config], skipped: int, sentinel_seconds: float) -> None:
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
        self._measure_unstable_again(todo)
        if todo:
            self._check_sentinel()

    def _measure_unstable_again(self, shapes: Sequence[Config]) -> None:
        """Give each row that stayed unstable one more try, at another time; the narrower interval stays."""
        rows = self.journal.contents.rows
        for shape in [s for s in shapes if s in rows and "unstable" in rows[s].flags]:
            try:
                row = self.backend.measure(shape, run_id=self.run_id)
            except MeasurementError:
                continue
            if _width(row) < _width(rows[shape]):
                self.journal.add_row(shape, row)

    def _twice(self, shape: Config) -> Measurement:
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

    def read_networks(self, networks: Sequence[Network], *, tell: bool = True) -> dict[str, Measurement]:
        """Time ``networks`` once, by turns; one that cannot be timed is left out, and said when ``tell``."""
        if not networks:
            return {}
        try:
            rows = self.backend.time_networks([model for _, model, _ in networks], run_id=self.run_id)
        except MeasurementError as error:
            if len(networks) == 1:
                if tell:
                    self.tell(f"the network {networks[0][0]} was not timed: {error}")
                return {}
            return {k: row for one in networks for k, row in self.read_networks([one], tell=tell).items()}
        return {_key(network): row for network, row in zip(networks, rows, strict=True)}

    def time_networks(self, networks: Sequence[Network], earlier: Mapping[str, Measurement]) -> None:
        """Time ``networks`` again, keep the fastest reading, and read on while the two fastest disagree.

        What else the machine does makes a network slower, for seconds at a time and with narrow intervals, and
        never faster. So readings from before and after the convolutions must agree, or be settled by others.
        """
        readings = {key: [row] for key, row in earlier.items()}
        pending = list(networks)
        for attempt in range(_READINGS):
            if attempt and pending:
                time.sleep(_PAUSE_S)
            for key, row in self.read_networks(pending, tell=attempt == 0).items():
                readings.setdefault(key, []).append(row)
            pending = [n for n in pending if _key(n) in readings and not _settled(readings[_key(n)], _AGREE)]
            if not pending:
                break
        for network in networks:
            name, _, shapes = network
            if rows := readings.get(_key(network)):
                best = min(rows, key=lambda row: row.latency_us)
                if not _settled(rows, DRIFT):
                    best = with_flag(best, "unstable")
                self.journal.add_network(NetworkRow(name, shapes, best))


def _width(row: Measurement) -> float:
    """Return the width of the interval of the median, relative to it."""
    return (row.high_us - row.low_us) / row.latency_us


def _key(network: Network) -> str:
    name, _, shapes = network
    return "\n".join((name, *(shape.text for shape in shapes)))


def _settled(rows: Sequence[Measurement], tolerance: float) -> bool:
    """Whether the two fastest of several readings agree."""
    if len(rows) < 2:
        return False
    first, second = sorted(row.latency_us for row in rows)[:2]
    return second <= first * (1 + tolerance)
