"""A regressor as JSON-ready data and arrays, and back: what a saved model holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import ModelError
from latency_model.regression.experts import Expert
from latency_model.regression.regressor import RowRegressor
from latency_model.regression.trees import Forest

__all__ = ["VERSION", "restored", "state"]

# Grows whenever a feature, another input of the trees or a part of the formulas is added, taken away or moved: saved
# trees know what they see, and saved weights parts, by their place.
VERSION = 2
_TREES = ("boosted", "averaged", "own_boosted", "own_averaged")


def state(regressor: RowRegressor) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a regressor as JSON-ready data and named arrays; ``restored`` makes it again."""
    arrays: dict[str, NDArray[Any]] = {"lowest": regressor.lowest, "highest": regressor.highest}
    for name in ("router", *_TREES):
        forest = getattr(regressor, name)
        if forest is not None:
            arrays.update({f"{name}.{key}": value for key, value in forest.arrays().items()})
    data = {
        "version": VERSION,
        "families": list(regressor.families),
        "experts": [expert.to_json() for expert in regressor.experts],
        "drift_us": regressor.drift_us,
        "own_weight": regressor.own_weight,
        "spread_weights": list(regressor.spread_weights),
    }
    return data, arrays


def restored(data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> RowRegressor:
    """Return the regressor that ``state`` took apart.

    Raises ``ModelError`` when a part of it is missing, or when it was fitted with other features or formulas
    than there are now.
    """
    if data.get("version") != VERSION:
        raise ModelError(
            "the regression was fitted by another version of Gharial, by other formulas; fit the model again"
        )
    try:
        experts = tuple(Expert.from_json(expert) for expert in data["experts"])
        one, two, three = map(float, data["spread_weights"])
        forests = {name: _forest(arrays, name) for name in _TREES}
        return RowRegressor(
            families=tuple(data["families"]),
            experts=experts,
            router=_forest(arrays, "router") if len(experts) > 1 else None,
            **forests,
            lowest=np.asarray(arrays["lowest"]),
            highest=np.asarray(arrays["highest"]),
            drift_us=float(data["drift_us"]),
            own_weight=float(data["own_weight"]),
            spread_weights=(one, two, three),
        )
    except KeyError as missing:
        raise ModelError(f"the saved regression lacks {missing}; fit the model again") from None


def _forest(arrays: Mapping[str, NDArray[Any]], name: str) -> Forest:
    start = f"{name}."
    return Forest.from_arrays(
        {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}
    )
