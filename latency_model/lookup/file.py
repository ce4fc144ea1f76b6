"""The file of a lookup table: Arrow IPC, not compressed, so that it is mapped and not read.

One record batch; its columns are what ``Parts`` holds. The schema's metadata has the version of the format, the
environment, kinds and widths of the keys as JSON, and a checksum of these and of all columns.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from latency_model.columns import Kind
from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.files import write_atomic
from latency_model.lookup.keys import Packing

__all__ = ["FORMAT_VERSION", "VALUES", "Parts", "read_parts", "write_parts"]

FORMAT_VERSION = 1
VALUES = ("latency_us", "low_us", "high_us")

_VERSION_KEY = b"gharial.lookup_version"
_HEADER_KEY = b"gharial.lookup"
_CHECKSUM_KEY = b"gharial.lookup_crc32"
_MAGIC = b"ARROW1"
_MAKE = "make one with: gharial tables export TABLE --out FILE.lookup"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a lookup table is made of; all arrays have one entry a row.

    ``starts``, uint32, holds for each of as many buckets as there are rows the place of its first row;
    ``words`` are the keys, uint64 arrays, and ``values`` the three float64 arrays of ``VALUES``.
    """

    environment: Environment
    kinds: tuple[Kind, ...]
    packing: Packing
    starts: NDArray[np.uint32]
    words: tuple[NDArray[np.uint64], ...]
    values: tuple[NDArray[np.float64], ...]

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names in the file."""
        keys = {f"key{place}": words for place, words in enumerate(self.words)}
        return {"bucket_start": self.starts, **keys, **dict(zip(VALUES, self.values, strict=True))}


def write_parts(path: Path, parts: Parts) -> None:
    """Write ``parts`` to ``path`` atomically."""
    header = {
        "environment": parts.environment.to_json(),
        "kinds": [dataclasses.asdict(kind) for kind in parts.kinds],
        "bits": list(parts.packing.bits),
    }
    text = json.dumps(header).encode()
    columns = parts.columns
    metadata = {
        _VERSION_KEY: str(FORMAT_VERSION).encode(),
        _HEADER_KEY: text,
        _CHECKSUM_KEY: str(_checksum(text, columns)).encode(),
    }
    arrays = [
        pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(np.ascontiguousarray(column))])
        for kind, column in zip(_types(parts.packing).values(), columns.values(), strict=True)
    ]
    batch = pa.record_batch(arrays, names=list(columns)).replace_schema_metadata(metadata)

    def write(target: Path) -> None:
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    write_atomic(path, write)


def read_parts(path: Path, *, check: bool) -> Parts:
    """Return what ``write_parts`` wrote, with arrays that are the mapped file; see ``LookupTable.load``."""
    if path.is_dir():
        raise TableError(f"{path} is a folder, not a lookup table; give the path of a file")
    if not path.is_file():
        raise TableError(f"no lookup table at {path}; {_MAKE}")
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_MAGIC))
        if start != _MAGIC:
            raise TableError(f"{path} is not a lookup table; {_MAKE}")
        # The mapping lives as long as the arrays made from it.
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            metadata = reader.schema.metadata or {}
            if _VERSION_KEY not in metadata:
                raise TableError(f"{path} is an Arrow file but not a lookup table; {_MAKE}")
            if int(metadata[_VERSION_KEY]) > FORMAT_VERSION:
                raise TableError(
                    f"{path} was written by a later version of Gharial; update with: pip install -U gharial"
                )
            if reader.num_record_batches != 1:
                raise ValueError(f"{reader.num_record_batches} record batches, not one")
            batch = reader.get_batch(0)
        batch.validate()
        parts = _parts(json.loads(metadata[_HEADER_KEY]), batch)
        if check and _checksum(metadata[_HEADER_KEY], parts.columns) != int(metadata[_CHECKSUM_KEY]):
            raise ValueError("its checksum is wrong")
        return parts
    except TableError:
        raise
    except Exception as error:  # pyarrow has its own types for truncation, bad lengths and missing columns
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = f"nothing under {reason}" if isinstance(error, KeyError) else reason
        raise TableError(f"{path} is damaged ({reason}); {_MAKE}") from error


def _types(packing: Packing) -> dict[str, pa.DataType]:
    """Return the columns of a file in order."""
    keys = {f"key{place}": pa.uint64() for place in range(packing.count)}
    return {"bucket_start": pa.uint32(), **keys, **dict.fromkeys(VALUES, pa.float64())}


def _parts(header: Any, batch: pa.RecordBatch) -> Parts:
    packing = Packing(tuple(header["bits"]))
    types = _types(packing)
    found = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    if found != types:
        raise ValueError(f"its columns are {', '.join(found)}")
    arrays = {name: _mapped(batch.column(name)) for name in types}
    return Parts(
        Environment.from_json(header["environment"]),
        tuple(map(_kind, header["kinds"])),
        packing,
        arrays["bucket_start"],
        tuple(arrays[f"key{place}"] for place in range(packing.count)),
        tuple(arrays[name] for name in VALUES),
    )


def _mapped(column: pa.Array) -> NDArray[Any]:
    """Return the bytes of ``column`` as they are; ``to_numpy`` would first import pandas, for half a second."""
    kind = np.dtype(column.type.to_pandas_dtype())
    if not len(column):
        return np.empty(0, dtype=kind)
    if column.null_count or column.offset:
        raise ValueError("a column has nulls")
    return np.frombuffer(column.buffers()[1], dtype=kind, count=len(column))


def _kind(data: dict[str, Any]) -> Kind:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items()}
    return Kind(**fields)


def _checksum(header: bytes, columns: dict[str, NDArray[Any]]) -> int:
    found = zlib.crc32(header)
    for name, column in columns.items():
        found = zlib.crc32(pa.py_buffer(np.ascontiguousarray(column)), zlib.crc32(name.encode(), found))
    return found
