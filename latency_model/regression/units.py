"""How many processors a device has, as its waves show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from latency_model.regression.experts import ranked
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.parts import TILINGS

__all__ = ["UNITS", "units_of"]

# Processor counts of known GPUs; 1 has no waves.
UNITS = (1, 14, 20, 24, 30, 40, 46, 58, 68, 72, 80, 82, 84, 108, 114, 128, 132, 142, 144)
_FAMILIES = 4
_LEAST_ROWS = 40
_ROWS = 250
_FIRST = (40, 80, 108, 132)  # what tilings are looked for with
_TIE = 0.0002  # of the logarithm of the error
_KEPT = 2  # tilings for each of these


def units_of(sizes: Geometry, latency_us: Array, labels: Sequence[str], *, seed: int = 0) -> int:
    """Return the number of processors whose waves show best in the rows of the most frequent families.

    Those of which one formula says nearly all tell the most: each family votes by the logarithm of its error.
    """
    rng, names = np.random.default_rng(seed), np.array(labels)
    errors, counts = np.zeros(len(UNITS)), []
    for name, count in Counter(labels).most_common(_FAMILIES):
        if count < _LEAST_ROWS:
            break
        rows = np.flatnonzero(names == name)
        if count > _ROWS:
            rows = rng.choice(rows, _ROWS, replace=False)
        few, times = sizes.take(rows), latency_us[rows]
        tilings = {t for units in _FIRST for _, t in ranked(few, times, TILINGS, units)[:_KEPT]}
        found = [ranked(few, times, sorted(tilings, key=str), units)[0][0] for units in UNITS]
        counts.append(len(rows))
        errors += len(rows) * np.log(np.maximum(found, 1e-6))
    best = UNITS[int(errors.argmin())]
    # A formula of half as many processors, each with two tiles at once, says the same.
    near = errors <= errors.min() + _TIE * sum(counts)
    return max(
        units
        for units, is_near in zip(UNITS, near, strict=True)
        if units == best or (is_near and units == 2 * best)
    )
