"""A network as a list of operators in execution order: what the torch and the ONNX reader both produce."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from latency_model.shapes import ConvShape

__all__ = ["RESHAPES", "Graph", "Op", "unique"]

# They change only the description of a tensor, not its bytes.
RESHAPES = frozenset(
    {"flatten", "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "getitem", "size", "shape"}
)


@dataclass(frozen=True, slots=True)
class Op:
    """One operator: a readable ``kind``, the values it reads and writes, and the size of the first it writes.

    ``inputs`` are activations only; weights and constants are left out, so an ``add`` with a constant has one
    input. ``conv`` is set for 2-D convolutions: pattern ``conv`` or ``conv+bias``, and ``site`` is its name.

    ``name`` says where it stands in the model. ``weights`` are the sizes of its constant inputs, and
    ``attributes`` what else decides its work, in ONNX's names and words; ``precision`` is that of its tensors.
    ``nodes`` are the nodes of the ONNX file that it is made of, as TensorRT names them: a node without a name is
    ``node_of_`` and its first output.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dims: tuple[int, ...] = ()
    site: str = ""
    conv: ConvShape | None = None
    name: str = ""
    weights: tuple[tuple[int, ...], ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    precision: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Operators in execution order, the values that come from outside, and those that go out.

    ``sizes`` has the size of every value of which it is known.
    """

    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each value is read, as an output of the network too."""
        return Counter([name for op in self.ops for name in op.inputs] + list(self.outputs))

    @cached_property
    def producer(self) -> dict[str, Op]:
        """The operator that writes each value."""
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Op]]:
        """The operators that read each value."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.inputs:
                found.setdefault(name, []).append(op)
        return found


def unique(name: str, seen: Counter[str]) -> str:
    """Return ``name``, or ``name#2`` and so on when ``seen`` has it, and record it."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"
