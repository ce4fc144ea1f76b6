"""Questions and answers of a bulk lookup as Arrow IPC streams: what goes over the wire.

A question has the seven columns of ``ConvColumns`` as integers, and its kinds as JSON in the schema's metadata. An
answer has three columns of floats, NaN where nothing was found, and one of booleans. Streams that come from elsewhere
are checked in full, and compressed ones refused: a few bytes could claim any amount of memory.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import InputError
from latency_model.lookup.keys import FIELDS
from latency_model.lookup.table import LookupResult

__all__ = ["MOST_KINDS", "columns_from_arrow", "columns_to_arrow", "result_from_arrow", "result_to_arrow"]

MOST_KINDS = 100_000
_KINDS = b"gharial.kinds"
_RESULT = ("latency_us", "low_us", "high_us", "found")


def columns_to_arrow(columns: ConvColumns) -> bytes:
    """Return the stream that asks for ``columns``."""
    kinds = json.dumps([dataclasses.asdict(kind) for kind in columns.kinds]).encode()
    arrays = [pa.array(getattr(columns, name), pa.int64()) for name in FIELDS]
    batch = pa.record_batch(arrays, names=list(FIELDS)).replace_schema_metadata({_KINDS: kinds})
    return _written(batch)


def columns_from_arrow(data: bytes, *, most: int | None = None) -> ConvColumns:
    """Return the convolutions that a stream asks for, up to ``most``; ``InputError`` for any other stream."""
    try:
        with pa.ipc.open_stream(_checked(data)) as reader:
            schema = reader.schema
            if set(schema.names) != set(FIELDS) or len(schema.names) != len(FIELDS):
                raise InputError(f"its columns are {', '.join(schema.names)[:200]}, not {', '.join(FIELDS)}")
            if not all(pa.types.is_integer(field.type) for field in schema):
                raise InputError("its columns must be integers")
            kinds = _kinds((schema.metadata or {}).get(_KINDS))
            table = reader.read_all()
        table.validate(full=True)
        if most is not None and len(table) > most:
            raise InputError(f"it asks for {len(table)} convolutions; send up to {most} at a time")
        if any(column.null_count for column in table.columns):
            raise InputError("a column has nulls")
        arrays = {name: _numbers(table.column(name).cast(pa.int64())) for name in FIELDS}
    except InputError as error:
        raise InputError(f"this Arrow stream asks for no convolutions: {error}") from error
    except Exception as error:  # pyarrow has its own types for truncation, bad lengths and bad offsets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"this Arrow stream cannot be read: {reason[:200]}") from error
    return ConvColumns(**arrays, kinds=kinds)


def result_to_arrow(found: LookupResult) -> bytes:
    """Return the stream that answers with ``found``."""
    arrays = [pa.array(getattr(found, name)) for name in _RESULT]
    return _written(pa.record_batch(arrays, names=list(_RESULT)))


def result_from_arrow(data: bytes) -> LookupResult:
    """Return what ``result_to_arrow`` wrote; ``InputError`` for anything else."""
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all().combine_chunks()
        latency, low, high = (_numbers(table.column(name)) for name in _RESULT[:3])
        found = table.column("found").to_numpy().astype(np.bool_)
    except Exception as error:  # pyarrow has its own types
        raise InputError(f"this is no answer to a bulk lookup: {error}") from error
    return LookupResult(latency, low, high, found)


def _written(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    # Each chunk by its buffer: ``to_numpy`` of a chunked array would first import pandas, for half a second.
    chunks = [chunk.to_numpy(zero_copy_only=True) for chunk in column.chunks if len(chunk)]
    kind = np.dtype(column.type.to_pandas_dtype())
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, kind), *chunks])


def _kinds(text: bytes | None) -> tuple[Kind, ...]:
    if text is None:
        raise InputError(f"its schema has no metadata {_KINDS.decode()}, the JSON of the kinds")
    try:
        listed = json.loads(text)
        if not isinstance(listed, list) or len(listed) > MOST_KINDS:
            raise InputError(f"its kinds must be a list of up to {MOST_KINDS}")
        return tuple(map(_kind, listed))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"its kinds cannot be read: {error}") from error


def _kind(data: dict[str, Any]) -> Kind:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
    kind = Kind(**fields)
    hash(kind)  # TypeError for lists within lists
    return kind


def _checked(data: bytes) -> pa.Buffer:
    """Return ``data``; ``InputError`` when a part of it is compressed or no record batch."""
    buffer = pa.py_buffer(data)
    for place, message in enumerate(pa.ipc.MessageReader.open_stream(buffer)):
        if (message.type == "schema") != (place == 0) or message.type not in ("schema", "record batch"):
            raise InputError(f"part {place} of it is a {message.type}")
        if place and _compressed(message.metadata.to_pybytes()):
            raise InputError("it is compressed; send it as it is")
    return buffer


def _compressed(metadata: bytes) -> bool:
    """Whether the FlatBuffers ``Message`` of a record batch says how its body is compressed.

    ``header`` is the third field of a Message and ``compression`` the fourth of a RecordBatch: places 8 and 10 of
    their tables of offsets.
    """
    message = struct.unpack_from("<I", metadata, 0)[0]
    header = _field(metadata, message, 8)
    if header is None:
        raise InputError("a part of it has no header")
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, batch, 10) is not None


def _field(data: bytes, table: int, place: int) -> int | None:
    """Return where the field at ``place`` of the offsets of a FlatBuffers table lies, None where it is absent."""
    offsets = table - struct.unpack_from("<i", data, table)[0]
    if offsets < 0:
        raise InputError("an offset points nowhere")
    size = struct.unpack_from("<H", data, offsets)[0]
    offset = struct.unpack_from("<H", data, offsets + place)[0] if place + 2 <= size else 0
    return table + offset if offset else None
