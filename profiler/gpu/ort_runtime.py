"""Configurations as ONNX Runtime sessions, and sessions as a program: what its GPU providers share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnxruntime as ort
from numpy.typing import NDArray

from latency_model.environment import Environment
from latency_model.errors import MeasurementError
from latency_model.ops import Config, OpShape
from profiler.gpu.buffers import Buffers
from profiler.gpu.kernel_names import BOUNDARY, MARKER
from profiler.gpu.ort_session import Bound, network, order_of
from profiler.gpu.program import Step, Stepwise
from profiler.typed_graphs import MARKER_OP, Packed, packed

__all__ = ["OrtProgram", "OrtRuntime"]


@dataclass
class _Part:
    """One session of a program: its graph, and the order in which its configurations run."""

    graph: Packed
    bound: Bound
    order: tuple[int, ...]


class OrtProgram(Stepwise):
    """A ``Program`` of one session for each step. Made by the runtimes below."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = list(parts)
        self._steps = tuple(
            Step(tuple(part.graph.configs[index] for index in part.order), part.bound.run) for part in parts
        )

    def outputs(self) -> list[NDArray[Any]]:
        """Wait, and return the first copy's output of each configuration, in the order of the steps."""
        return [
            part.graph.as_nchw(part.bound.output(part.graph.outputs[index][0]))
            for part in self._parts
            for index in part.order or range(len(part.graph.outputs))
        ]

    def close(self) -> None:
        """Free the sessions; may be called twice."""
        for part in self._parts:
            part.bound.close()


class OrtRuntime:
    """What both execution providers share: how configurations become sessions."""

    provider: ClassVar[str]
    name: ClassVar[str]
    precisions: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("kernel-trace", "graph-increment")
    at_once: int = 1
    times_ops = True
    marker: re.Pattern[str] = MARKER
    boundary: re.Pattern[str] = BOUNDARY
    channels_last = False
    own_inputs = False
    quantised_bias = True

    def __init__(
        self, buffers: Buffers, *, stream: int, versions: Mapping[str, str], options: Mapping[str, str]
    ) -> None:
        self._buffers, self._stream = buffers, stream
        self._environment = Environment(
            kind=buffers.kind,
            runtime=self.name,
            runtime_version=ort.__version__,
            options=tuple(options.items()),
            **versions,
        )

    @property
    def environment(self) -> Environment:
        """Device, driver, CUDA, cuDNN, ONNX Runtime's version and the options that change a latency."""
        return self._environment

    def options(self, *, tf32: bool, graph: bool) -> dict[str, str]:
        """Return the options of the execution provider for one session."""
        raise NotImplementedError

    def build(
        self, configs: Sequence[Config], *, copies: int = 1, graph: bool = False, seed: int = 0
    ) -> OrtProgram:
        """Return a program for ``configs``; see ``profiler.gpu.program.Runtime``.

        Configurations that may share a session and are not copied do so, marked; a CUDA graph and copies
        have a session for each configuration.
        """
        for config in configs:
            if config.precision not in self.precisions:
                raise MeasurementError(
                    f"{self.name} times {', '.join(self.precisions)}, not {config.precision}: {config}"
                )
        parts: list[_Part] = []
        try:
            for group in self._groups(configs, alone=graph or copies > 1):
                parts.append(self._part(group, copies=copies, graph=graph, seed=seed))
        except BaseException:
            for part in parts:
                part.bound.close()
            raise
        return OrtProgram(parts)

    def _groups(self, configs: Sequence[Config], *, alone: bool) -> Iterator[list[Config]]:
        """Yield what shares a session: one opset, one answer to tf32, no operator that looks like a marker."""
        groups: dict[object, list[Config]] = {}
        for index, config in enumerate(configs):
            own = alone or self.at_once == 1 or (isinstance(config, OpShape) and config.op == MARKER_OP)
            key = index if own else (config.precision == "bf16", config.precision == "tf32")
            groups.setdefault(key, []).append(config)
        yield from groups.values()

    def _part(self, configs: Sequence[Config], *, copies: int, graph: bool, seed: int) -> _Part:
        marked = len(configs) > 1
        what = str(configs[0]) if not marked else f"{len(configs)} configurations from {configs[0]} on"
        made = packed(
            configs,
            copies=copies,
            markers=marked,
            # No NHWC kernel exists for bf16: transposes would stay, and one might run before a marker.
            channels_last=self.channels_last and configs[0].precision != "bf16",
            quantised_bias=self.quantised_bias,
            own_inputs=self.own_inputs,
            seed=seed,
        )
        bound = self._bound(made, tf32=configs[0].precision == "tf32", graph=graph, what=what)
        try:
            order = order_of(bound.ran, len(configs)) if marked else (0,)
        except MeasurementError:
            bound.close()
            raise
        return _Part(made, bound, order)

    def _bound(self, made: Packed, *, tf32: bool, graph: bool, what: str) -> Bound:
        bound = Bound(
            made,
            provider=self.provider,
            options=self.options(tf32=tf32, graph=graph),
            buffers=self._buffers,
            graph=graph,
            what=what,
        )
        try:
            self._check(bound, what)
        except MeasurementError:
            bound.close()
            raise
        return bound

    def _check(self, bound: Bound, what: str) -> None:
        """Raise ``MeasurementError`` when the provider did not run the graph as it should have."""

    def build_network(self, model: bytes, *, seed: int = 0, tf32: bool = False) -> OrtProgram:
        """Return a program that replays ``model`` as a CUDA graph, inputs random from ``seed``.

        ``tf32`` allows the shorter arithmetic in fp32 networks. Raises ``MeasurementError`` for a network with
        a free size, an input that is not a float, or a part that the execution provider does not run.
        """
        graph = network(model, seed=seed)
        bound = self._bound(graph, tf32=tf32, graph=True, what="a network")
        return OrtProgram([_Part(graph, bound, ())])

    def close(self) -> None:
        """Do nothing: all device memory belongs to the programs."""
