"""The convolutions that the rows of a file describe, checked column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import RowsError
from latency_model.rows.cells import numbers, words
from latency_model.rows.duplicates import group
from latency_model.rows.problems import Problems, counted
from latency_model.rows.row_set import Defaults
from latency_model.rows.source import Source
from latency_model.shapes import LAYOUTS, PATTERNS, PRECISIONS

__all__ = ["GEOMETRY", "NEEDED", "Geometry"]

NEEDED = ("batch", "in_channels", "out_channels", "height", "kernel_size")
_AXES = ("kernel_width", "stride_width", "dilation_width", "padding_left", "padding_bottom", "padding_right")
_WORDS: Mapping[str, Sequence[str]] = {"pattern": PATTERNS, "precision": PRECISIONS, "layout": LAYOUTS}
# Every column that says something of a convolution. Those of the second axis are the names of `gharial tables export`.
GEOMETRY = (*NEEDED, "width", "stride", "padding", "dilation", "groups", *_AXES, *_WORDS)
_PRECISION_NAMES = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_MOST = 2**31 - 1
_SIZES = ("batch", "in_channels", "height", "width", "out_channels", "groups")

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Geometry:
    """The convolution of each row of ``source``; what is wrong goes to ``problems``, what is assumed to ``assumed``.

    A missing column, or an empty cell of one, means: width as height, stride 1, padding kernel_size // 2,
    dilation 1, groups 1, the rest from ``defaults``. Raises ``RowsError`` when a needed column is missing.
    """

    def __init__(self, source: Source, defaults: Defaults, problems: Problems) -> None:
        self.assumed: list[str] = []
        self._source, self._problems = source, problems
        if lacking := [name for name in NEEDED if name not in source.columns]:
            raise RowsError(
                f"{source.path} has no column{'s' * (len(lacking) > 1)} {', '.join(lacking)}, only "
                f"{', '.join(source.names)}; name its columns like: {', '.join(NEEDED)}"
            )
        read = self._whole
        one = np.ones(source.count, dtype=np.int64)
        values = {name: read(name) for name in ("batch", "in_channels", "out_channels", "height")}
        values["width"] = read("width", values["height"], "width = height")
        values["groups"] = read("groups", one, "groups 1")
        kernel = read("kernel_size")
        kernel_width = read("kernel_width", kernel)
        stride = read("stride", one, "stride 1")
        dilation = read("dilation", one)
        top = read("padding", kernel // 2, "padding = kernel_size // 2", least=0)
        given = "padding" in source.columns
        left = read("padding_left", top if given else kernel_width // 2, least=0)
        parts = {
            "kernel": (kernel, kernel_width),
            "stride": (stride, read("stride_width", stride)),
            "padding": (
                top,
                left,
                read("padding_bottom", top, least=0),
                read("padding_right", left, least=0),
            ),
            "dilation": (dilation, read("dilation_width", dilation)),
        }
        self._check(values, parts)
        codes = {name: self._coded(name, getattr(defaults, name)) for name in _WORDS}
        flat = [*(column for part in parts.values() for column in part), *codes.values()]
        first, kind = group(flat)
        self._kind, self._sizes = kind, values
        self._kinds = tuple(self._kind_of(int(row), parts, codes) for row in first)

    @property
    def keys(self) -> list[Ints]:
        """Columns that are equal in two rows exactly when these are the same convolution."""
        return [*(self._sizes[name] for name in _SIZES), self._kind]

    def columns(self, places: Ints) -> ConvColumns:
        """Return the convolutions of the rows at ``places``, which must be good ones."""
        held, kind = np.unique(self._kind[places], return_inverse=True)
        kinds = tuple(self._kinds[k] for k in held)
        sizes = {name: self._sizes[name][places] for name in _SIZES}
        return ConvColumns(**sizes, kind=kind.astype(np.int64), kinds=kinds)

    def _whole(self, name: str, fallback: Ints | None = None, meaning: str = "", *, least: int = 1) -> Ints:
        """Return a column of whole numbers; a ``fallback`` stands where a cell or the column is missing."""
        column = self._source.columns.get(name)
        if column is None and fallback is not None:
            self._assume(meaning)
            return fallback
        read = numbers(column)
        self._problems.add(read.text, f"{name} is no number")
        if fallback is None:
            self._problems.add(read.empty, f"{name} is empty")
        else:
            self._assume(meaning or f"{name} as without that column", read.empty)
        known = ~(read.empty | read.text)
        values = np.where(known, read.values, least)
        self._problems.add(values != np.floor(values), f"{name} is no whole number")
        self._problems.add(values < least, f"{name} is {'negative' if least == 0 else 'zero or negative'}")
        self._problems.add(values > _MOST, f"{name} is above {_MOST}")
        whole = np.clip(values, least, _MOST).astype(np.int64)
        return whole if fallback is None else np.where(known, whole, fallback)

    def _coded(self, name: str, fallback: str) -> Ints:
        """Return the places of a column's words among the known ones."""
        known = {word: place for place, word in enumerate(_WORDS[name])}
        default = known.get(fallback)
        if default is None:
            raise RowsError(
                f"unknown {name} {fallback!r} as the default of rows; known are {', '.join(known)}"
            )
        column = self._source.columns.get(name)
        if column is None:
            self._assume(f"{name} {fallback}")
            return np.full(self._source.count, default, dtype=np.int64)
        read = words(column)
        self._assume(f"{name} {fallback}", read.codes < 0)
        lower = [word.lower() for word in read.words]
        codes = [known.get(_PRECISION_NAMES.get(w, w) if name == "precision" else w, -1) for w in lower]
        for place, word in enumerate(read.words):
            if codes[place] < 0 and word:
                self._problems.add(
                    read.codes == place, f"{name} is {word!r}, which is none of {', '.join(known)}"
                )
        found = np.array([*codes, default], dtype=np.int64)[read.codes]
        return np.where(found < 0, default, found)

    def _assume(self, meaning: str, where: Mask | None = None) -> None:
        """Note what was taken for the rows ``where``, for all of them when that is not given."""
        rows = self._source.count if where is None else int((where & ~self._problems.bad).sum())
        if meaning and rows:
            self.assumed.append(meaning if where is None else f"{meaning} (in {counted(rows)})")

    @staticmethod
    def _kind_of(row: int, parts: Mapping[str, tuple[Ints, ...]], codes: Mapping[str, Ints]) -> Kind:
        numbers = {name: tuple(int(column[row]) for column in part) for name, part in parts.items()}
        texts = {name: known[int(codes[name][row])] for name, known in _WORDS.items()}
        return Kind(**cast(Any, {**numbers, **texts}))

    def _check(self, values: Mapping[str, Ints], parts: Mapping[str, tuple[Ints, ...]]) -> None:
        groups = values["groups"]
        for name in ("in_channels", "out_channels"):
            self._problems.add(values[name] % groups != 0, f"groups do not divide {name}")
        for axis, name in enumerate(("height", "width")):
            span = parts["dilation"][axis] * (parts["kernel"][axis] - 1) + 1
            padded = values[name] + parts["padding"][axis] + parts["padding"][axis + 2]
            self._problems.add(span > padded, f"the kernel is larger than the padded {name}")
