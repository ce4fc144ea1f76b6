"""The core of Gharial: types, errors, latency tables, and the model that turns tables into estimates."""

from latency_model.environment import Environment
from latency_model.errors import GharialError
from latency_model.grid import ChannelGrid
from latency_model.measurement import Measurement, NetworkRow
from latency_model.model import Estimate, LatencyModel
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

__all__ = [
    "ChannelGrid",
    "Channels",
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
