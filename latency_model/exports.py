"""A table's rows as plain records: CSV, Parquet or JSON that any other program loads, one row at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from latency_model.errors import InputError
from latency_model.files import write_atomic
from latency_model.lookup import LookupTable
from latency_model.measurement import Measurement
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.table_columns import MEASURED, in_order

__all__ = ["COLUMNS", "export", "record", "records", "write_json_rows"]

_FORMATS = (".csv", ".parquet", ".json", ".lookup")
_BATCH = 10_000
_INT, _TEXT = pa.int64(), pa.string()
_SHAPE = {
    "kind": _TEXT,
    "config": _TEXT,
    "op": _TEXT,
    "batch": _INT,
    "in_channels": _INT,
    "out_channels": _INT,
    "height": _INT,
    "width": _INT,
    "kernel_size": _INT,
    "kernel_width": _INT,
    "stride": _INT,
    "stride_width": _INT,
    "padding": _INT,
    "padding_left": _INT,
    "padding_bottom": _INT,
    "padding_right": _INT,
    "dilation": _INT,
    "dilation_width": _INT,
    "groups": _INT,
    "pattern": _TEXT,
    "precision": _TEXT,
    "layout": _TEXT,
    "out_height": _INT,
    "out_width": _INT,
    "macs": _INT,
    "inputs": _TEXT,
    "weights": _TEXT,
    "attributes": _TEXT,
}
# Every column of an export with its Arrow type, in order.
COLUMNS: dict[str, pa.DataType] = {
    **_SHAPE,
    **dict(MEASURED),
    "flags": _TEXT,
    "main_kernel": _TEXT,
}


def records(table: LatencyTable) -> Iterator[dict[str, Any]]:
    """Yield one flat dictionary per convolution, then one per operator, in the order of their shapes.

    Every dictionary has all of ``COLUMNS``; what does not apply is None. ``kernels`` and ``candidates`` are
    lists of dictionaries, ``flags`` one text with spaces between, ``main_kernel`` the kernel of most time.
    """
    for shape in in_order(table.rows):
        yield record(shape, table.rows[shape])
    for op in in_order(table.ops):
        yield record(op, table.ops[op])


def record(config: ConvShape | OpShape, row: Measurement) -> dict[str, Any]:
    """Return the dictionary of one row; see ``records``."""
    return {**(_op(config) if isinstance(config, OpShape) else _conv(config)), **_measured(row)}


def _conv(shape: ConvShape) -> dict[str, Any]:
    (kernel, kernel_width), (stride, stride_width) = shape.kernel, shape.stride
    (top, left, bottom, right), (dilation, dilation_width) = shape.padding, shape.dilation
    height, width = shape.out_height, shape.out_width
    # Positional, in the order of _SHAPE: half the time of this function would go into the keys otherwise.
    values = (
        *("conv", shape.text, "Conv", shape.batch, shape.in_channels, shape.out_channels),
        *(shape.height, shape.width, kernel, kernel_width, stride, stride_width),
        *(top, left, bottom, right, dilation, dilation_width, shape.groups),
        *(shape.pattern, shape.precision, shape.layout, height, width, shape.macs, None, None, None),
    )
    return dict(zip(_SHAPE, values, strict=True))


def _op(op: OpShape) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(_SHAPE)
    found.update(kind="op", config=op.text, op=op.op, batch=op.batch)
    found.update(precision=op.precision, layout=op.layout)
    found["inputs"] = " ".join("x".join(map(str, dims)) for dims in op.inputs)
    found["weights"] = " ".join("x".join(map(str, dims)) for dims in op.weights)
    found["attributes"] = " ".join(f"{name}={value}" for name, value in op.attributes)
    return found


def _measured(row: Measurement) -> dict[str, Any]:
    found = {name: getattr(row, name) for name, _ in MEASURED}
    found["kernels"] = [{"name": name, "share": share} for name, share in row.kernels]
    found["candidates"] = [
        {"kernels": c.kernels, "latency_us": c.latency_us, "builds": c.builds} for c in row.candidates
    ]
    found["flags"] = " ".join(row.flags)
    found["main_kernel"] = max(row.kernels, key=lambda kernel: kernel[1])[0] if row.kernels else None
    return found


def export(table: LatencyTable, path: Path) -> int:
    """Write the rows to ``path`` in the format of its ending, one of ``_FORMATS``; return how many.

    In CSV ``kernels`` and ``candidates`` are JSON texts and an empty field is a value that is not known. JSON
    holds the environment, the networks and the failures as well, Parquet the environment in its metadata.
    An ending .lookup makes a ``LookupTable``: the convolutions' latencies and intervals, and no operator.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"cannot export to {path.name}; its ending must be one of {', '.join(_FORMATS)}")
    if suffix == ".lookup":
        LookupTable.build(table).save(path)
        return len(table.rows)
    write = {".csv": _csv, ".parquet": _parquet, ".json": _json}[suffix]
    write_atomic(path, lambda target: write(table, target))
    return len(table.rows) + len(table.ops)


def _csv(table: LatencyTable, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row in records(table):
            for name in ("kernels", "candidates"):
                row[name] = json.dumps(row[name]) if row[name] else "[]"
            writer.writerow(row)


def _parquet(table: LatencyTable, path: Path) -> None:
    environment = json.dumps(table.environment.to_json()).encode()
    schema = pa.schema(list(COLUMNS.items()), metadata={b"gharial.exported_from": environment})
    rows = records(table)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _json(table: LatencyTable, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        write_json_rows(stream, table, records(table))


def write_json_rows(stream: TextIO, table: LatencyTable, rows: Iterator[dict[str, Any]]) -> None:
    """Write a JSON document of ``rows`` to ``stream`` as they come, one a line.

    Around them: the environment before, and after them the table's networks and failures.
    """
    stream.write(f'{{"environment": {_dumps(table.environment.to_json())},\n"rows": [')
    _lines(stream, rows)
    stream.write('],\n"networks": [')
    _lines(
        stream,
        (
            {
                "name": network.name,
                "convolutions": len(network.shapes),
                "shapes": [shape.text for shape in network.shapes],
                **_measured(network.measurement),
            }
            for network in table.networks
        ),
    )
    failures = {config.text: why for config, why in table.failures.items()}
    stream.write(f'],\n"failures": {_dumps(dict(sorted(failures.items())))}}}\n')


def _lines(stream: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    separator = "\n"
    for row in rows:
        stream.write(separator + _dumps(row))
        separator = ",\n"


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
