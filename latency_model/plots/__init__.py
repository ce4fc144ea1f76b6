"""Pictures of latency tables: staircases over channel counts, and heat maps over both counts of a site."""

from latency_model.plots.draw import draw
from latency_model.plots.heat import HEATS

__all__ = ["HEATS", "draw"]
