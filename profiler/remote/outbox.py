"""What a worker has measured and its server has not acknowledged: files that outlive both of them.

A part is the rows of one stretch of measuring: ``00000007.parquet``, while it is measured the journal beside it
(``profiler.journal``), and ``00000007.json``, which says for which lease. It goes when the server has said that it
has the rows; to send it twice does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.files import write_json
from latency_model.table import LatencyTable
from profiler.journal import Journal, journal_path

__all__ = ["Outbox", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that were measured under ``lease``: the table at ``table``, which there is not before it is finished."""

    table: Path
    lease: str

    @property
    def about(self) -> Path:
        """Where it says for which lease the part is."""
        return self.table.with_suffix(".json")

    def remove(self) -> None:
        """Delete the part. The file that makes it one goes last: who is stopped in between sends nothing new."""
        self.table.unlink(missing_ok=True)
        journal_path(self.table).unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Keep a part that the server refuses out of the way, and return where its rows are now."""
        aside = self.table.with_name(f"refused-{self.table.name}")
        if self.table.exists():
            self.table.replace(aside)
        self.remove()
        return aside


class Outbox:
    """The parts in ``folder``, in the order in which they were begun; a context manager, one process at a time."""

    def __init__(self, folder: Path, *, tell: Callable[[str], None]) -> None:
        self.folder, self._tell = Path(folder), tell
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("ab")
        except OSError as error:
            raise InputError(
                f"cannot use {self.folder} for rows that are not yet sent: {error.strerror or error}; choose "
                "another with --outbox"
            ) from error
        try:
            import fcntl

            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not POSIX: two workers with one folder are then the user's to avoid
            pass
        except OSError as error:
            self._lock.close()
            raise InputError(
                f"another worker uses {self.folder}; end it, or give this one a folder with --outbox"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def begin(self, lease: str) -> Part:
        """Return a new part for rows of ``lease``; it is on the disk before there is a row."""
        last = max((int(path.stem) for path in self.folder.glob("[0-9]*.json")), default=0)
        part = Part(self.folder / f"{last + 1:08d}.parquet", lease)
        write_json(part.about, {"lease": lease})
        return part

    def parts(self) -> list[Part]:
        """Return all parts, finished or not, in the order in which they were begun."""
        found = []
        for about in sorted(self.folder.glob("[0-9]*.json")):
            lease = json.loads(about.read_text(encoding="utf-8"))["lease"]
            found.append(Part(about.with_suffix(".parquet"), lease))
        return found

    def recover(self) -> None:
        """Make finished parts of what a killed worker was measuring; call it before the first part is begun."""
        for part in self.parts():
            journal = journal_path(part.table)
            if not journal.is_file():
                continue
            try:
                _finish(journal, part.table)
            except InputError as error:
                aside = journal.with_name(f"damaged-{journal.name}")
                journal.replace(aside)
                self._tell(f"rows of an earlier worker cannot be read: {error} (the file is now {aside})")


def _finish(journal: Path, table: Path) -> None:
    with journal.open("rb") as stream:
        first = stream.readline()
    if not first.endswith(b"\n"):  # killed before the header was whole: there are no rows
        journal.unlink()
        return
    try:
        environment = Environment.from_json(json.loads(first)["environment"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{journal} is no journal ({error})") from error
    before = LatencyTable.load(table) if table.is_file() else LatencyTable(environment)
    with Journal(journal, environment) as opened:
        before.merge(opened.contents.table()).save(table)
        opened.delete()
