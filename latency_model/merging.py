"""Several tables of one environment into one, with an account of what became of each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latency_model.errors import InputError
from latency_model.measurement import Measurement
from latency_model.table import LatencyTable

__all__ = ["MergeReport", "merge_tables"]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did. Every count is of configurations and networks, except ``tables``.

    ``identical`` were in several tables with the same measurement, ``conflicts`` with different ones, of which
    ``earlier_given_won`` were measured later in a table that was given earlier. ``failures_ended`` failed in
    one table and have a row from another.
    """

    tables: int
    rows: int
    ops: int
    networks: int
    failures: int
    identical: int
    conflicts: int
    earlier_given_won: int
    failures_ended: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def merge_tables(tables: Sequence[LatencyTable]) -> tuple[LatencyTable, MergeReport]:
    """Return the union of tables of one environment; where several have a row, the one measured last wins.

    Of rows measured at the same moment that of the table given last wins. Raises ``TableError`` with the
    differences when the environments differ, ``InputError`` without tables.
    """
    if not tables:
        raise InputError("there is nothing to merge; give at least one table")
    joined = tables[0]
    identical = conflicts = earlier = ended = 0
    for table in tables[1:]:
        known = dict(_all(joined))
        for key, row in _all(table):
            if key not in known:
                continue
            identical += row == known[key]
            if row != known[key]:
                conflicts += 1
                earlier += row.measured_at < known[key].measured_at
        before = joined.failures.keys() | table.failures.keys()
        joined = joined.merge(table)
        ended += len(before - joined.failures.keys())
    report = MergeReport(
        len(tables),
        len(joined.rows),
        len(joined.ops),
        len(joined.networks),
        len(joined.failures),
        identical,
        conflicts,
        earlier,
        ended,
    )
    return joined, report


def _all(table: LatencyTable) -> Iterator[tuple[object, Measurement]]:
    yield from table.rows.items()
    yield from table.ops.items()
    networks: Iterable[tuple[object, Measurement]] = (
        ((network.name, network.shapes), network.measurement) for network in table.networks
    )
    yield from networks
