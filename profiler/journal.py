"""What a profiling run has finished so far: one line a row, on the disk before the next one is measured.

The first line names the format and the environment. A line counts when it ends in a newline and is JSON;
whatever follows the last such line is the trace of a killed process and is cut off.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latency_model.environment import Environment
from latency_model.errors import GharialError, InputError, TableError
from latency_model.measurement import Candidate, Measurement, NetworkRow
from latency_model.ops import Config, OpShape, parse_config
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

__all__ = ["FORMAT_VERSION", "Contents", "Journal", "journal_path", "with_flag"]

FORMAT_VERSION = 1


def journal_path(table: Path) -> Path:
    """Return where the journal of ``table`` is: beside it, with ``.journal`` added to the name."""
    return table.with_name(table.name + ".journal")


@dataclasses.dataclass
class Contents:
    """What a journal says. ``open_segment`` are the rows since the last sentinel."""

    environment: Environment
    rows: dict[Config, Measurement] = dataclasses.field(default_factory=dict)
    networks: list[NetworkRow] = dataclasses.field(default_factory=list)
    failures: dict[Config, str] = dataclasses.field(default_factory=dict)
    sentinel: tuple[Config, float] | None = None
    open_segment: list[Config] = dataclasses.field(default_factory=list)

    def table(self) -> LatencyTable:
        """Return the contents as a table."""
        failures = {shape: why for shape, why in self.failures.items() if shape not in self.rows}
        rows = {config: row for config, row in self.rows.items() if isinstance(config, ConvShape)}
        ops = {config: row for config, row in self.rows.items() if isinstance(config, OpShape)}
        return LatencyTable(self.environment, rows, tuple(self.networks), failures, ops)

    def apply(self, line: Mapping[str, Any]) -> None:
        """Take one line of the journal into account."""
        kind = line["kind"]
        if kind == "conv":
            shape = parse_config(line["config"])
            self.rows[shape] = _measurement(line["row"])
            self.open_segment.append(shape)
        elif kind == "network":
            shapes = tuple(map(parse_config, line["shapes"]))
            self.networks.append(NetworkRow(line["config"], shapes, _measurement(line["row"])))
        elif kind == "failure":
            self.failures[parse_config(line["config"])] = line["reason"]
        elif kind == "sentinel":
            if self.sentinel is None:
                self.sentinel = parse_config(line["config"]), float(line["latency_us"])
            if line["drift"]:
                for shape in self.open_segment:
                    self.rows[shape] = with_flag(self.rows[shape], "drift")
            self.open_segment.clear()
        else:
            raise TableError(f"unknown line {kind!r}")


def with_flag(row: Measurement, flag: str) -> Measurement:
    """Return ``row`` with ``flag`` set."""
    return row if flag in row.flags else dataclasses.replace(row, flags=(*row.flags, flag))


def _measurement(data: Mapping[str, Any]) -> Measurement:
    kernels = tuple((str(name), float(share)) for name, share in data["kernels"])
    candidates = tuple(Candidate(**candidate) for candidate in data.get("candidates", ()))
    values = {"kernels": kernels, "candidates": candidates, "flags": tuple(data["flags"])}
    return Measurement(**{**data, **values})


class Journal:
    """An append-only file, one per table and one process at a time; a context manager.

    ``contents`` is what it holds, torn end excluded. Opening raises ``TableError`` when it belongs to another
    environment, is damaged before its end, was written by a later version, or is in use.
    """

    def __init__(self, path: Path, environment: Environment) -> None:
        self.path = Path(path)
        self._stream = self._open()
        try:
            self.contents = self._load(environment)
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

    def _load(self, environment: Environment) -> Contents:
        self._stream.seek(0)
        lines, end = [], 0
        data = self._stream.readall()
        for raw in data.splitlines(keepends=True):
            try:
                line = json.loads(raw)
            except ValueError:
                line = None
            if not raw.endswith(b"\n") or not isinstance(line, dict):
                break
            lines.append(line)
            end += len(raw)
        if b"\n" in data[end:].rstrip(b"\n"):
            raise TableError(f"{self.path} is damaged at byte {end}; delete it to measure those rows again")
        if end < len(data):
            self._stream.truncate(end)
        contents = Contents(environment)
        if not lines:
            self.append({"kind": "header", "version": FORMAT_VERSION, "environment": environment.to_json()})
            return contents
        try:
            self._check_header(lines[0], environment)
            for line in lines[1:]:
                contents.apply(line)
        except TableError:
            raise
        except (GharialError, KeyError, TypeError, ValueError) as error:
            raise TableError(
                f"{self.path} is damaged ({error}); delete it to measure those rows again"
            ) from error
        return contents

    def _check_header(self, header: Mapping[str, Any], environment: Environment) -> None:
        if header.get("kind") != "header":
            raise TableError(f"{self.path} is not a profiling journal; choose another --out")
        if header["version"] > FORMAT_VERSION:
            raise TableError(
                f"{self.path} was written by a later version of Gharial; update with: pip install -U gharial"
            )
        theirs = Environment.from_json(header["environment"])
        if theirs != environment:
            raise TableError(
                f"{self.path} is an unfinished run of another environment "
                f"({'; '.join(theirs.differences(environment))}); finish it there, or choose another --out"
            )

    def reread(self) -> Contents:
        """Read the file again: what is on the disk counts, wherever an interrupt came."""
        self.contents = self._load(self.contents.environment)
        return self.contents

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on the disk."""
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
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

    def _record(self, line: Mapping[str, Any]) -> None:
        self.append(line)
        self.contents.apply(line)

    def add_row(self, shape: Config, row: Measurement) -> None:
        """Record a finished row."""
        self._record({"kind": "conv", "config": shape.text, "row": dataclasses.asdict(row)})

    def add_network(self, network: NetworkRow) -> None:
        """Record a network that was timed."""
        row = dataclasses.asdict(network.measurement)
        shapes = [shape.text for shape in network.shapes]
        self._record({"kind": "network", "config": network.name, "shapes": shapes, "row": row})

    def add_failure(self, shape: Config, reason: str) -> None:
        """Record a configuration that could not be timed."""
        self._record({"kind": "failure", "config": shape.text, "reason": reason})

    def add_sentinel(self, shape: Config, latency_us: float, *, drift: bool) -> None:
        """Record a sentinel; with ``drift`` the rows since the one before are flagged."""
        line = {"kind": "sentinel", "config": shape.text, "latency_us": latency_us, "drift": drift}
        self._record(line)

    def delete(self) -> None:
        """Delete the file: its contents are safe in the table."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
