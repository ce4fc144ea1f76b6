"""What the regression of the known device says of convolutions, besides their latency there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latency_model.columns import ConvColumns
from latency_model.regression.features import baseline_us
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.regressor import RowRegressor

__all__ = ["View", "look"]

_DOUBT = 0.01  # share of the chances that goes to all families: another device may choose another kernel


@dataclass(frozen=True, eq=False)
class View:
    """Of n convolutions: ``plain`` features, ``chance`` of each of the k families, shape (n, k).

    ``predicted`` and ``mixed`` are logarithms of microseconds on the known device: of the whole regression, and of
    its formulas alone.
    """

    sizes: Geometry
    plain: Array
    chance: Array
    predicted: Array
    mixed: Array


def look(source: RowRegressor, columns: ConvColumns) -> View:
    """Return what ``source`` says of ``columns``."""
    sizes = Geometry.of(columns)
    plain = source.features(columns, sizes)
    costs = np.column_stack([np.log(expert.predict(sizes)) for expert in source.experts])
    if source.router is None:
        chance = np.ones((len(columns), 1))
    else:
        chance = source.router.predict(np.column_stack([plain, costs - np.log(baseline_us(sizes))[:, None]]))
    mixed = np.log((chance * np.exp(costs)).sum(axis=1))
    equal = 1.0 / len(source.experts)
    return View(
        sizes,
        plain,
        (1.0 - _DOUBT) * chance + _DOUBT * equal,
        np.log(source.predict(columns, without_drift=True)),
        mixed,
    )
