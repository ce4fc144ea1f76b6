"""The core of Gharial: types, errors, latency tables, and the model that turns tables into estimates.

The model needs SciPy, which takes longer to import than all the rest: its names are fetched when they are used, and so
is the client of the service.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latency_model.environment import Environment
from latency_model.errors import GharialError
from latency_model.measurement import Measurement, NetworkRow
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

if TYPE_CHECKING:
    from latency_model.client import Client
    from latency_model.grid import ChannelGrid
    from latency_model.model import Estimate, LatencyModel

__all__ = [
    "ChannelGrid",
    "Channels",
    "Client",
    "ConvShape",
    "Environment",
    "Estimate",
    "GharialError",
    "LatencyModel",
    "LatencyTable",
    "Measurement",
    "NetworkCost",
    "NetworkRow",
    "Site",
]

_LATER = {
    "ChannelGrid": "latency_model.grid",
    "Client": "latency_model.client",
    "Estimate": "latency_model.model",
    "LatencyModel": "latency_model.model",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
