"""Sites for what an engine executes beside convolutions: single operators, whole fusions, and moves of data.

A fusion of several operators is one ``OpShape`` named ``Fused``: its inputs are the values that it reads from
outside, its attribute ``ops`` the operators in order (``Mul+Add+Relu``), their own attributes follow as
``op1_axes``. What only moves data is a ``Reformat``, a kernel that names no operator of the graph a ``Kernel``.
No profiler measures these three: a table without such rows leaves them unpriced, and an estimate says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from latency_model.harvest.engine_layers import EngineLayer, EngineTensor
from latency_model.harvest.engine_match import Matched, before_reshapes
from latency_model.harvest.graph import Op
from latency_model.harvest.operators import Rest, Tracked, op_sites, track
from latency_model.network import Axis, NetworkCost, OpSite
from latency_model.ops import OpShape

__all__ = ["EngineOps"]

Size = tuple[int, ...]
# As in ``fusion``: what ONNX Runtime fuses into these two has rows of its own.
_HOSTS = ("linear", "batch_norm")
_ACTIVATIONS = ("relu", "sigmoid", "tanh", "leaky_relu")


class EngineOps:
    """Makes the sites of one engine, on the channel groups of ``network``."""

    def __init__(self, matched: Matched, network: NetworkCost) -> None:
        self._matched, self._graph = matched, matched.graph
        self._groups = network.groups
        first = network.sites[0].shape if network.sites else None
        self._precision = first.precision if first else "fp32"
        self._layout = first.layout if first else "nchw"
        outputs = {site.name: site.outputs for site in network.sites}
        self._written = {op.outputs[0]: outputs[op.site] for op in matched.graph.ops if op.conv is not None}
        self._linear = {site.name: site.axes for site in network.ops if site.shape.op == "Gemm"}
        self._tracked = track(matched.graph, self._written, network.groups)
        rest = [Rest(op) for op in matched.graph.ops if op.conv is None]
        self._known = {site.name: site for site in self._sites(rest)}
        self._writers: dict[str, list[int]] = {}
        self._readers: dict[str, list[int]] = {}
        for place, layer in enumerate(matched.layers):
            for tensors, found in ((layer.outputs, self._writers), (layer.inputs, self._readers)):
                for tensor in tensors:
                    found.setdefault(tensor.name, []).append(place)

    def _sites(self, rest: Iterable[Rest]) -> tuple[OpSite, ...]:
        precision = "tf32" if self._precision == "tf32" else ""
        sites, _ = op_sites(
            self._graph, rest, self._written, self._groups, precision=precision, layout=self._layout
        )
        # The outputs of linear layers follow no convolution, so that only the network knows their groups.
        return tuple(dataclasses.replace(s, axes=self._linear.get(s.name, s.axes)) for s in sites)

    def names(self, ops: Iterable[Op]) -> str:
        """Return the operators as ONNX calls them, joined by a plus."""
        return "+".join(self._name(op) for op in ops)

    def _name(self, op: Op) -> str:
        if op.kind == "hardswish":  # the only one with two shapes
            return "HardSwish"
        return self._known[op.name].shape.op if op.name in self._known else op.kind

    def of(self, ops: tuple[Op, ...], layers: int) -> tuple[OpSite, ...]:
        """Return a site for ``ops``, executed by so many layers together; none where a size is unknown."""
        if len(ops) == 1 and layers == 1 and ops[0].kind == "hardswish":
            return self._fused(ops, layers)
        if len(ops) == 1:
            return self._sites([Rest(ops[0])])
        if len(ops) == 2 and layers == 1 and self._hosted(*ops):
            return self._sites([Rest(ops[0], ops[1].kind)])
        return self._fused(ops, layers)

    def _hosted(self, host: Op, after: Op) -> bool:
        return host.kind in _HOSTS and after.kind in _ACTIVATIONS and after.inputs == host.outputs[:1]

    def _fused(self, ops: tuple[Op, ...], layers: int) -> tuple[OpSite, ...]:
        inside = {name for op in ops for name in op.outputs}
        inputs: dict[str, tuple[Size, list[Axis]]] = {}
        weights: list[tuple[Size, list[Axis]]] = []
        attributes = [("ops", self.names(ops))] + ([("layers", str(layers))] if layers > 1 else [])
        for position, op in enumerate(ops):
            site = self._known.get(op.name)
            sizes = site.shape.inputs if site else tuple(self._graph.sizes.get(v, ()) for v in op.inputs)
            constants = site.shape.weights if site else op.weights
            axes = site.axes if site else self._axes(op)
            for place, (value, size) in enumerate(zip(op.inputs, sizes, strict=False)):
                source = before_reshapes(self._graph, value)
                if source not in inside:
                    inputs.setdefault(source, (size, [axis for axis in axes if axis.place == place]))
            for place, size in enumerate(constants, len(sizes)):
                weights.append((size, [axis for axis in axes if axis.place == place]))
            given = site.shape.attributes if site else op.attributes.items()
            attributes += [(f"op{position}_{name}", value) for name, value in given]
        tensors = (*inputs.values(), *weights)
        if not inputs or not all(size and min(size) > 0 for size, _ in tensors):
            return ()
        made = [
            dataclasses.replace(axis, place=place)
            for place, (_, found) in enumerate(tensors)
            for axis in found
        ]
        shape = OpShape(
            "Fused",
            tuple(size for size, _ in inputs.values()),
            tuple(size for size, _ in weights),
            tuple(attributes),
            self._precision,
            self._layout,
        )
        return (OpSite(ops[0].name, shape, tuple(made)),)

    def _axes(self, op: Op) -> tuple[Axis, ...]:
        return tuple(
            Axis(place, dim, channels)
            for place, name in enumerate(op.inputs)
            for dim, channels in self._tracked.get(name, {}).items()
        )

    def moved(self, layer: EngineLayer, kind: str) -> tuple[tuple[OpSite, ...], bool]:
        """Return a site (``kind`` is ``Reformat`` or ``Kernel``) for a layer that executes no operator.

        Also whether each tensor that it reads is a value of the graph, so that it follows the channel groups.
        """
        linked = [self._value(tensor, layer) for tensor in layer.inputs]
        sizes = [
            tensor.dims or self._graph.sizes.get(value, ())
            for tensor, value in zip(layer.inputs, linked, strict=True)
        ]
        if not sizes or not all(size and min(size) > 0 for size in sizes):
            return (), False
        axes = [
            Axis(place, dim, channels)
            for place, value in enumerate(linked)
            for dim, channels in self._channels(value, sizes[place]).items()
        ]
        attributes = [("kind", _word(layer.generated or layer.kind))]
        if layer.outputs:
            attributes += [("from", _word(layer.inputs[0].format)), ("to", _word(layer.outputs[0].format))]
        precision = layer.inputs[0].precision or self._precision
        shape = OpShape(kind, tuple(sizes), (), tuple(attributes), precision, self._layout)
        return (OpSite(layer.name, shape, tuple(axes)),), all(linked)

    def _channels(self, value: str, size: tuple[int, ...]) -> Tracked:
        if size != self._graph.sizes.get(value, ()):
            return {}
        return self._tracked.get(value, {})

    def _value(self, tensor: EngineTensor, layer: EngineLayer) -> str:
        """Return the value of the graph that ``tensor`` is, empty when that cannot be told.

        Names of tensors are the engine's own, so it is looked for, by its size, among what the layers that write
        or read it compute, and then among what is read of the result.
        """
        sizes = self._graph.sizes
        if tensor.name in sizes and tensor.dims in ((), sizes[tensor.name]):
            return tensor.name
        written = {entry.name for entry in layer.outputs}
        near = [
            *(name for place in self._writers.get(tensor.name, ()) for name in self._written_by(place)),
            *(name for place in self._readers.get(tensor.name, ()) for name in self._read_by(place)),
            *(
                name
                for out in written
                for place in self._readers.get(out, ())
                for name in self._read_by(place)
            ),
        ]
        return next((name for name in near if tensor.dims in ((), sizes.get(name, ()))), "")

    def _written_by(self, layer: int) -> list[str]:
        return [name for op in self._here(layer) for name in op.outputs]

    def _read_by(self, layer: int) -> list[str]:
        return [name for op in self._here(layer) for name in op.inputs]

    def _here(self, layer: int) -> list[Op]:
        return [op for op in self._graph.ops if layer in self._matched.of(op)]


def _word(text: str) -> str:
    return re.sub(r"[^\w.,+-]+", "_", text).strip("_")
