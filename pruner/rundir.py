"""The folder of a run: it belongs to one request, and the same request goes on in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_model.errors import InputError
from latency_model.files import read_json, write_json

__all__ = ["Stopwatch", "claim", "holds", "record", "recorded"]

_FILE = "run.json"


def holds(request: Mapping[str, Any], out: Path, *, restart: bool = False) -> bool:
    """Return whether ``out`` holds the run of ``request``; False when it is free to take. Changes nothing.

    Raises ``InputError`` when ``out`` holds another request's work, unless ``restart`` allows to throw that
    away, or files that are not ours.
    """
    held = _request(out)
    if held is not None:
        if restart:
            return False
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
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder and holds no run; choose another --out")
    return False


def claim(request: Mapping[str, Any], out: Path, *, restart: bool = False) -> None:
    """Take ``out`` for ``request``: make it, or go on in it when it already holds the same request.

    Raises what ``holds`` raises. ``restart`` throws a run's folder away first, but never a folder that holds
    no run. Check the request before: what is claimed is refused to a corrected request.
    """
    if holds(request, out, restart=restart):
        return
    if _request(out) is not None:
        _empty(out)
    write_json(out / _FILE, {"request": dict(request)})


def _request(out: Path) -> dict[str, Any] | None:
    """Return the request that ``out`` belongs to; None where no run is, someone else's run.json included."""
    if not (out / _FILE).is_file():
        return None
    data = read_json(out / _FILE)
    request = data.get("request") if isinstance(data, dict) else None
    return request if isinstance(request, dict) else None


def _empty(out: Path) -> None:
    """Remove what is in ``out``, the record last: killed half-way, it is still a run that can be restarted."""
    try:
        for path in sorted(out.iterdir(), key=lambda path: path.name == _FILE):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise InputError(f"cannot throw away the run in {out}: {error.strerror or error}") from error


def recorded(out: Path) -> dict[str, Any]:
    """Return what the run in ``out`` has recorded about itself."""
    return dict(read_json(out / _FILE))


def record(out: Path, **changes: Any) -> None:
    """Add ``changes`` to the record of the run in ``out``."""
    write_json(out / _FILE, recorded(out) | changes)


class Stopwatch:
    """Seconds that a run has taken, over all its parts; ``stop`` adds this part to the record in ``out``.

    ``started`` is the ``time.monotonic()`` of the beginning of this part, now if not given.
    """

    def __init__(self, out: Path, *, started: float | None = None) -> None:
        self._out, self._started = out, time.monotonic() if started is None else started
        self._before = float(recorded(out).get("seconds", 0.0))

    @property
    def seconds(self) -> float:
        """Seconds so far, earlier parts included."""
        return self._before + time.monotonic() - self._started

    def stop(self) -> None:
        """Write the seconds so far into the run's record."""
        record(self._out, seconds=self.seconds)
