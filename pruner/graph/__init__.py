"""The channel graph: which channel axes of a model must be cut together."""

from pruner.graph.trace import trace
from pruner.graph.types import Block, ChannelGraph, Frozen, GatePoint, GraphSite, Group, Member, SizeAttribute

__all__ = [
    "Block",
    "ChannelGraph",
    "Frozen",
    "GatePoint",
    "GraphSite",
    "Group",
    "Member",
    "SizeAttribute",
    "trace",
]
