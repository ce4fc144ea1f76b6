"""The latency table of one environment: measured rows, in a versioned Parquet file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.files import write_atomic
from latency_model.measurement import Candidate, Measurement, NetworkRow
from latency_model.ops import Config, OpShape, parse_config
from latency_model.shapes import ConvShape

__all__ = ["FORMAT_VERSION", "LatencyTable"]

FORMAT_VERSION = 2
_ENVIRONMENT_KEY = b"gharial.environment"
_VERSION_KEY = b"gharial.format_version"

_MEASURED = [
    ("latency_us", pa.float64()),
    ("low_us", pa.float64()),
    ("high_us", pa.float64()),
    ("p5_us", pa.float64()),
    ("p25_us", pa.float64()),
    ("p75_us", pa.float64()),
    ("p95_us", pa.float64()),
    ("min_us", pa.float64()),
    ("samples", pa.int32()),
    ("method", pa.string()),
    ("kernels", pa.list_(pa.struct([("name", pa.string()), ("share", pa.float64())]))),
    ("cold_us", pa.float64()),
    ("boundary_us", pa.float64()),
    ("error", pa.float64()),
    (
        "candidates",
        pa.list_(pa.struct([("kernels", pa.string()), ("latency_us", pa.float64()), ("builds", pa.int32())])),
    ),
    ("sm_clock_mhz", pa.float64()),
    ("temperature_c", pa.float64()),
    ("power_w", pa.float64()),
    ("note", pa.string()),
    ("flags", pa.list_(pa.string())),
    ("run_id", pa.string()),
    ("measured_at", pa.string()),
]
# `kind` is conv, op, network or failure; `config` is the text form of the shape, or the network's name.
# Version 2 added the operators and the columns from cold_us to note; tables of version 1 are read as well.
_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("config", pa.string()),
        *_MEASURED,
        ("shapes", pa.list_(pa.string())),
        ("failure", pa.string()),
    ]
)


def _measured(measurement: Measurement) -> dict[str, Any]:
    row = {name: getattr(measurement, name) for name, _ in _MEASURED}
    row["kernels"] = [{"name": name, "share": share} for name, share in measurement.kernels]
    row["candidates"] = [dataclasses.asdict(candidate) for candidate in measurement.candidates]
    row["flags"] = list(measurement.flags)
    return row


def _measurement(row: Mapping[str, Any]) -> Measurement:
    values = {name: row[name] for name, _ in _MEASURED if name in row}
    values["kernels"] = tuple((kernel["name"], kernel["share"]) for kernel in row["kernels"] or ())
    values["candidates"] = tuple(Candidate(**candidate) for candidate in row.get("candidates") or ())
    values["note"] = row.get("note") or ""
    values["flags"] = tuple(row["flags"] or ())
    return Measurement(**values)


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
        """Return the union; where both have a row the later ``measured_at`` wins.

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
        networks = {(n.name, n.shapes): n for n in (*self.networks, *other.networks)}
        return LatencyTable(self.environment, rows, tuple(networks.values()), failures, ops)

    def measured(self, config: Config) -> Measurement | None:
        """Return the row of a convolution or an operator, None when there is none."""
        return self.ops.get(config) if isinstance(config, OpShape) else self.rows.get(config)

    def save(self, path: Path | str) -> None:
        """Write the table to ``path`` as Parquet, atomically, rows in the order of their shapes."""
        records: list[dict[str, Any]] = [
            {"kind": "conv", "config": shape.text, **_measured(self.rows[shape])}
            for shape in sorted(self.rows)
        ]
        records += [{"kind": "op", "config": op.text, **_measured(self.ops[op])} for op in sorted(self.ops)]
        records += [
            {
                "kind": "network",
                "config": network.name,
                "shapes": [shape.text for shape in network.shapes],
                **_measured(network.measurement),
            }
            for network in self.networks
        ]
        records += [
            {"kind": "failure", "config": config.text, "failure": self.failures[config]}
            for config in sorted(self.failures, key=lambda config: config.text)
        ]
        schema = _SCHEMA.with_metadata(
            {
                _ENVIRONMENT_KEY: json.dumps(self.environment.to_json()).encode(),
                _VERSION_KEY: str(FORMAT_VERSION).encode(),
            }
        )
        table = pa.Table.from_pylist(records, schema=schema)
        write_atomic(Path(path), lambda target: pq.write_table(table, target, compression="zstd"))

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table that ``save`` wrote; ``TableError`` when it is missing, damaged or too new."""
        path = Path(path)
        if path.is_dir():
            raise TableError(f"{path} is a folder, not a latency table; give the path of a file")
        if not path.is_file():
            raise TableError(f"no latency table at {path}; make one with: gharial profile MODEL --out {path}")
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            if _VERSION_KEY not in metadata:
                raise TableError(
                    f"{path} is a Parquet file but not a latency table; give the --out of gharial profile"
                )
            if int(metadata[_VERSION_KEY]) > FORMAT_VERSION:
                raise TableError(
                    f"{path} was written by a later version of Gharial; update with: pip install -U gharial"
                )
            environment = Environment.from_json(json.loads(metadata[_ENVIRONMENT_KEY]))
            rows, ops, networks, failures = {}, {}, [], {}
            for record in table.to_pylist():
                if record["kind"] == "conv":
                    rows[ConvShape.parse(record["config"])] = _measurement(record)
                elif record["kind"] == "op":
                    ops[OpShape.parse(record["config"])] = _measurement(record)
                elif record["kind"] == "network":
                    shapes = tuple(parse_config(text) for text in record["shapes"])
                    networks.append(NetworkRow(record["config"], shapes, _measurement(record)))
                else:
                    failures[parse_config(record["config"])] = record["failure"]
        except TableError:
            raise
        except (
            Exception
        ) as error:  # pyarrow raises its own types for truncation, bad magic bytes and bad columns
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TableError(
                f"{path} is damaged ({reason}); measure it again with gharial profile"
            ) from error
        return cls(environment, rows, tuple(networks), failures, ops)


_Key = TypeVar("_Key", ConvShape, OpShape)


def _later(first: Mapping[_Key, Measurement], second: Mapping[_Key, Measurement]) -> dict[_Key, Measurement]:
    """Return the union; where both have a row, the one measured later."""
    rows = dict(first)
    for key, row in second.items():
        if key not in rows or row.measured_at >= rows[key].measured_at:
            rows[key] = row
    return rows
