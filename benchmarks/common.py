"""What benchmarks share: the commit, versions, lines of CSV, and the table of a model on this machine's CPU.

``from common import …`` in scripts of this folder, which Python puts on its path with them. Scripts of the folders
below put the repository's root there (``sys.path.append``) and say ``from benchmarks.common import …``.
"""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["commit", "processor", "profiled", "read_lines", "versions", "write_lines"]


def commit(*, short: bool = True) -> str:
    """Return the commit of the code, empty outside a repository."""
    asked = ["git", "rev-parse", *(["--short"] if short else []), "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip()


def versions(*packages: str) -> str:
    """Return the versions of Python and of installed ``packages``, as in ``python 3.11.7 torch 2.11.0``."""
    pairs = [("python", platform.python_version()), *((name, version(name)) for name in packages)]
    return " ".join(f"{name} {number}" for name, number in pairs)


def processor() -> str:
    """Return the name of the CPU as Linux has it, else what ``platform`` says."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a CSV file by column, all of them texts; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_lines(
    path: Path,
    lines: Sequence[dict[str, Any]],
    *,
    fields: Iterable[str] | None = None,
    head: str = "",
    end: str = "\n",
) -> None:
    """Write lines as CSV, all of them or, if that fails, none: what was there stays until the file is whole.

    The columns are ``fields``, those of the first line if not given. ``head`` goes before them as it is, with a line's
    end of its own. ``end`` is the end of a line: ``"\\r\\n"``, as RFC 4180 has it, where the results that lie in the
    repository have it.
    """
    beside = path.with_suffix(".tmp")
    with beside.open("w", encoding="utf-8", newline="") as file:
        file.write(head)
        table = csv.DictWriter(file, list(lines[0] if fields is None else fields), lineterminator=end)
        table.writeheader()
        table.writerows(lines)
    beside.replace(path)


def profiled(model: str, work: Path) -> Path:
    """Return the table of ``model`` on this CPU in the folder ``work``, made if it is not there."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{model.replace(':', '_')}.parquet"
    if not path.is_file():
        command = ["gharial", "profile", model, "--out", str(path)]
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)
    return path
