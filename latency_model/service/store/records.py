"""One row of the database from one row of a table, and back.

A record is JSON without names, for size and speed: a measurement is the array of its fields in the order of
``FIELDS``, ``kernels`` as pairs and ``candidates`` as triples. A network is ``[name, [texts of its operators],
measurement]``, a failure ``[reason]``. Where a text is too long to be a key, it follows as one more element.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError, from_json, to_json

from latency_model.errors import InputError
from latency_model.measurement import Candidate, Measurement, NetworkRow
from latency_model.ops import Config, OpShape, parse_config
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.table_columns import ShapeReader

__all__ = ["FIELDS", "LONGEST_KEY", "Item", "Records", "config_of", "items", "key_of"]

# A field that is added to Measurement goes to the end, with a default: older records are shorter.
FIELDS = (
    *(
        "latency_us",
        "low_us",
        "high_us",
        "p5_us",
        "p25_us",
        "p75_us",
        "p95_us",
        "min_us",
        "samples",
        "method",
    ),
    *("kernels", "cold_us", "boundary_us", "error", "candidates", "sm_clock_mhz", "temperature_c", "power_w"),
    *("note", "flags", "run_id", "measured_at"),
)
_KERNELS, _CANDIDATES, _FLAGS = map(FIELDS.index, ("kernels", "candidates", "flags"))
_values = attrgetter(*FIELDS)
# PostgreSQL cannot index a text much longer than 2,700 bytes.
LONGEST_KEY = 1000


class Item(NamedTuple):
    """A row of the database, without its environment, run and position."""

    kind: str
    key: str
    latency_us: float | None
    low_us: float | None
    high_us: float | None
    measured_at: str
    record: str


def key_of(text: str) -> str:
    """Return the key of a configuration: its text, or where that is very long its start and a digest."""
    if len(text) <= LONGEST_KEY:
        return text
    return f"{text[:LONGEST_KEY]} {_digest(text)}"


def items(table: LatencyTable) -> Iterator[Item]:
    """Yield the rows of ``table``: convolutions, operators, networks, failures.

    Raises ``InputError`` for a text that is not valid Unicode.
    """
    try:
        for shape, row in table.rows.items():
            yield _measured("conv", shape.text, row)
        for op, row in table.ops.items():
            yield _measured("op", op.text, row)
        for network in table.networks:
            yield _network(network)
        for config, why in table.failures.items():
            key = key_of(config.text)
            record = to_json([why] if key == config.text else [why, config.text]).decode()
            yield Item("failure", key, None, None, None, "", record)
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise InputError(f"a row holds a text that is not valid Unicode: {error}") from error


def _measured(kind: str, text: str, row: Measurement) -> Item:
    key, values = key_of(text), _array(row)
    if key != text:
        values = (*values, text)
    record = to_json(values).decode()
    return Item(kind, key, row.latency_us, row.low_us, row.high_us, _plain(row.measured_at), record)


def _network(network: NetworkRow) -> Item:
    texts, row = [config.text for config in network.shapes], network.measurement
    name = json.dumps(network.name)[1:-1][:LONGEST_KEY]
    key = f"{name} {_digest(json.dumps([network.name, texts]))}"
    record = to_json([network.name, texts, _array(row)]).decode()
    return Item("network", key, row.latency_us, row.low_us, row.high_us, _plain(row.measured_at), record)


def _array(row: Measurement) -> tuple[Any, ...]:
    if not row.candidates:
        return _values(row)
    values = list(_values(row))
    values[_CANDIDATES] = [(c.kernels, c.latency_us, c.builds) for c in row.candidates]
    return tuple(values)


def _plain(text: str) -> str:
    """Return a text as PostgreSQL can hold it; the record has it whole."""
    return text.replace("\0", "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def config_of(key: str, record: str) -> str:
    """Return the text of the configuration of a measured row."""
    values = from_json(record)
    return str(values[-1]) if len(values) > len(FIELDS) else key


class Records:
    """Reads the records of one environment."""

    def __init__(self) -> None:
        self._shape = ShapeReader()

    def conv(self, key: str, record: str) -> tuple[ConvShape, Measurement]:
        """Return a convolution and its measurement."""
        text, row = _measured_row(key, record)
        return self._shape(text), row

    def op(self, key: str, record: str) -> tuple[OpShape, Measurement]:
        """Return another operator and its measurement."""
        text, row = _measured_row(key, record)
        return OpShape.parse(text), row

    def network(self, record: str) -> NetworkRow:
        """Return the network of a record."""
        name, texts, values = from_json(record)
        return NetworkRow(name, tuple(self._configs(texts)), _measurement(values))

    def failure(self, key: str, record: str) -> tuple[Config, str]:
        """Return the configuration that failed and the reason."""
        why, *text = from_json(record)
        return parse_config(text[0] if text else key), why

    def same(self, kind: str, record: str, other: str) -> bool:
        """Whether two records of one key are equal, however their numbers are written."""
        if record == other:
            return True
        if kind == "network":
            return self.network(record) == self.network(other)
        return bool(from_json(record) == from_json(other))

    def _configs(self, texts: Iterable[str]) -> Iterator[Config]:
        return (OpShape.parse(text) if text.startswith("op ") else self._shape(text) for text in texts)


def _measured_row(key: str, record: str) -> tuple[str, Measurement]:
    values = from_json(record)
    text = values.pop() if len(values) > len(FIELDS) else key
    return text, _measurement(values)


def _measurement(values: list[Any]) -> Measurement:
    if values[_KERNELS]:
        values[_KERNELS] = tuple(map(tuple, values[_KERNELS]))
    else:
        values[_KERNELS] = ()
    values[_CANDIDATES] = tuple(Candidate(*candidate) for candidate in values[_CANDIDATES])
    values[_FLAGS] = tuple(values[_FLAGS])
    return Measurement(*values)
