"""Which rows one formula may describe: those of one kernel, as far as names tell, else those that one formula fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.regression.experts import search, unseen
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.parts import BLOCKED, TILINGS, Tiling
from latency_model.regression.paths import paths
from latency_model.rows.kernels import split_kernels

__all__ = ["LEAST_ROWS", "by_fit", "by_kernel", "by_path", "fits_paths", "structure"]

LEAST_ROWS = 25
_MANY_ROWS = 40
_ROUNDS = 4
_FORMULAS = 4
_MUCH_BETTER = 0.6
_NUMBER = re.compile(r"\d+")
_ARGUMENTS = re.compile(r"[<(].*", re.DOTALL)


def structure(columns: ConvColumns, sizes: Geometry) -> list[str]:
    """Return what no two formulas share: 1x1 or larger window, strided, depthwise or grouped, precision."""
    precisions = [kind.precision for kind in columns.kinds]
    each = sizes.outputs / sizes.groups
    grouped = (sizes.groups > 1) & ~sizes.depthwise
    whole = grouped & (sizes.depth % 16 == 0) & (each % 16 == 0)
    parts = zip(
        np.where(sizes.depthwise, "dw", np.where(sizes.taps == 1, "1x1", "kxk")).tolist(),
        np.where(sizes.stride > 1, " s", "").tolist(),
        np.where(whole, " g16", np.where(grouped, " g", "")).tolist(),
        columns.kind.tolist(),
        strict=True,
    )
    return [f"{window}{strided}{groups} {precisions[kind]}" for window, strided, groups, kind in parts]


def by_kernel(kernels: Sequence[str], structures: Sequence[str]) -> list[str]:
    """Return a family for each row: its kernel's name, less exact the fewer rows have it.

    A text may name several kernels, separated by semicolons: the main one counts, and which others run with it,
    but for those that pad channels, which the formulas know of. Names that fewer than 40 rows have go without their
    numbers (tile sizes); those that fewer than 25 rows then have count as their structure alone, as do rows
    without a name.
    """
    short = {text: _short(text) for text in set(kernels)}
    names = [short[text] for text in kernels]
    counts = Counter(names)
    names = [name if counts[name] >= _MANY_ROWS else _NUMBER.sub("#", name) for name in names]
    counts = Counter(names)
    return [
        name if name and counts[name] >= LEAST_ROWS else what
        for name, what in zip(names, structures, strict=True)
    ]


def _short(text: str) -> str:
    main, *others = split_kernels(text) or ("",)
    bare = {_ARGUMENTS.sub("", name).rpartition("::")[2].rpartition(" ")[2] for name in others}
    return " + ".join([main, *sorted(name for name in bare if "AddPadding" not in name and name not in main)])


def by_fit(sizes: Geometry, latency_us: Array, structures: Sequence[str], *, units: int) -> list[str]:
    """Return a family for each row of which no kernel is known: each row goes to the formula that fits it best.

    Within a structure up to four formulas are fitted to the rows that they describe better than the others, by
    turns (Lloyd's algorithm with formulas in place of means, as in k-plane clustering).
    """
    found = list(structures)
    groups = np.array(structures)
    for name in dict.fromkeys(structures):
        rows = np.flatnonzero(groups == name)
        if len(rows) < 3 * LEAST_ROWS:
            continue
        for row, label in zip(rows, _split(sizes.take(rows), latency_us[rows], units), strict=True):
            found[row] = f"{name} {label}"
    return found


def by_path(sizes: Geometry) -> list[str]:
    """Return a family for each row of a runtime whose kernels ``counts`` knows: the kernel that runs.

    Names that fewer than 25 rows have go without their last word, what sets the rows apart least.
    """
    names = paths(sizes)
    for _ in range(2):
        counts = Counter(names)
        names = [name if counts[name] >= LEAST_ROWS else name.rpartition(" ")[0] or name for name in names]
    return names


def fits_paths(sizes: Geometry, latency_us: Array, structures: Sequence[str], *, units: int) -> bool:
    """Return whether the rows are those of a runtime whose kernels ``counts`` knows.

    They are if the formulas of those kernels have much smaller errors than those of tiles, a family for each
    structure. Errors are of rows that a formula was fitted without; on GPUs the two are about the same.
    """
    errors = []
    for labels, tilings in ((by_path(sizes), (BLOCKED,)), (structures, _SHORT)):
        groups = np.array(labels)
        found = []
        for name in dict.fromkeys(labels):
            rows = np.flatnonzero(groups == name)
            if len(rows) >= LEAST_ROWS:
                few, times = sizes.take(rows), latency_us[rows]
                expert = search(few, times, units=units, tilings=tilings)
                found.append(np.abs(np.log(unseen(expert, few, times) / times)))
        if not found:
            return False
        errors.append(float(np.median(np.concatenate(found))))
    return errors[0] < _MUCH_BETTER * errors[1]


def _split(sizes: Geometry, latency_us: Array, units: int) -> NDArray[np.int64]:
    """Return the number of the formula of each row."""
    # By the order of efficiency: kernels differ in it more than in anything else.
    rate = latency_us / search(sizes, latency_us, units=units, tilings=_SHORT).predict(sizes)
    label = np.searchsorted(np.quantile(rate, np.arange(1, _FORMULAS) / _FORMULAS), rate)
    for _ in range(_ROUNDS):
        errors = np.full((len(label), _FORMULAS), np.inf)
        for number in range(_FORMULAS):
            mine = np.flatnonzero(label == number)
            if len(mine) >= LEAST_ROWS:
                expert = search(sizes.take(mine), latency_us[mine], units=units, tilings=_SHORT)
                errors[:, number] = np.abs(np.log(expert.predict(sizes) / latency_us))
        label = errors.argmin(axis=1)
    return label


_SHORT: tuple[Tiling, ...] = tuple(
    t for t in TILINGS if (t.span, t.channels) in ((1, 16), (128, 64), (64, 64))
)
