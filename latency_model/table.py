"""The latency table of one environment: measured rows, in a versioned Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.measurement import Measurement, NetworkRow
from latency_model.ops import Config, OpShape, parse_config
from latency_model.shapes import ConvShape
from latency_model.table_columns import ShapeReader, in_order, measured_columns, measurements, no_collection
from latency_model.table_file import FORMAT_VERSION, SCHEMA, damaged, read_columns, write_columns

__all__ = ["FORMAT_VERSION", "LatencyTable"]


@dataclass(frozen=True)
class LatencyTable(Mapping[ConvShape, Measurement]):
    """Measured latencies of one environment: a read-only mapping from ``ConvShape`` to ``Measurement``.

    ``ops`` are the operators that are not convolutions, ``networks`` whole networks timed end to end in the
    same environment; ``failures`` are configurations that could not be timed, with the reason. ``save`` and
    ``load`` are inverse.
    """

    environment: Environment
    rows: Mapping[ConvShape, Measurement] = field(default_factory=dict)
    networks: tuple[NetworkRow, ...] = ()
    failures: Mapping[Config, str] = field(default_factory=dict)
    ops: Mapping[OpShape, Measurement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", MappingProxyType(dict(self.rows)))
        object.__setattr__(self, "ops", MappingProxyType(dict(self.ops)))
        object.__setattr__(self, "failures", MappingProxyType(dict(self.failures)))

    def __getitem__(self, shape: ConvShape) -> Measurement:
        return self.rows[shape]

    def __iter__(self) -> Iterator[ConvShape]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def merge(self, other: LatencyTable) -> LatencyTable:
        """Return the union; where both have a row, or a network, the later ``measured_at`` wins.

        Of equally late ones, and of two reasons for a failure, that of ``other`` does. A row ends a failure.
        Raises ``TableError`` when the environments differ.
        """
        if self.environment != other.environment:
            what = "; ".join(self.environment.differences(other.environment))
            raise TableError(
                f"these tables are of different environments ({what}); keep them in separate files"
            )
        rows, ops = _later(self.rows, other.rows), _later(self.ops, other.ops)
        failures = {
            config: why
            for config, why in {**self.failures, **other.failures}.items()
            if config not in rows and config not in ops
        }
        networks = {(n.name, n.shapes): n for n in self.networks}
        for network in other.networks:
            known = networks.get((network.name, network.shapes))
            if known is None or network.measurement.measured_at >= known.measurement.measured_at:
                networks[network.name, network.shapes] = network
        return LatencyTable(self.environment, rows, tuple(networks.values()), failures, ops)

    def measured(self, config: Config) -> Measurement | None:
        """Return the row of a convolution or an operator, None when there is none."""
        return self.ops.get(config) if isinstance(config, OpShape) else self.rows.get(config)

    def save(self, path: Path | str) -> None:
        """Write the table to ``path`` as Parquet, atomically, rows in the order of their shapes."""
        write_columns(Path(path), self.environment, [self.to_columns()])

    def to_columns(self) -> pa.Table:
        """Return the rows as columns of the file's schema, in the order of their shapes."""
        shapes, ops = in_order(self.rows), in_order(self.ops)
        failures = sorted(self.failures, key=lambda config: config.text)
        kinds = (len(shapes), len(ops), len(self.networks), len(failures))
        columns: dict[str, Any] = {
            "kind": [
                kind
                for kind, count in zip(("conv", "op", "network", "failure"), kinds, strict=True)
                for _ in range(count)
            ],
            "config": [
                *(shape.text for shape in shapes),
                *(op.text for op in ops),
                *(network.name for network in self.networks),
                *(config.text for config in failures),
            ],
            **measured_columns(
                [
                    *(self.rows[shape] for shape in shapes),
                    *(self.ops[op] for op in ops),
                    *(network.measurement for network in self.networks),
                    *(None for _ in failures),
                ]
            ),
            "shapes": [
                *(None for _ in (*shapes, *ops)),
                *([shape.text for shape in network.shapes] for network in self.networks),
                *(None for _ in failures),
            ],
            "failure": [
                *(None for _ in range(sum(kinds) - len(failures))),
                *(self.failures[config] for config in failures),
            ],
        }
        return pa.table(columns, schema=SCHEMA)

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table that ``save`` wrote; ``TableError`` when it is missing, damaged or too new."""
        path = Path(path)
        environment, columns = read_columns(path)
        try:
            with no_collection():
                return cls.from_columns(environment, columns)
        except Exception as error:  # a text that is no shape, a latency that is no number, a missing column
            raise damaged(path, error) from error

    @classmethod
    def from_columns(cls, environment: Environment, columns: pa.Table) -> LatencyTable:
        """Return the table whose ``to_columns`` are ``columns``, those of a file of version 1 included.

        Raises ``InputError`` or an error of Arrow's where they make no sense.
        """

        def of(kind: str) -> pa.Table:
            return columns.filter(pc.equal(columns["kind"], kind))

        read = ShapeReader()
        convs, ops, networks, failures = of("conv"), of("op"), of("network"), of("failure")
        if (found := sum(map(len, (convs, ops, networks, failures)))) != len(columns):
            raise TableError(f"{len(columns) - found} rows are of an unknown kind")
        return cls(
            environment,
            dict(zip(map(read, convs["config"].to_pylist()), measurements(convs), strict=True)),
            tuple(
                NetworkRow(
                    name, tuple(OpShape.parse(t) if t.startswith("op ") else read(t) for t in shapes), row
                )
                for name, shapes, row in zip(
                    networks["config"].to_pylist(),
                    networks["shapes"].to_pylist(),
                    measurements(networks),
                    strict=True,
                )
            ),
            dict(
                zip(
                    map(parse_config, failures["config"].to_pylist()),
                    failures["failure"].to_pylist(),
                    strict=True,
                )
            ),
            dict(zip(map(OpShape.parse, ops["config"].to_pylist()), measurements(ops), strict=True)),
        )


_Key = TypeVar("_Key", ConvShape, OpShape)


def _later(first: Mapping[_Key, Measurement], second: Mapping[_Key, Measurement]) -> dict[_Key, Measurement]:
    """Return the union; where both have a row, the one measured later."""
    rows = dict(first)
    for key, row in second.items():
        if key not in rows or row.measured_at >= rows[key].measured_at:
            rows[key] = row
    return rows
