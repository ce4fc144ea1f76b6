"""The stages of a pruning run, each of which goes on where it was stopped: rewrite, learn, decide, recover."""

from __future__ import annotations

from pruner.stages.base import Stages
from pruner.stages.deciding import decided
from pruner.stages.learning import learn
from pruner.stages.recovering import recover
from pruner.stages.rewriting import after_edits, rewrite

__all__ = ["Stages", "after_edits", "decided", "learn", "recover", "rewrite"]
