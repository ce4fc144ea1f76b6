"""What each ATen operator does to channel labels: a registry by operator name.

A rule reads the labels of the inputs, joins or freezes classes, binds parameter axes, and stores the labels
of the output. An operator without a rule keeps all its inputs whole and is reported.
"""

from pruner.graph.rules import elementwise, layers, movement, norms, reductions
from pruner.graph.rules.registry import RULES, rule

__all__ = ["RULES", "elementwise", "layers", "movement", "norms", "reductions", "rule"]
