"""What the server answers from: for each environment its lookups in memory, its model when one was asked for.

A thread asks the database every second which revisions there are, so that what another process imported shows up, and
builds the lookups of those that changed. Until they are built, what the older ones hold is answered from them, and the
rest from the database, row by row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from latency_model.errors import GharialError
from latency_model.ops import Config, OpShape
from latency_model.service.api.problems import Busy, UnknownEnvironment
from latency_model.service.prepared import Latency, Lookups, build_lookups, load_lookups, model_of, table_file
from latency_model.service.store.database import Database
from latency_model.service.store.records import key_of
from latency_model.service.store.rows import EnvironmentInfo, environments
from latency_model.service.store.schema import rows

if TYPE_CHECKING:
    from latency_model.model import LatencyModel

__all__ = ["Catalog", "Fitted", "Served"]

_log = logging.getLogger("gharial.service")
# Building again takes at most this part of the time when rows keep coming.
_REST = 4.0


@dataclass(frozen=True, eq=False)
class Served:
    """One environment as it is answered for: what the database has, and the lookups, of this revision or an older."""

    info: EnvironmentInfo
    lookups: Lookups | None

    @property
    def fresh(self) -> bool:
        """Whether the lookups are of the database's revision."""
        return self.lookups is not None and _moment(self.lookups.info) == _moment(self.info)

    def find(self, config: Config) -> Latency | None:
        """Return (latency, low, high) in microseconds as the lookups have it, None where they lack it."""
        if self.lookups is None:
            return None
        if isinstance(config, OpShape):
            return self.lookups.ops.get(config.text)
        row = self.lookups.convs.get(config)
        return None if row is None else (row.latency_us, row.low_us, row.high_us)


@dataclass(frozen=True, eq=False)
class Fitted:
    """The model of one revision, and the layout that most of its rows have."""

    info: EnvironmentInfo
    model: LatencyModel
    layout: str


@dataclass
class Catalog:
    """The environments of ``database``; files are kept in ``folder``. Threads may share one."""

    database: Database
    folder: Path
    poll_s: float = 1.0
    _served: Mapping[str, Served] = field(default_factory=dict, init=False)
    _models: dict[str, Fitted] = field(default_factory=dict, init=False)
    _making: dict[str, Future[Fitted]] = field(default_factory=dict, init=False)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="gharial-fit"), init=False
    )
    _locks: dict[str, threading.Lock] = field(default_factory=dict, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _refreshing: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _not_before: dict[str, float] = field(default_factory=dict, init=False)
    polled_at: float = field(default=0.0, init=False)
    """When the database last answered, ``time.monotonic``."""

    def start(self) -> None:
        """Map what was built before, and keep up with the database from now on."""
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="gharial-catalog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it builds is finished first."""
        self._stop.set()
        self._wake.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Ask the database which environments there are, and map the lookups that exist; quick."""
        with self._refreshing:
            found = {}
            for info in environments(self.database):
                known = self._served.get(info.key)
                lookups = None if known is None else known.lookups
                if lookups is None or _moment(lookups.info) != _moment(info):
                    lookups = load_lookups(self.folder, info) or lookups
                found[info.key] = Served(info, lookups)
            self._served = found
            self.polled_at = time.monotonic()

    def wake(self) -> None:
        """Let the thread look now: rows were just stored."""
        self._wake.set()

    @property
    def served(self) -> Mapping[str, Served]:
        """The environments by their keys, in the order in which they came."""
        return self._served

    def of(self, key: str) -> Served:
        """Return an environment; ``UnknownEnvironment`` when there is none of this key."""
        found = self._served.get(key)
        if found is None:
            raise UnknownEnvironment(
                f"there is no environment {key[:40]!r}; GET /v1/environments lists those that there are"
            )
        return found

    def ask(self, served: Served, config: Config) -> Latency | None:
        """Return the latency of one row from the database, None when it has no such row."""
        kind = "op" if isinstance(config, OpShape) else "conv"
        query = select(rows.c.latency_us, rows.c.low_us, rows.c.high_us).where(
            rows.c.environment_id == served.info.id, rows.c.kind == kind, rows.c.key == key_of(config.text)
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row[0], row[1], row[2])

    def model(self, key: str, *, wait_s: float = 60.0) -> Fitted:
        """Return the model of an environment; fitted, or loaded, at the first use of each revision.

        Raises ``Busy`` when that takes longer than ``wait_s``: it goes on, and is there for who asks again.
        """
        known = self._models.get(key)
        if known is not None and _moment(known.info) == _moment(self.of(key).info):
            return known
        with self._guard:
            making = self._making.get(key)
            if making is None:
                making = self._making[key] = self._pool.submit(self._fit, key)
        try:
            return making.result(wait_s)
        except TimeoutError as error:
            raise Busy(
                "the model of this environment is being fitted, which takes a while for many rows; ask again",
                headers={"Retry-After": "5"},
            ) from error

    def _fit(self, key: str) -> Fitted:
        try:
            info = self.of(key).info
            model = model_of(self.database, self.folder, info)
            layout = Counter(shape.layout for shape in model.table).most_common(1)[0][0]
            found = self._models[key] = Fitted(info, model, layout)
            return found
        finally:
            with self._guard:
                self._making.pop(key, None)

    def has_model(self, key: str) -> bool:
        """Whether ``model`` would answer at once."""
        known = self._models.get(key)
        return known is not None and _moment(known.info) == _moment(self.of(key).info)

    def table_file(self, key: str) -> Path:
        """Return the file of an environment's whole table, made at the first use of each revision."""
        with self._lock("table " + key):
            return table_file(self.database, self.folder, self.of(key).info)

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._build()
            except Exception:
                _log.exception("could not build lookups")
            self._wake.wait(self.poll_s)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.refresh()
            except (
                Exception
            ):  # the database may be away for a while; what is mapped is answered from meanwhile
                _log.exception("could not ask the database for its environments")

    def _build(self) -> None:
        for key, served in self._served.items():
            if served.fresh or self._stop.is_set() or time.monotonic() < self._not_before.get(key, 0.0):
                continue
            start = time.monotonic()
            try:
                lookups = build_lookups(self.database, self.folder, key)
            except GharialError as error:
                _log.error("could not build the lookups of %s: %s", key, error)
                self._not_before[key] = time.monotonic() + 60.0
                continue
            took = time.monotonic() - start
            self._not_before[key] = time.monotonic() + _REST * took
            with self._refreshing:
                now = self._served.get(key, served)
                newest = max((now.info, lookups.info), key=lambda info: info.revision)
                self._served = {**self._served, key: Served(newest, lookups)}
            _log.info("built the lookups of %s, revision %d, in %.1f s", key, lookups.info.revision, took)


def _moment(info: EnvironmentInfo) -> tuple[int, float]:
    return info.revision, info.changed_at
