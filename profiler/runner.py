"""Measures what a table lacks, survives being killed at any moment, and writes the table at the end."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.ops import Config
from latency_model.table import LatencyTable
from profiler.backends.base import Backend
from profiler.drift import middling_first
from profiler.journal import Contents, Journal, journal_path
from profiler.network_times import Network, read_networks, time_networks
from profiler.readings import settled
from profiler.scheduler import Scheduler
from profiler.spec import BackendSpec
from profiler.workers import Workers, open_workers
from profiler.workers.inprocess import InProcess

__all__ = ["Network", "missing", "profile"]

_MORE_READINGS = 2


def profile(
    backend: Backend | BackendSpec | Workers,
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

    A ``BackendSpec`` is opened in a worker process, so that a crash or a hang costs one configuration;
    ``open_workers`` gives several of them; a back end that is open already is used in this process.

    Every finished row is in a journal beside ``out`` as soon as it is known, so the same call goes on
    where a killed one stopped. At the end, and at Ctrl-C, the journal becomes part of the table.
    A configuration that fails twice is recorded as failed and not tried again without ``retry_failed``.
    Every ``sentinel_seconds`` each worker measures one configuration again; when it is more than 5 % off its
    first value, the worker's rows since the last such check get the flag ``drift``.

    A back end with several ``passes`` (a CPU, which other programs disturb) measures every row that often, all
    rows once before any a second time, and up to twice more the rows whose two fastest readings disagree;
    ``profiler.readings`` makes one row of them. With one pass, rows that stayed unstable are measured once
    more at the end.

    ``progress`` is called with (done, total, what was measured), ``note`` with sentences for the user.
    Raises ``TableError`` when ``out`` or its journal belongs to another environment, ``InputError`` when the
    back end cannot be opened, and ``GharialError`` when the device is lost.
    """
    if isinstance(backend, BackendSpec):
        with open_workers([backend]) as opened:
            return profile(
                opened,
                shapes,
                out=out,
                networks=networks,
                progress=progress,
                note=note,
                retry_failed=retry_failed,
                sentinel_seconds=sentinel_seconds,
            )
    workers: Workers = InProcess(backend) if isinstance(backend, Backend) else backend
    out, environment = Path(out), workers.description.environment
    before = _load(out, environment)
    with Journal(journal_path(out), environment) as journal:
        wanted = list(dict.fromkeys(shapes))
        todo = _todo(wanted, before, journal.contents, retry_failed=retry_failed)
        # In random order, slow drift of the machine does not look like a slope over the channel counts.
        random.Random(0).shuffle(todo)
        timed = {(n.name, n.shapes) for n in (*before.networks, *journal.contents.networks)}
        untimed = [network for network in networks if (network[0], network[2]) not in timed]
        scheduler = Scheduler(
            workers=workers,
            journal=journal,
            run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            sentinel_seconds=sentinel_seconds,
            progress=_counter(progress, len(wanted) - len(todo), len(wanted)),
            note=note or (lambda _: None),
        )
        try:
            earlier = read_networks(scheduler, untimed, tell=False)
            scheduler.measure(middling_first(todo, len(workers.names)))
            if workers.description.passes > 1:
                _confirm(scheduler, progress, workers.description.passes)
            else:
                rows = journal.contents.rows
                scheduler.measure_again([c for c in todo if c in rows and "unstable" in rows[c].flags])
            if todo:
                scheduler.check_drift()
            time_networks(scheduler, untimed, earlier)
        finally:
            # Also at Ctrl-C. A second interrupt here loses nothing: the journal goes after the table is safe.
            table = before.merge(journal.reread().table())
            table.save(out)
            journal.delete()
    return table


def _confirm(scheduler: Scheduler, progress: Callable[[int, int, str], None] | None, passes: int) -> None:
    """Read the rows of the journal again until their readings agree."""
    contents = scheduler.journal.contents
    for number in range(2, passes + _MORE_READINGS + 1):
        pending = [
            config
            for config, row in contents.rows.items()
            if len(contents.readings.get(config, [row])) < number
            and (number <= passes or not settled(contents.readings.get(config, [row])))
        ]
        if not pending:
            continue
        # What is read a second time is as far from its first reading as the run allows.
        random.Random(number).shuffle(pending)
        scheduler.progress = _counter(progress, 0, len(pending))
        scheduler.confirm(pending)


def missing(shapes: Iterable[Config], *, out: Path | str, environment: Environment) -> tuple[Config, ...]:
    """Return those of ``shapes`` that neither the table ``out`` nor its journal has, failures excluded."""
    out = Path(out)
    before = _load(out, environment)
    if not journal_path(out).is_file():
        return tuple(_todo(shapes, before, Contents(environment), retry_failed=False))
    with Journal(journal_path(out), environment) as journal:
        return tuple(_todo(shapes, before, journal.contents, retry_failed=False))


def _todo(
    wanted: Iterable[Config], before: LatencyTable, now: Contents, *, retry_failed: bool
) -> list[Config]:
    """Return what neither the table nor the journal has."""
    return [
        config
        for config in wanted
        if config not in now.rows
        and before.measured(config) is None
        and (retry_failed or (config not in now.failures and config not in before.failures))
    ]


def _counter(
    progress: Callable[[int, int, str], None] | None, done: int, total: int
) -> Callable[[str], None]:
    """Return what counts finished configurations and tells ``progress`` of each, the start included."""
    count = done - 1

    def step(what: str) -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, total, what)

    step("")
    return step


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
