"""The state of label propagation: labels of every value, bound parameter axes, and the sites found so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruner.graph.labels import fixed
from pruner.graph.parameters import Parameters, value_of
from pruner.graph.sizes import SizeUse, find_attributes

__all__ = ["Call", "Context", "Rule", "SiteLabels", "blank", "module_path", "value_of", "where"]

_TORCH = str(Path(torch.__file__).parent)
Value = Tensor | list[Tensor] | None


@dataclass(frozen=True)
class SiteLabels:
    """A convolution or linear layer with the labels along its two channel axes."""

    name: str
    kind: str
    inputs: Tensor
    outputs: Tensor


def module_path(node: Node) -> str:
    """Return the path of the innermost module whose forward made ``node``; "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str([*stack.values()][-1][0]).split("@")[0] if stack else ""


def where(node: Node) -> str:
    """Return the user's line that made ``node`` as file:line, or the module path when it is not known."""
    place = ""
    for line in (node.meta.get("stack_trace") or "").splitlines():
        parts = line.strip().split('"')
        if len(parts) == 3 and parts[0] == "File " and not parts[1].startswith(_TORCH):
            number = parts[2].removeprefix(", line ").split(",")[0]
            place = f"{Path(parts[1]).name}:{number}"
    return place or module_path(node) or "the model"


class Call:
    """The arguments of one operator call by the names of its schema."""

    def __init__(self, node: Node) -> None:
        names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
        defaults = {a.name: a.default_value for a in node.target._schema.arguments}  # type: ignore[union-attr]
        self.arguments: dict[str, Any] = {
            **defaults,
            **dict(zip(names, node.args, strict=False)),
            **node.kwargs,
        }

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or ``default`` where the operator has none of that name."""
        return self.arguments.get(name, default)


class Context(Parameters):
    """What the operator rules read and write while the graph is walked in order."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.modules = modules
        self.values: dict[Node, Value] = {}
        self.sites: dict[str, SiteLabels] = {}
        self.consumers: dict[str, Tensor] = {}
        self.normalised: list[Tensor] = []
        self.whole_sites: dict[str, str] = {}
        self.sizes: list[SizeUse] = []

    def label(self, node: Node) -> Tensor:
        """Return the labels of the activation ``node``; a parameter used as one stays whole."""
        if self.is_weight(node):
            self.freeze_leaf(node, f"used outside of a layer that can be cut, at {where(node)}")
            return fixed(value_of(node).dim())
        labels = self.values[node]
        assert isinstance(labels, Tensor)
        return self.labels.compact(labels)

    def full(self, node: Node) -> Tensor:
        """Return the labels of ``node`` at its full shape."""
        return self.label(node).expand(value_of(node).shape)

    def along(self, node: Node, axis: int) -> Tensor:
        """Return one label per position of ``node`` along ``axis``."""
        why = f"channels are spread over several axes at {where(node)}"
        return self.labels.along(self.label(node), axis, value_of(node).shape[axis], why)

    def freeze(self, node: Node, why: str) -> None:
        """Keep every channel of ``node`` whole."""
        if self.is_weight(node):
            self.freeze_leaf(node, why)
            return
        value = self.values.get(node)
        for labels in [value] if isinstance(value, Tensor) else value or []:
            self.labels.freeze(labels, why)

    def opaque(self, node: Node, why: str) -> None:
        """Keep the inputs of ``node`` whole and give it an output in which nothing can be removed."""
        for source in node.all_input_nodes:
            self.freeze(source, why)
        self.values[node] = blank(value_of(node))

    def note_sizes(self, node: Node, values: tuple[int, ...], labels: tuple[Tensor, ...]) -> bool:
        """Note channel counts that the code at ``node`` uses; return whether attributes hold all of them."""
        found = find_attributes(self.modules, module_path(node), values, labels)
        self.sizes += found
        return {use.index for use in found} == set(range(len(values)))

    def add_site(self, name: str, kind: str, inputs: Tensor, outputs: Tensor) -> None:
        """Record a layer; a second call of a shared one adds nothing, its axes are joined by ``bind``."""
        self.sites.setdefault(name, SiteLabels(name, kind, inputs, outputs))
        if kind != "depthwise":
            self.consumers.setdefault(name, inputs)

    def whole_site(self, node: Node, kind: str, why: str) -> None:
        """Record a layer that cannot be cut, and keep what it reads whole."""
        why = f"{why}, at {where(node)}"
        self.opaque(node, why)
        path = module_path(node)
        module = self.modules.get(path)
        names = ("in_features", "out_features") if kind == "linear" else ("in_channels", "out_channels")
        if all(isinstance(getattr(module, name, None), int) for name in names):
            inputs, outputs = (int(getattr(module, name)) for name in names)
            self.sites.setdefault(
                path, SiteLabels(path, kind, fixed(1).expand(inputs), fixed(1).expand(outputs))
            )
        self.whole_sites.setdefault(path or "the model", why)

    def layer(self, node: Node, weight: Node, types: tuple[type[nn.Module], ...]) -> str | None:
        """Return the module path of the layer that ``node`` runs, or None when it is not such a module."""
        path = module_path(node)
        module = self.modules.get(path)
        if not isinstance(module, types):
            return None
        if weight in self.leaves:
            owner = self.leaves[weight].rpartition(".")[0]
            return owner if self.modules.get(owner) is module else None
        inside = path + "." if path else ""
        return path if all(name.startswith(inside) for name in self.origins.get(weight, ("",))) else None


def blank(value: Any) -> Value:
    """Return labels for a value in which nothing can be removed."""
    if isinstance(value, torch.Tensor):
        return fixed(value.dim())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [fixed(item.dim()) if isinstance(item, torch.Tensor) else fixed(0) for item in value]
    return None


Rule = Callable[[Context, Node, Call], None]
