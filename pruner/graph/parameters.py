"""Labels of parameters: the axes that are cut, and weights that the model computes from parameters.

A computed weight (standardised, normalised, scaled, reshaped) carries several label tensors, one for each
axis of the parameter it comes from, because each of its elements belongs to an output channel and to an
input channel at once. They flow through the operators that compute it, and are bound where it is used.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node

from pruner.graph.labels import Labels, fixed, varying

__all__ = ["Parameters", "value_of"]


def value_of(node: Node) -> Any:
    """Return the fake value that the exporter recorded for ``node``."""
    return node.meta.get("val")


class Parameters:
    """Which labels each parameter axis is cut with, and why parameters stay whole."""

    def __init__(self) -> None:
        self.labels = Labels()
        self.leaves: dict[Node, str] = {}
        self.axes: dict[tuple[str, int], Tensor] = {}
        # of every value computed from parameters alone: its label tensors, and the parameters' names
        self.computed: dict[Node, list[Tensor]] = {}
        self.origins: dict[Node, frozenset[str]] = {}
        self._whole: dict[str, str] = {}

    def is_weight(self, node: Node) -> bool:
        """Return whether ``node`` is a parameter, a buffer, or computed from them alone."""
        return node in self.leaves or node in self.computed

    def parameters_of(self, node: Node) -> frozenset[str]:
        """Return the names of the parameters that ``node`` is, or is computed from."""
        return frozenset([self.leaves[node]]) if node in self.leaves else self.origins.get(node, frozenset())

    def layers(self, node: Node) -> list[Tensor]:
        """Return the label tensors of a parameter or computed weight, one for each axis that can be cut."""
        if node in self.computed:
            return [layer for old in self.computed[node] if varying(layer := self.labels.compact(old))]
        name, shape = self.leaves[node], value_of(node).shape
        if name in self._whole:
            return []
        found = []
        for axis, size in enumerate(shape):
            if size > 1:
                labels = self.axes.setdefault((name, axis), self.labels.new(size))
                found.append(labels.reshape([-1 if i == axis else 1 for i in range(len(shape))]))
        return found

    def bind(self, node: Node | None, axis: int, labels: Tensor) -> None:
        """Cut ``axis`` of the parameter or computed weight ``node`` together with ``labels``."""
        if node is None:
            return
        if node in self.computed:
            self._bind_computed(node, axis, labels)
            return
        if node not in self.leaves:
            self.labels.freeze(labels, f"{node.name} is no parameter")
            return
        name = self.leaves[node]
        if name in self._whole:
            self.labels.freeze(labels, self._whole[name])
        key = (name, axis)
        if key in self.axes:
            self.labels.unify(self.axes[key], labels, f"{name} is shared with something that stays whole")
        else:
            self.axes[key] = labels.clone()

    def _bind_computed(self, node: Node, axis: int, labels: Tensor) -> None:
        names = ", ".join(sorted(self.parameters_of(node)))
        for layer in self.layers(node):
            if varying(layer) == [axis]:
                why = f"a weight computed from {names} stays whole"
                self.labels.unify(layer.reshape(-1), labels, why)
                return
        if value_of(node).shape[axis] > 1:
            self.labels.freeze(labels, f"a weight computed from {names} cannot be cut along axis {axis}")

    def keep_axis(self, node: Node, axis: int, why: str) -> None:
        """Keep ``axis`` of the parameter or computed weight ``node`` whole, now and in later uses."""
        if node in self.computed:
            for layer in self.layers(node):
                if axis in varying(layer):
                    self.labels.freeze(layer, why)
            return
        key = (self.leaves[node], axis)
        if key in self.axes:
            self.labels.freeze(self.axes[key], why)
        else:
            self.axes[key] = fixed(1).expand(value_of(node).shape[axis])

    def close(self, node: Node | None, why: str) -> None:
        """Keep those axes of ``node`` whole that are computed over several axes at once."""
        for layer in self.layers(node) if node in self.computed else []:
            if len(varying(layer)) > 1:
                self.labels.freeze(layer, why)

    def freeze_leaf(self, node: Node, why: str) -> None:
        """Keep every axis of the parameter or computed weight ``node`` whole."""
        if node in self.computed:
            for layer in self.computed[node]:
                self.labels.freeze(layer, f"a value computed from parameters is {why}")
            return
        name = self.leaves[node]
        self._whole.setdefault(name, f"{name or 'a constant'} is {why}")
        for (bound, _), labels in self.axes.items():
            if bound == name:
                self.labels.freeze(labels, self._whole[name])
