"""What every correction of networks does, whatever its terms are, and how a stored one is read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_model.correction import Correction
from latency_model.corrections.terms import KIND, TermsCorrection
from latency_model.errors import InputError
from latency_model.network import OpSite, Site
from latency_model.networks.correction import NetworkCorrection
from latency_model.ops import Config

__all__ = ["OperatorCorrection", "correction_from_json"]

Array = NDArray[np.float64]


class OperatorCorrection(Protocol):
    """A network's latency as ``call_us`` and a share of each operator; ``networks`` were measured for it."""

    @property
    def call_us(self) -> float:
        """What a network costs beyond its operators, once."""

    @property
    def networks(self) -> int:
        """How many measured networks it was fitted on; 0: nothing is corrected."""

    @property
    def spread(self) -> float:
        """The relative standard deviation of what remains."""

    def operator_us(self, shape: Config, row_us: float, *, total_weight_bytes: float) -> float:
        """Return the share of one operator, of which the row is ``row_us``."""

    def matrix(self, site: Site | OpSite, matrix: Array, *, total_weight_bytes: float) -> Array:
        """Return the same at all channel counts; count 0 costs 0."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``correction_from_json`` reads it back."""


def correction_from_json(data: Mapping[str, Any]) -> OperatorCorrection:
    """Return the correction that any ``to_json`` wrote, earlier versions of Gharial included.

    ``TermsCorrection`` has a kind, ``NetworkCorrection`` a version, ``Correction`` neither. Raises ``InputError``
    for a kind that is not known, and for one that is damaged.
    """
    if (kind := data.get("kind")) is not None and kind != KIND:
        raise InputError(
            f"the correction of networks is of the unknown kind {kind!r}; update with: pip install -U gharial"
        )
    try:
        if kind is not None:
            return TermsCorrection.from_json(data)
        return (NetworkCorrection if "format_version" in data else Correction).from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the correction of networks is damaged ({error!r}); fit the model again") from error
