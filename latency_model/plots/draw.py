"""From tables to a picture: choose the site, then the kind of picture and the format of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency_model.errors import InputError
from latency_model.plots.heat import heat_map
from latency_model.plots.lines import staircase
from latency_model.plots.points import SitePoints, choose_site
from latency_model.plots.style import environment_title, site_title
from latency_model.table import LatencyTable

__all__ = ["draw"]

_ENDINGS = (".png", ".html")
_MOST_TABLES = 4


def draw(
    tables: Sequence[LatencyTable],
    path: Path,
    *,
    words: Sequence[str] = (),
    over: str = "out",
    at: Sequence[int] = (),
    heat: str | None = None,
) -> dict[str, Any]:
    """Draw one site of one or several tables to ``path``, a .png or .html file; return what was drawn.

    ``words`` choose the site, of several that match the one with the most rows. Without ``heat``, staircases:
    latency ``over`` the ``out`` or ``in`` channels at each value of the other count in ``at``. With ``heat``,
    a map over both counts: ``latency``, ``per-mac``, ``ratio`` of two tables, or ``kernel``. Only measured
    points are drawn. Raises ``InputError`` or ``TableError`` when there is nothing to draw.
    """
    suffix = path.suffix.lower()
    if suffix not in _ENDINGS:
        raise InputError(f"cannot draw {path.name}; its ending must be {' or '.join(_ENDINGS)}")
    if not 1 <= len(tables) <= _MOST_TABLES:
        raise InputError(f"one picture takes 1 to {_MOST_TABLES} tables, not {len(tables)}")
    found = choose_site(tables, words)
    title = [site_title(found.site), *environment_title(found.environments)]
    drawn = _heat(found, heat, title, path) if heat else _stairs(found, over, at, title, path)
    return {"out": str(path), "rows": drawn, "site": title[0], "matching_sites": found.matching}


def _stairs(found: SitePoints, over: str, at: Sequence[int], title: list[str], path: Path) -> int:
    stairs = staircase(found, over=over, at=at)
    notes = [note for note in (stairs.note, found.coverage) if note]
    if path.suffix.lower() == ".png":
        from latency_model.plots.stairs_png import stairs_png

        stairs_png(stairs, title, notes, path)
    else:
        from latency_model.plots.stairs_html import stairs_html

        stairs_html(stairs, title, notes, path)
    return sum(len(line.points) for line in stairs.lines)


def _heat(found: SitePoints, kind: str, title: list[str], path: Path) -> int:
    chart = heat_map(found, kind)
    if path.suffix.lower() == ".png":
        from latency_model.plots.heat_png import heat_png

        heat_png(chart, title, found.coverage, path)
    else:
        from latency_model.plots.heat_html import heat_html

        heat_html(chart, title, found.coverage, path)
    return int((chart.values == chart.values).sum())
