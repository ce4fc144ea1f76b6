"""The folder of a run: it belongs to one request, and the same request goes on in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_model.errors import InputError
from latency_model.files import read_json, write_json

__all__ = ["Stopwatch", "claim", "record", "recorded"]

_FILE = "run.json"


def claim(request: Mapping[str, Any], out: Path, *, restart: bool = False) -> None:
    """Take ``out`` for ``request``: make it, or go on in it when it already holds the same request.

    Raises ``InputError`` when ``out`` holds another request's work or files that are not ours. ``restart``
    throws a run's folder away first, but never a folder that holds no run.
    """
    held_path = out / _FILE
    if restart and held_path.is_file():
        shutil.rmtree(out)
    if held_path.is_file():
        held = recorded(out)["request"]
        names = sorted({*held, *request})
        changed = [
            f"{name}: {held.get(name)!r} there, {request.get(name)!r} asked for"
            for name in names
            if held.get(name) != request.get(name)
        ]
        if changed:
            raise InputError(
                f"{out} holds a run with other settings ({'; '.join(changed)}); choose another --out, or add "
                "--restart to throw that run away"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder and holds no run; choose another --out")
    write_json(held_path, {"request": dict(request)})


def recorded(out: Path) -> dict[str, Any]:
    """Return what the run in ``out`` has recorded about itself."""
    return dict(read_json(out / _FILE))


def record(out: Path, **changes: Any) -> None:
    """Add ``changes`` to the record of the run in ``out``."""
    write_json(out / _FILE, recorded(out) | changes)


class Stopwatch:
    """Seconds that a run has taken, over all its parts; ``stop`` adds this part to the record in ``out``."""

    def __init__(self, out: Path) -> None:
        self._out, self._started = out, time.monotonic()
        self._before = float(recorded(out).get("seconds", 0.0))

    @property
    def seconds(self) -> float:
        """Seconds so far, earlier parts included."""
        return self._before + time.monotonic() - self._started

    def stop(self) -> None:
        """Write the seconds so far into the run's record."""
        record(self._out, seconds=self.seconds)
