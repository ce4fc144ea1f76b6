"""What a profiling run has finished so far: one line a row, on the disk as soon as it is known.

The first line names the format and the environment. A line counts when it ends in a newline and is JSON;
whatever follows the last such line is the trace of a killed process and is cut off. Since version 2 a line says
which worker measured the row, and a sentinel speaks for the rows of its own worker; lines of version 1 are read
as those of one worker without a name.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latency_model.environment import Environment
from latency_model.errors import GharialError, InputError, TableError
from latency_model.measurement import Measurement, NetworkRow
from latency_model.ops import Config, OpShape, parse_config
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from profiler.readings import calibrate, combine
from profiler.rows import row_from_json, row_to_json

__all__ = ["FORMAT_VERSION", "Contents", "Journal", "journal_path", "with_flag"]

FORMAT_VERSION = 2


def journal_path(table: Path) -> Path:
    """Return where the journal of ``table`` is: beside it, with ``.journal`` added to the name."""
    return table.with_name(table.name + ".journal")


@dataclasses.dataclass
class Contents:
    """What a journal says.

    ``sentinels`` holds the sentinel of each worker with its first value, ``open_segments`` the rows of each
    worker since its sentinel was last read, ``readings`` all readings of what was measured more than once.
    """

    environment: Environment
    rows: dict[Config, Measurement] = dataclasses.field(default_factory=dict)
    readings: dict[Config, list[Measurement]] = dataclasses.field(default_factory=dict)
    networks: list[NetworkRow] = dataclasses.field(default_factory=list)
    failures: dict[Config, str] = dataclasses.field(default_factory=dict)
    sentinels: dict[str, tuple[Config, float]] = dataclasses.field(default_factory=dict)
    open_segments: dict[str, list[Config]] = dataclasses.field(default_factory=dict)

    def table(self) -> LatencyTable:
        """Return the contents as a table."""
        failures = {shape: why for shape, why in self.failures.items() if shape not in self.rows}
        final = {**self.rows, **calibrate(self.readings)}
        rows = {config: row for config, row in final.items() if isinstance(config, ConvShape)}
        ops = {config: row for config, row in final.items() if isinstance(config, OpShape)}
        return LatencyTable(self.environment, rows, tuple(self.networks), failures, ops)

    def apply(self, line: Mapping[str, Any]) -> None:
        """Take one line of the journal into account; twice the same line, after an interrupt, does no harm."""
        kind, worker = line["kind"], line.get("worker", "")
        if kind == "conv":
            again = bool(line.get("again"))
            self.add_row(parse_config(line["config"]), row_from_json(line["row"]), worker, again=again)
        elif kind == "network":
            shapes = tuple(map(parse_config, line["shapes"]))
            self.networks.append(NetworkRow(line["config"], shapes, row_from_json(line["row"])))
        elif kind == "failure":
            self.failures[parse_config(line["config"])] = line["reason"]
        elif kind == "sentinel":
            self.add_sentinel(parse_config(line["config"]), line["latency_us"], line["drift"], worker)
        elif kind != "header":  # a later header says from where on the lines are of a later version
            raise TableError(f"unknown line {kind!r}")

    def add_row(self, config: Config, row: Measurement, worker: str, *, again: bool = False) -> None:
        """Take a finished row into account, or with ``again`` another reading of it."""
        if again and config in self.rows:
            readings = self.readings.setdefault(config, [self.rows[config]])
            if row not in readings:
                readings.append(row)
            row = combine(readings)
        else:
            self.readings.pop(config, None)
        self.rows[config] = row
        self.open_segments.setdefault(worker, []).append(config)

    def add_sentinel(self, config: Config, latency_us: float, drift: bool, worker: str) -> None:
        """Take a sentinel into account: with ``drift`` the worker's rows since the one before are flagged."""
        self.sentinels.setdefault(worker, (config, latency_us))
        if drift:
            for each in self.open_segments.get(worker, ()):
                self.rows[each] = with_flag(self.rows[each], "drift")
                if each in self.readings:
                    self.readings[each][-1] = with_flag(self.readings[each][-1], "drift")
        self.open_segments.pop(worker, None)


def with_flag(row: Measurement, flag: str) -> Measurement:
    """Return ``row`` with ``flag`` set."""
    return row if flag in row.flags else dataclasses.replace(row, flags=(*row.flags, flag))


class Journal:
    """An append-only file, one per table and one process at a time; a context manager.

    ``contents`` is what it holds, torn end excluded. Opening raises ``TableError`` when it belongs to another
    environment, is damaged before its end, was written by a later version, or is in use.
    """

    def __init__(self, path: Path, environment: Environment) -> None:
        self.path = Path(path)
        self._stream = self._open()
        self._applied = 0  # how much of the file `contents` has
        self.contents = Contents(environment)
        try:
            self._load()
        except BaseException:
            self._stream.close()
            raise

    def _open(self) -> io.FileIO:
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stream = io.FileIO(self.path, "a+")
            except OSError as error:
                raise InputError(
                    f"cannot write {self.path}: {error.strerror or error}; choose another --out"
                ) from error
            self._lock(stream)
            # Another run may have finished and deleted the file between our opening and locking it.
            if self.path.exists() and os.path.samestat(os.fstat(stream.fileno()), self.path.stat()):
                return stream
            stream.close()

    def _lock(self, stream: io.FileIO) -> None:
        try:
            import fcntl
        except ImportError:  # not POSIX: two runs on one table are then the user's to avoid
            return
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            raise TableError(
                f"{self.path} is in use by another profiling run; wait for it or choose another --out"
            ) from error

    def _load(self) -> None:
        """Take the rest of the file into ``contents``, line by line, and cut off its torn end."""
        version = FORMAT_VERSION
        with self.path.open("rb") as stream:
            stream.seek(self._applied)
            for raw in stream:
                line = _whole(raw)
                if line is None:
                    if raw.endswith(b"\n") and stream.read(1):
                        raise TableError(
                            f"{self.path} is damaged at byte {self._applied}; keep the rows before it with: "
                            f"truncate -s {self._applied} '{self.path}', or delete it to measure them again"
                        )
                    self._stream.truncate(self._applied)
                    break
                try:
                    if self._applied == 0 or line.get("kind") == "header":
                        version = self._check_header(line)
                    self.contents.apply(line)
                except TableError:
                    raise
                except (GharialError, KeyError, TypeError, ValueError) as error:
                    raise TableError(
                        f"{self.path} is damaged ({error}); delete it to measure those rows again"
                    ) from error
                self._applied += len(raw)
        if self._applied == 0 or version < FORMAT_VERSION:
            # In an older journal too, so that an older Gharial refuses what it would misread.
            environment = self.contents.environment.to_json()
            header = {"kind": "header", "version": FORMAT_VERSION, "environment": environment}
            self._applied += self._append([header])

    def _check_header(self, header: Mapping[str, Any]) -> int:
        if header.get("kind") != "header":
            raise TableError(f"{self.path} is not a profiling journal; choose another --out")
        if header["version"] > FORMAT_VERSION:
            raise TableError(
                f"{self.path} was written by a later version of Gharial; update with: pip install -U gharial"
            )
        theirs, environment = Environment.from_json(header["environment"]), self.contents.environment
        if theirs != environment:
            raise TableError(
                f"{self.path} is an unfinished run of another environment "
                f"({'; '.join(theirs.differences(environment))}); finish it there, or choose another --out"
            )
        return int(header["version"])

    def reread(self) -> Contents:
        """Return the contents of the file: what is on the disk counts, wherever an interrupt came."""
        self._load()
        return self.contents

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> int:
        """Write lines, wait until all are on the disk, and return how many bytes that were.

        Only when ``contents`` has them as well does ``_applied`` grow by that: what an interrupt leaves out in
        between is found by ``reread``.
        """
        data = b"".join(
            json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n" for line in lines
        )
        try:
            # Unbuffered, so that nothing is left to be written after an interrupt.
            if self._stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror or error}; "
                "make room and run the same command again"
            ) from error
        return len(data)

    def add_rows(
        self, rows: Sequence[tuple[Config, Measurement]], *, worker: str = "", again: bool = False
    ) -> None:
        """Record finished rows, or with ``again`` further readings of rows, all with one wait for the disk."""
        mark = {"again": True} if again else {}
        size = self._append(
            {"kind": "conv", "config": config.text, "worker": worker, **mark, "row": row_to_json(row)}
            for config, row in rows
        )
        for config, row in rows:
            self.contents.add_row(config, row, worker, again=again)
        self._applied += size

    def add_row(self, shape: Config, row: Measurement, *, worker: str = "") -> None:
        """Record a finished row."""
        self.add_rows([(shape, row)], worker=worker)

    def add_network(self, network: NetworkRow) -> None:
        """Record a network that was timed."""
        row = row_to_json(network.measurement)
        shapes = [shape.text for shape in network.shapes]
        size = self._append([{"kind": "network", "config": network.name, "shapes": shapes, "row": row}])
        self.contents.networks.append(network)
        self._applied += size

    def add_failure(self, shape: Config, reason: str, *, worker: str = "") -> None:
        """Record a configuration that could not be timed."""
        line = {"kind": "failure", "config": shape.text, "worker": worker, "reason": reason}
        size = self._append([line])
        self.contents.failures[shape] = reason
        self._applied += size

    def add_sentinel(self, shape: Config, latency_us: float, *, drift: bool, worker: str = "") -> None:
        """Record a sentinel; with ``drift`` the rows of this worker since the one before are flagged."""
        what = {"config": shape.text, "latency_us": latency_us, "drift": drift}
        size = self._append([{"kind": "sentinel", "worker": worker, **what}])
        self.contents.add_sentinel(shape, latency_us, drift, worker)
        self._applied += size

    def delete(self) -> None:
        """Delete the file: its contents are safe in the table."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _whole(raw: bytes) -> dict[str, Any] | None:
    """Return a line's JSON object, None for one that is torn or damaged."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if raw.endswith(b"\n") and isinstance(line, dict) else None
