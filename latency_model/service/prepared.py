"""What is built from the rows of an environment and kept in files: its lookup table, its model, its exported table.

A file's name holds the environment, its revision and when that came about, so a file answers for just these rows,
whatever database it meets. Files are written beside and renamed; those of older revisions are removed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latency_model.columns import ConvColumns
from latency_model.errors import GharialError, TableError
from latency_model.files import read_json, write_json
from latency_model.lookup import LookupTable
from latency_model.lookup.texts import columns_of
from latency_model.service.store.database import Database
from latency_model.service.store.rows import EnvironmentInfo, latencies, save_table
from latency_model.table import LatencyTable
from latency_model.table_columns import in_order

if TYPE_CHECKING:
    from latency_model.model import LatencyModel

__all__ = ["Latency", "Lookups", "build_lookups", "describe", "load_lookups", "model_of", "table_file"]

_LOOKUP, _OPS, _TABLE, _MODEL = ".lookup", ".ops.json", ".parquet", ".model"
Latency = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Lookups:
    """The latencies of one revision: convolutions in a mapped file, operators by their texts, as (us, low, high)."""

    info: EnvironmentInfo
    convs: LookupTable
    ops: Mapping[str, Latency]

    @cached_property
    def columns(self) -> ConvColumns:
        """The convolutions as arrays, in the order of the file."""
        return self.convs.columns


def _stem(info: EnvironmentInfo) -> str:
    # The moment of the change tells a restored database from another that has come as far.
    return f"{info.key}-{info.revision}-{int(info.changed_at * 1e6):x}"


def load_lookups(folder: Path, info: EnvironmentInfo) -> Lookups | None:
    """Return what ``build_lookups`` left for this revision, None when it is not there or damaged."""
    path = folder / (_stem(info) + _LOOKUP)
    try:
        convs = LookupTable.load(path)
        ops = {text: (us, low, high) for text, (us, low, high) in read_json(path.with_suffix(_OPS)).items()}
    except (GharialError, ValueError, TypeError, AttributeError):
        return None
    return Lookups(info, convs, ops) if convs.environment == info.environment else None


def build_lookups(database: Database, folder: Path, key: str) -> Lookups:
    """Read the latencies of an environment and return them from the files that were made of them."""
    parts: list[ConvColumns] = []
    columns: tuple[list[np.ndarray], ...] = ([], [], [])
    ops: dict[str, Latency] = {}
    with latencies(database, key) as (info, found):
        for part in found:
            numbers = (part.latency_us, part.low_us, part.high_us)
            if part.kind == "op":
                ops.update(zip(part.configs, zip(*numbers, strict=True), strict=True))
                continue
            parts.append(columns_of(part.configs))
            for column, values in zip(columns, numbers, strict=True):
                column.append(np.array(values, dtype=np.float64))
    arrays = [np.concatenate([np.empty(0), *column]) for column in columns]
    table = LookupTable.of(info.environment, _joined(parts), *arrays)
    path = folder / (_stem(info) + _LOOKUP)
    write_json(path.with_suffix(_OPS), ops)
    table.save(path)
    _remove_older(folder, info)
    return load_lookups(folder, info) or Lookups(info, table, ops)


def _joined(parts: list[ConvColumns]) -> ConvColumns:
    """Return the columns of all ``parts``, kinds that several have as one."""
    names = ("batch", "in_channels", "height", "width", "out_channels", "groups")
    places: dict[object, int] = {}
    kinds = [np.array([places.setdefault(k, len(places)) for k in p.kinds], dtype=np.int64) for p in parts]
    none = np.empty(0, dtype=np.int64)
    sizes = {name: np.concatenate([none, *(getattr(part, name) for part in parts)]) for name in names}
    kind = np.concatenate([none, *(codes[part.kind] for codes, part in zip(kinds, parts, strict=True))])
    return ConvColumns(**sizes, kind=kind, kinds=tuple(places))  # type: ignore[arg-type]


def table_file(database: Database, folder: Path, info: EnvironmentInfo) -> Path:
    """Return the file that ``LatencyTable.load`` reads, of this revision or a later one."""
    path = folder / (_stem(info) + _TABLE)
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".table-") as temporary:
        made = Path(temporary) / "table.parquet"
        info = save_table(database, info.key, made)
        path = folder / (_stem(info) + _TABLE)
        made.replace(path)
    _remove_older(folder, info)
    return path


def model_of(database: Database, folder: Path, info: EnvironmentInfo) -> LatencyModel:
    """Return the model that ``gharial estimate --table`` fits on a table, from its folder if it is there.

    Rows are in the order of ``LatencyTable.save``, so that every number is the one of the file.
    """
    from latency_model.model import LatencyModel

    place = folder / (_stem(info) + _MODEL)
    if place.is_dir():
        with contextlib.suppress(GharialError):
            return LatencyModel.load(place)
        shutil.rmtree(place, ignore_errors=True)
    table = LatencyTable.load(table_file(database, folder, info))
    rows = {shape: table.rows[shape] for shape in in_order(table.rows)}
    ops = {op: table.ops[op] for op in in_order(table.ops)}
    if not rows:
        raise TableError(
            f"the environment {info.key} has no rows of convolutions; ask for some to be measured"
        )
    model = LatencyModel.fit([replace(table, rows=rows, ops=ops)])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as temporary:
        model.save(Path(temporary) / "model")
        with contextlib.suppress(OSError):  # another process was quicker
            (Path(temporary) / "model").rename(place)
    return model


def _remove_older(folder: Path, info: EnvironmentInfo) -> None:
    """Remove the files of revisions before ``info``; what is mapped or being sent stays readable."""
    for path, revision in _files(folder, info.key):
        if revision < info.revision:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _files(folder: Path, key: str) -> Iterator[tuple[Path, int]]:
    for path in folder.glob(f"{key}-*"):
        revision = path.name.split("-")[1]
        if revision.isdecimal():
            yield path, int(revision)


def describe(model: LatencyModel) -> dict[str, object]:
    """Return what a model rests on, JSON-ready."""
    correction = model.correction if model.prices is None else model.prices.correction
    return {
        "rows": len(model.table),
        "ops": len(model.table.ops),
        "networks": [network.name for network in model.table.networks],
        "correction": json.loads(json.dumps(correction.to_json())),
        "families": model.families is not None,
        "regression": model.rows is not None,
        "notes": list(model.notes),
    }
