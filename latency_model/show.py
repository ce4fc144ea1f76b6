"""What `gharial tables show` prints: chosen rows of a table, in a few columns or in full, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from rich.table import Column, Table

from latency_model.errors import InputError
from latency_model.kernel_names import short_kernels
from latency_model.measurement import Measurement
from latency_model.ops import Config, OpShape
from latency_model.table import LatencyTable
from latency_model.table_columns import in_order

__all__ = ["SORTS", "Selection", "in_full", "row_grid", "select", "summary_lines"]

SORTS = ("shape", "latency")
_ROOMY = 170
Row = tuple[Config, Measurement]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows to show: all conditions that are set must hold.

    ``words`` must all occur in the text of the shape, ``op`` is an ONNX operator (``Conv`` for convolutions,
    case does not matter), ``flag`` one of the row's flags, ``kernel`` a part of the name of one of its kernels.
    """

    words: tuple[str, ...] = ()
    op: str | None = None
    flag: str | None = None
    kernel: str | None = None
    sort: str = "shape"

    def __post_init__(self) -> None:
        if self.sort not in SORTS:
            raise InputError(f"cannot sort by {self.sort!r}; give one of {', '.join(SORTS)}")

    def holds(self, config: Config, row: Measurement) -> bool:
        """Return whether a row is among those asked for."""
        if self.flag is not None and self.flag not in row.flags:
            return False
        if self.kernel is not None and not any(self.kernel in name for name, _ in row.kernels):
            return False
        return self.of_shape(config)

    def of_shape(self, config: Config) -> bool:
        """Return whether the conditions on the shape alone hold."""
        if self.op is not None:
            name = config.op if isinstance(config, OpShape) else "Conv"
            if name.lower() != self.op.lower():
                return False
        if not self.words:
            return True
        text = config.text
        return all(word in text for word in self.words)


def select(table: LatencyTable, selection: Selection) -> list[Row]:
    """Return the rows that ``selection`` asks for: convolutions, then operators; or all, the slowest first."""
    found: list[Row] = [(shape, table.rows[shape]) for shape in in_order(table.rows)]
    found += [(op, table.ops[op]) for op in in_order(table.ops)]
    found = [(config, row) for config, row in found if selection.holds(config, row)]
    if selection.sort == "latency":
        found.sort(key=lambda pair: pair[1].latency_us, reverse=True)
    return found


def row_grid(rows: Sequence[Row], title: str, *, width: int) -> Table:
    """Return rows as a table for ``width`` characters; method and kernel only where there is room for them."""
    roomy = width >= _ROOMY
    grid = Table(
        Column("configuration", overflow="fold", min_width=24),
        Column("latency (us)", justify="right"),
        Column("95 % interval", no_wrap=True),
        title=title,
    )
    for name in ("method", "kernel") if roomy else ():
        grid.add_column(name, no_wrap=True)
    grid.add_column("flags")
    labels = short_kernels(name for _, row in rows for name, _ in row.kernels)
    for config, row in rows:
        interval = f"{row.low_us:.2f} - {row.high_us:.2f}"
        more = (row.method, _kernel(row, labels)) if roomy else ()
        grid.add_row(config.text, f"{row.latency_us:.2f}", interval, *more, ", ".join(row.flags))
    return grid


def _kernel(row: Measurement, labels: dict[str, str]) -> str:
    if not row.kernels:
        return ""
    name, share = max(row.kernels, key=itemgetter(1))
    more = f" +{len(row.kernels) - 1} ({share:.0%})" if len(row.kernels) > 1 else ""
    return labels[name] + more


_OPTIONAL: tuple[tuple[str, Callable[[Measurement], str | None]], ...] = (
    ("cold caches", lambda row: None if row.cold_us is None else f"{row.cold_us:.2f} us"),
    ("boundary", lambda row: None if row.boundary_us is None else f"{row.boundary_us:.2f} us"),
    ("error", lambda row: None if row.error is None else f"{row.error:.2g} of the largest output"),
    ("SM clock", lambda row: None if row.sm_clock_mhz is None else f"{row.sm_clock_mhz:.0f} MHz"),
    ("temperature", lambda row: None if row.temperature_c is None else f"{row.temperature_c:.0f} °C"),
    ("power", lambda row: None if row.power_w is None else f"{row.power_w:.0f} W"),
    ("flags", lambda row: ", ".join(row.flags) or None),
    ("note", lambda row: row.note or None),
    ("run", lambda row: row.run_id or None),
    ("measured", lambda row: row.measured_at or None),
)


def in_full(config: Config, row: Measurement) -> Iterator[str]:
    """Yield the lines that say everything about one row; what is not known is left out."""
    yield config.text
    yield (
        f"  {row.latency_us:.2f} us, median of {row.samples} samples by {row.method}, "
        f"95 % interval {row.low_us:.2f} - {row.high_us:.2f}"
    )
    yield (
        f"  samples: min {row.min_us:.2f}, 5 % {row.p5_us:.2f}, 25 % {row.p25_us:.2f}, "
        f"75 % {row.p75_us:.2f}, 95 % {row.p95_us:.2f} us"
    )
    known = [f"{name} {text}" for name, say in _OPTIONAL if (text := say(row)) is not None]
    if known:
        yield "  " + "; ".join(known)
    for name, share in row.kernels:
        yield f"  kernel {share:6.1%}  {name}"
    for candidate in row.candidates:
        builds = f"{candidate.builds} build{'s' if candidate.builds != 1 else ''}"
        yield f"  candidate {candidate.latency_us:.2f} us in {builds}: {candidate.kernels or 'kernels unknown'}"


def summary_lines(table: LatencyTable, rows: Sequence[Row]) -> Iterator[str]:
    """Yield what the table holds: its environment, counts, flags, methods, and when it was measured."""
    yield table.environment.text
    total = len(table.rows) + len(table.ops)
    yield (
        f"{len(rows)} of {total} rows, {len(table.rows)} convolutions, {len(table.ops)} operators, "
        f"{len(table.networks)} networks, {len(table.failures)} failures"
    )
    measured = [*table.rows.values(), *table.ops.values(), *(n.measurement for n in table.networks)]
    yield f"flags: {_counts(flag for row in measured for flag in row.flags)}"
    if measured:
        yield f"methods: {_counts(row.method for row in measured)}"
    if times := [row.measured_at for row in measured if row.measured_at]:
        yield f"measured: {min(times)} to {max(times)}"


def _counts(names: Iterable[str]) -> str:
    found = Counter(names)
    return ", ".join(f"{name} {count}" for name, count in found.most_common()) or "none"
