"""One ONNX Runtime session on fixed device memory: nothing falls back to the CPU, and a run does not wait."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from latency_model.errors import MeasurementError
from profiler.gpu.buffers import Buffers
from profiler.typed_graphs import Packed, config_of_node

__all__ = ["Bound", "Ran", "explained", "network", "open_session", "order_of"]

# A node that ran: its name, operator and execution provider.
Ran: TypeAlias = tuple[str, str, str]

_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|cudaErrorMemoryAllocation|ALLOC_FAILED|bad allocation", re.I
)
_NO_KERNEL = re.compile(r"could not find an implementation|not_implemented", re.I)
_FALLBACK = re.compile(r"assigned to the default CPU EP", re.I)
_CAPTURE_RUNS = 3  # ONNX Runtime runs a graph twice before it captures it; the third run is a replay
_CPU = "CPUExecutionProvider"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def explained(error: Exception, what: str) -> MeasurementError:
    """Return the sentence for what a runtime raised while it built or ran ``what``."""
    if isinstance(error, MeasurementError):
        return error
    text = " ".join(str(error).split()) or type(error).__name__
    if _MEMORY.search(text):
        return MeasurementError(
            f"out of device memory: {what}; time a smaller batch, or close what else is on the device"
        )
    if _FALLBACK.search(text) or _NO_KERNEL.search(text):
        return MeasurementError(f"the execution provider has no kernel for a part of {what}: {text[:300]}")
    return MeasurementError(f"ONNX Runtime could not run {what}: {text[:300]}")


def open_session(
    model: bytes,
    *,
    provider: str,
    options: Mapping[str, str],
    profile_to: Path | None = None,
    what: str = "a graph",
) -> ort.InferenceSession:
    """Return a session for ``model`` on ``provider`` alone; ``MeasurementError`` when it does not take it all.

    Graph optimisation is at its highest level, as in use. With ``profile_to`` the session writes which nodes
    run there until ``end_profiling``.
    """
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 4
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    if provider != _CPU:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile_to is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile_to / "run")
    try:
        session = ort.InferenceSession(
            model, settings, providers=[(provider, dict(options))], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime raises a type of its own for each status code
        raise explained(error, what) from error
    if provider not in session.get_providers():
        raise MeasurementError(f"ONNX Runtime could not load {provider}, so it did not run {what}")
    return session


class Bound:
    """A session whose inputs and outputs are bound to device memory, warmed up; ``run`` enqueues one run.

    ``ran`` are the nodes of one run in the order in which they ran. With ``graph`` the session has captured a
    CUDA graph and a run replays it. Every node must run on ``provider``, else ``MeasurementError``.
    """

    def __init__(
        self,
        made: Packed,
        *,
        provider: str,
        options: Mapping[str, str],
        buffers: Buffers,
        graph: bool = False,
        what: str = "a graph",
    ) -> None:
        self._buffers, self._what = buffers, what
        self._tensors: dict[str, Any] = {}
        self._run: Callable[[], None] | None = None
        self.ran: list[Ran] = []
        problem: MeasurementError | None = None
        try:
            self._build(made, provider, options, graph)
        except Exception as error:
            problem = explained(error, what)
        if problem is not None:
            self.close()
            # An error that is kept, with the frames it came through, would keep the memory of the session.
            problem.__cause__ = problem.__context__ = problem.__traceback__ = None
            raise problem

    def _build(self, made: Packed, provider: str, options: Mapping[str, str], graph: bool) -> None:
        run_options = ort.RunOptions()
        run_options.log_severity_level = 4
        # Without it every run ends with a wait for the device; a replay of a captured graph heeds it since
        # ONNX Runtime's pull request 28686 (May 2026) and waits before that.
        run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        with tempfile.TemporaryDirectory(prefix="gharial-") as folder:
            session = open_session(
                made.model, provider=provider, options=options, profile_to=Path(folder), what=self._what
            )
            try:
                binding = self._bind(session, made)
                session.run_with_iobinding(binding, run_options)
                self._buffers.synchronise()
            finally:
                profile = Path(session.end_profiling())
            self.ran = _ran(profile)
        if strays := [name for name, _, place in self.ran if place != provider]:
            raise MeasurementError(
                f"{len(strays)} nodes of {self._what} ran on another provider than {provider}, "
                f"the first of them {strays[0]}; such a time would not be the device's"
            )
        for _ in range(_CAPTURE_RUNS - 1 if graph else 0):
            session.run_with_iobinding(binding, run_options)
        self._buffers.synchronise()
        self._run = lambda: session.run_with_iobinding(binding, run_options)

    def _bind(self, session: ort.InferenceSession, made: Packed) -> Any:
        binding, elements = session.io_binding(), made.elements
        for name, values in made.feeds.items():
            self._tensors[name] = self._buffers.put(values, elements[name])
            self._buffers.bind(binding, name, self._tensors[name], elements[name], output=False)
        for name, dims in made.sizes.items():
            self._tensors[name] = self._buffers.empty(dims, elements[name])
            self._buffers.bind(binding, name, self._tensors[name], elements[name], output=True)
        self._buffers.synchronise()  # torch copied on a stream of its own
        return binding

    def run(self) -> None:
        """Enqueue one run; ``MeasurementError`` after ``close`` or for an error of the device."""
        if self._run is None:
            raise MeasurementError(f"{self._what} was closed, so it cannot run")
        try:
            self._run()
        except Exception as error:
            raise explained(error, self._what) from error

    def output(self, name: str) -> NDArray[Any]:
        """Wait, and return an output of the last run as fp32."""
        return self._buffers.get(self._tensors[name])

    def close(self) -> None:
        """Free the session and its device memory; may be called twice."""
        self._run = None
        self._tensors.clear()


def _ran(path: Path) -> list[Ran]:
    events = json.loads(path.read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith(suffix)]
    return [
        (event["name"].removesuffix(suffix), event["args"]["op_name"], event["args"]["provider"])
        for event in sorted(nodes, key=lambda event: event["ts"])
    ]


def order_of(ran: Sequence[Ran], count: int) -> tuple[int, ...]:
    """Return the order in which the ``count`` configurations of a marked graph ran, by the names of its nodes.

    Raises ``MeasurementError`` when one is torn apart, does not begin with its marker, or did not run.
    """
    order: list[int] = []
    for name, kind, _ in ran:
        config = config_of_node(name)
        # A transpose of a second input may come first: it is a boundary kernel wherever it runs.
        if config is None or kind == "Transpose" or (order and order[-1] == config):
            continue
        if config in order or not name.endswith("/mark"):
            raise MeasurementError(
                f"ONNX Runtime ran the nodes of several configurations mixed ({name} came too late), so their "
                "kernels cannot be told apart; time fewer at once"
            )
        order.append(config)
    if sorted(order) != list(range(count)):
        raise MeasurementError(f"{count - len(order)} of {count} configurations did not run in their graph")
    return tuple(order)


def network(model: bytes, *, seed: int = 0) -> Packed:
    """Return ``model`` as a graph to bind: its inputs random from ``seed``, its outputs with their sizes.

    Raises ``MeasurementError`` for bytes that are no model, a free size, or an input that is not a float.
    """
    try:
        graph = onnx.load_model_from_string(model).graph
    except Exception as error:  # of protobuf, which is no dependency of ours by name
        raise MeasurementError("the network is not an ONNX model") from error
    if not graph.output:
        raise MeasurementError("the network is not an ONNX model: it has no output")
    rng = np.random.default_rng(seed)
    constants = {constant.name for constant in graph.initializer}
    feeds: dict[str, NDArray[np.float32]] = {}
    elements: dict[str, int] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    ends = [(entry, True) for entry in graph.input if entry.name not in constants]
    for entry, given in ends + [(entry, False) for entry in graph.output]:
        kind = entry.type.tensor_type
        dims = tuple(dim.dim_value for dim in kind.shape.dim)
        if not kind.HasField("shape") or not all(dims) or (given and kind.elem_type not in _FLOATS):
            raise MeasurementError(
                f"the {'input' if given else 'output'} {entry.name} of the network cannot be bound to device "
                "memory; export it with fixed sizes and floating-point inputs"
            )
        elements[entry.name] = kind.elem_type
        if given:
            feeds[entry.name] = rng.standard_normal(dims, dtype=np.float32)
        else:
            sizes[entry.name] = dims
    return Packed(model, (), feeds, elements, tuple((name,) for name in sizes), sizes)
