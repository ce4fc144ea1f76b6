"""The measured points of one convolution site in one or several tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.measurement import Measurement
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

__all__ = ["Point", "SitePoints", "choose_site"]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured row of a site."""

    inputs: int
    outputs: int
    macs: int
    row: Measurement

    @property
    def kernel(self) -> str:
        """The kernel that takes most of the time, empty where none is known."""
        return max(self.row.kernels, key=itemgetter(1))[0] if self.row.kernels else ""


@dataclass(frozen=True, slots=True)
class SitePoints:
    """A site, its points in each table in ascending order, and how many sites matched."""

    site: ConvShape
    environments: tuple[Environment, ...]
    tables: tuple[tuple[Point, ...], ...]
    matching: int

    @property
    def coverage(self) -> str:
        """How much of the grid that the measured counts span is measured; empty when all of it is."""
        if self.site.depthwise:
            return ""
        told = []
        for letter, points in zip("ABCDEFGH", self.tables, strict=False):
            whole = len({p.inputs for p in points}) * len({p.outputs for p in points})
            if len(points) < whole:
                name = f"{letter}: " if len(self.tables) > 1 else ""
                told.append(f"{name}{len(points):,} of {whole:,} pairs of these counts were measured")
        return "; ".join(told)


def choose_site(tables: Sequence[LatencyTable], words: Sequence[str]) -> SitePoints:
    """Return the points of the site that ``words`` name, of several the one with most rows in all tables.

    Sites that all tables have come first. Raises ``TableError`` when no row's text holds all words.
    """
    families: dict[ConvShape, list[list[ConvShape]]] = {}
    # Rows of one site differ in their channels alone; what follows them in the text picks the family, and is
    # much quicker to get than the site of each row.
    sites: dict[tuple[object, ...], ConvShape] = {}
    for place, table in enumerate(tables):
        for shape in table:
            text = shape.text
            if not all(word in text for word in words):
                continue
            if shape.depthwise:
                site = shape.site
            else:
                head, _, rest = text.partition(" ->")
                key = (shape.batch, head.split("x", 2)[2], rest.partition(" ")[2])
                site = sites.get(key) or sites.setdefault(key, shape.site)
            families.setdefault(site, [[] for _ in tables])[place].append(shape)
    if not families:
        raise TableError(
            f"no row of the table holds {' '.join(words)!r}; see its rows with: gharial tables show TABLE"
        )
    weights = {site: (all(parts), sum(map(len, parts))) for site, parts in families.items()}
    site = max(weights, key=lambda site: (weights[site], site))
    return SitePoints(
        site,
        tuple(table.environment for table in tables),
        tuple(
            tuple(
                sorted(
                    (Point(s.in_channels, s.out_channels, s.macs, table[s]) for s in shapes),
                    key=lambda point: (point.inputs, point.outputs),
                )
            )
            for table, shapes in zip(tables, families[site], strict=True)
        ),
        len(families),
    )
