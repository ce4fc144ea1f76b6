"""What a network spends as TensorRT really runs it: its cost with the fusions of a built engine.

The layers of an engine name the nodes of the ONNX file that it was built from. Here that is turned round: each
convolution gets the pattern of the layer that really contains it, convolutions merged into one become one site,
and the other layers become the other operators. What a layer does is not guessed: what cannot be matched is in
``EngineCost.notes`` and, as far as it may cost time, in ``NetworkCost.others``.

Seen of TensorRT: the layers that the builder of TensorRT-RTX 1.7 logs, without a device, for compute
capabilities 7.5, 8.9 and 12.0 (``tests/profiler/gpu/test_tensorrt_cost.py`` builds again). Never seen on a device: the
inspector's JSON, the engines of TensorRT 10 and 11, and with them convolutions merged horizontally, which that
builder did not do. Those follow what NVIDIA and others published.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latency_model.errors import InputError
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.harvest.engine_match import Epilogue, Matched, components, epilogue, in_place, match
from latency_model.harvest.engine_ops import EngineOps
from latency_model.harvest.graph import RESHAPES, Op
from latency_model.network import Channels, NetworkCost, OpSite, Site
from latency_model.shapes import ConvShape

__all__ = ["EngineCost", "LayerUse", "engine_cost"]


@dataclass(frozen=True, slots=True)
class LayerUse:
    """What one layer of an engine is for.

    ``role`` is ``conv``; ``merged`` for several sibling convolutions as one; ``shared`` for several that are no
    siblings; ``part`` for a further layer of something that has a site already; ``op`` for an operator,
    ``fused`` for several; ``boundary`` for what only moves data; ``free`` for no work; ``unknown`` where no name
    is a node of the graph. ``sites`` are the names in the ``NetworkCost``, ``executes`` the pattern or operators.
    """

    layer: str
    role: str
    executes: str
    sites: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class EngineCost:
    """A network's cost as an engine runs it.

    ``layers`` has one entry a layer, in the engine's order. ``merged`` has the convolutions that run as one, by
    the names of the harvest. ``in_place`` are concatenations whose operands are written where the result lies: they
    have no kernel. ``unmatched`` are the other nodes that no layer names: TensorRT may have removed them, or run them
    in a kernel that does not say so. ``notes`` are sentences for a reader.
    """

    network: NetworkCost
    layers: tuple[LayerUse, ...]
    merged: tuple[tuple[str, ...], ...] = ()
    in_place: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def engine_cost(layers: Sequence[EngineLayer], model: bytes | Path, network: NetworkCost) -> EngineCost:
    """Return ``network`` with the fusions of an engine that was built from the same ONNX file.

    Args:
        layers: the engine's, see ``layers_from_json`` and ``layers_from_log``.
        model: the ONNX file or its bytes, with names for its nodes as the engine's builder saw them.
        network: its harvest (``harvest_onnx``), regrouped or not. All channel groups are kept. Regroup before,
            not after: a merged site has a name of its own, which no channel graph knows.

    A site's precision stays that of the file; where the engine reads another type a note says so. Operators that
    a convolution's kernel executes but no pattern of a table has are counted in ``others``, and so are unmatched
    ones. Raises ``InputError`` when ``network`` or the whole engine is of another file, ``ModelError`` for a file
    that cannot be read or whose nodes share names.
    """
    from latency_model.harvest.from_onnx import read_onnx

    shapes = [site.shape for site in network.sites]
    batch = shapes[0].batch if shapes else None
    precision = "tf32" if any(shape.precision == "tf32" for shape in shapes) else None
    matched = match(read_onnx(model, batch=batch, precision=precision), layers)
    maker = _Maker(matched, network)
    if not any(matched.homes.values()):
        raise InputError(
            f"no layer of the engine names an operator of {network.name}; give the layers of an engine that was built "
            "from this file, with detailed profiling verbosity"
        )
    return maker.made()


class _Maker:
    def __init__(self, matched: Matched, network: NetworkCost) -> None:
        self.matched, self.network = matched, network
        self.convs = [op for op in matched.graph.ops if op.conv is not None]
        _check(self.convs, network)
        self.ops = EngineOps(matched, network)
        self.uses: dict[int, LayerUse] = {}
        self.others: Counter[str] = Counter()
        self.merged: list[tuple[str, ...]] = []
        self.notes: list[str] = []

    def made(self) -> EngineCost:
        sites = self._sites()
        ops = [*self._operators(), *self._remaining()]
        unnamed = [op for op in self.matched.graph.ops if not self.matched.of(op) and op.kind not in RESHAPES]
        placed = [op for op in unnamed if op.kind == "cat" and in_place(self.matched, op)]
        unmatched = [op for op in unnamed if op not in placed]
        self.others.update(op.kind for op in unmatched if op.conv is None)
        nodes = tuple(node for op in unmatched for node in op.nodes)
        self._note("executed by no layer that says so", nodes)
        cost = dataclasses.replace(
            self.network, sites=sites, ops=tuple(ops), reorders=(), others=dict(self.others)
        )
        uses = tuple(self.uses[place] for place in range(len(self.matched.layers)))
        free = tuple(node for op in placed for node in op.nodes)
        return EngineCost(cost, uses, tuple(self.merged), free, nodes, tuple(self.notes))

    def _use(self, place: int, role: str, executes: str, sites: Iterable[str]) -> None:
        layer = self.matched.layers[place]
        self.uses[place] = LayerUse(layer.name, role, executes, tuple(sites), layer.operators)

    def _note(self, what: str, names: Sequence[str]) -> None:
        if names:
            self.notes.append(f"{what}: {', '.join(names)}")

    def _sites(self) -> tuple[Site, ...]:
        by_name = {site.name: site for site in self.network.sites}
        found: dict[int | None, list[tuple[Op, Epilogue]]] = {}
        for op in self.convs:
            found.setdefault(self.matched.own_layer(op), []).append((op, epilogue(self.matched, op)))
        made: list[Site] = []
        for place, here in found.items():
            sites = [_with_pattern(by_name[op.site], after.pattern) for op, after in here]
            if place is not None:
                sites = self._in_layer(place, here, sites)
            made += sites
        return tuple(made)

    def _in_layer(self, place: int, here: Sequence[tuple[Op, Epilogue]], sites: list[Site]) -> list[Site]:
        """Return the sites of the convolutions that one layer executes, merged where they are siblings."""
        names = tuple(site.name for site in sites)
        role = "conv" if len(sites) == 1 else "shared"
        if len(sites) > 1 and _siblings([op for op, _ in here], sites):
            sites, role = [_merge(sites)], "merged"
            self.merged.append(names)
        elif len(sites) > 1:
            self._note("several convolutions that are no siblings share a layer, and are priced apart", names)
        taken = {op.outputs[0] for _, after in here for op in after.taken}
        inside = [op for op in self.matched.inside(place) if op.conv is None and op.kind not in RESHAPES]
        beyond = [op.kind for op in inside if op.outputs[0] not in taken]
        self.others.update(beyond)
        patterns = dict.fromkeys(site.shape.pattern for site in sites)
        self._use(place, role, " and ".join((*patterns, *beyond)), [site.name for site in sites])
        inputs, asked = self.matched.layers[place].inputs, sites[0].shape.precision
        real = inputs[0].precision if inputs else ""
        if real and real != {"tf32": "fp32"}.get(asked, asked):
            self._note(f"read as {real}, though the file has {asked}", names)
        return sites

    def _operators(self) -> Iterator[OpSite]:
        """Yield the sites of what is not executed together with a convolution."""
        placed = set[str]()
        for ops, homes in components(self.matched, (op for op in self.matched.graph.ops if op.conv is None)):
            placed |= {op.outputs[0] for op in ops}
            sites = self.ops.of(ops, len(homes))
            executes = self.ops.names(ops)
            if not sites:
                self.others[executes] += 1
                self._note("of an unknown size, and counted without one", [op.name for op in ops])
            for place in homes:
                first = place == homes[0]
                role = ("op" if len(ops) == 1 else "fused") if first else "part"
                self._use(place, role, executes, [site.name for site in sites])
            yield from sites
        # In the layers of several convolutions at once, in none of them alone.
        for op in self.matched.graph.ops:
            homes_of = self.matched.of(op)
            if (
                op.conv is None
                and op.kind not in RESHAPES
                and len(homes_of) > 1
                and op.outputs[0] not in placed
            ):
                self.others[op.kind] += 1
                self._note("spread over the layers of several convolutions", op.nodes)

    def _remaining(self) -> Iterator[OpSite]:
        """Yield the sites of the layers that execute no operator of their own."""
        known = {node for op in self.matched.graph.ops for node in op.nodes}
        lost, unknown = [], []
        for place, layer in enumerate(self.matched.layers):
            if place in self.uses:
                continue
            if layer.kind.lower() == "noop":
                self._use(place, "free", "", ())
                continue
            named = known & set(layer.operators)
            role = "boundary" if layer.moves_data else "part" if named else "unknown"
            sites, linked = self.ops.moved(layer, "Reformat" if layer.moves_data else "Kernel")
            if not sites:
                self.others["reformat" if layer.moves_data else "kernel"] += 1
            if not linked:
                lost.append(layer.name)
            if role == "unknown":
                unknown.append(layer.name)
            self._use(place, role, layer.generated or layer.kind, [site.name for site in sites])
            yield from sites
        self._note("layers that read no known value, and keep their size at every channel count", lost)
        self._note("layers that name no operator of the file", unknown)


def _check(convs: Sequence[Op], network: NetworkCost) -> None:
    shapes = {site.name: site.shape for site in network.sites}
    for op in convs:
        assert op.conv is not None
        shape = shapes.pop(op.site, None)
        if shape is None or _bare(shape) != _bare(op.conv):
            raise InputError(
                f"{network.name} has no convolution {op.site} of {_bare(op.conv)}, so it is not the harvest of this "
                "ONNX file; harvest the file that the engine was built from"
            )
    if shapes:
        raise InputError(
            f"{network.name} has the convolution {next(iter(shapes))}, which this ONNX file lacks; harvest the file "
            "that the engine was built from"
        )


def _bare(shape: ConvShape) -> ConvShape:
    return dataclasses.replace(shape, pattern="conv", precision="fp32", layout="nchw")


def _with_pattern(site: Site, pattern: str) -> Site:
    return dataclasses.replace(site, shape=dataclasses.replace(site.shape, pattern=pattern))


def _siblings(ops: Sequence[Op], sites: Sequence[Site]) -> bool:
    """Whether convolutions read one value with one geometry, and differ in their outputs only."""
    alike = {dataclasses.replace(site.shape, out_channels=1) for site in sites if site.shape.groups == 1}
    return (
        len({op.inputs[0] for op in ops}) == 1 and len(alike) == 1 and all(s.shape.groups == 1 for s in sites)
    )


def _merge(sites: Sequence[Site]) -> Site:
    """Return siblings as one convolution: the outputs of all, on the inputs of the first."""
    shape = dataclasses.replace(sites[0].shape, out_channels=sum(site.shape.out_channels for site in sites))
    fixed, terms = 0, Counter[str]()
    for site in sites:
        fixed += site.outputs.fixed
        terms.update(dict(site.outputs.terms))
    outputs = Channels(fixed, tuple(terms.items()))
    return Site(" || ".join(site.name for site in sites), shape, sites[0].inputs, outputs)
