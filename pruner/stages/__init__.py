"""The stages of a pruning run, each of which goes on where it was stopped: learn, decide, recover."""

from __future__ import annotations

from pruner.stages.base import Stages
from pruner.stages.deciding import decided
from pruner.stages.learning import learn
from pruner.stages.recovering import recover

__all__ = ["Stages", "decided", "learn", "recover"]
