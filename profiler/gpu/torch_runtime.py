"""PyTorch on a CUDA device: cuDNN's kernels as eager modules run them, replayed from CUDA graphs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from latency_model.environment import Environment
from latency_model.errors import InputError, MeasurementError
from latency_model.ops import Config
from profiler.backends.base import Backend, cpu_name
from profiler.gpu.device import cuda_versions, require_cuda
from profiler.gpu.program import Program
from profiler.gpu.torch_capture import Capture, CudaCapture, EagerCapture
from profiler.gpu.torch_program import SEARCHES, TorchProgram
from profiler.torch_modules import DTYPES

__all__ = ["TorchRuntime", "open_torch_cuda"]

_NEVER = re.compile(r"(?!)")


class TorchRuntime:
    """Builds programs of PyTorch modules on ``device``; on ``cpu`` the same programs run eagerly.

    A step is always replayed from a CUDA graph, so that the host's time to dispatch a module's operators is
    no part of a row. ``search`` is one of ``SEARCHES``: ``benchmark`` is ``torch.backends.cudnn.benchmark``
    with torch's own limit. cuDNN's search there times each engine once, so repeated builds may differ; each
    one does search anew (``searches_anew``), because it is made in a thread of its own. All programs enqueue
    on ``stream``.

    No kernel counts as boundary. In NCHW, cuDNN may transpose before and after its kernel, but eager modules
    hand each other NCHW tensors, so a network pays for that at every such convolution: the row includes it.
    There are no markers either: a step holds one configuration, unless the program is one graph.
    """

    precisions: tuple[str, ...] = tuple(DTYPES)
    methods: tuple[str, ...] = ("kernel-trace", "graph-increment")
    at_once = 32
    times_ops = True
    marker = _NEVER
    boundary = _NEVER
    searches_anew = True

    def __init__(
        self,
        *,
        device: str = "cuda:0",
        search: str = "benchmark",
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        if search not in SEARCHES:
            raise InputError(f"unknown search {search!r}; known are {', '.join(SEARCHES)}")
        self._search = search
        self.stream = stream
        versions: Mapping[str, str]
        if device == "cpu":
            self._device, versions = torch.device("cpu"), {"device": cpu_name()}
        else:
            index = require_cuda(device)
            self._device, versions = torch.device("cuda", index), cuda_versions(index)
            self.stream = stream or torch.cuda.Stream(index)
        self._environment = Environment(
            kind=self._device.type,
            runtime="torch",
            runtime_version=torch.__version__,
            options=(("search", search), ("mode", "eager" if device == "cpu" else "cuda-graph")),
            **versions,
        )

    @property
    def environment(self) -> Environment:
        """Device, versions of torch, CUDA, cuDNN and the driver, and the kind of search."""
        return self._environment

    def build(
        self, configs: Sequence[Config], *, copies: int = 1, graph: bool = False, seed: int = 0
    ) -> Program:
        """Return a program of ``configs``; ``MeasurementError`` for what PyTorch cannot run or memory for.

        The numbers are those of ``reference_inputs``; ``outputs`` are the first copy's. ``DeviceLostError``
        when the device fails for good.
        """
        if not configs or copies < 1:
            raise MeasurementError(
                f"a program needs configurations and copies, not {len(configs)} and {copies}"
            )
        return TorchProgram(
            configs,
            copies=copies,
            graph=graph,
            seed=seed,
            device=self._device,
            search=self._search,
            capture=self._new_capture(),
        )

    def _new_capture(self) -> Capture:
        return EagerCapture() if self.stream is None else CudaCapture(self.stream)

    def build_network(
        self,
        model: bytes,  # noqa: ARG002 - part of the protocol
        *,
        seed: int = 0,  # noqa: ARG002
    ) -> Program:
        """Raise ``MeasurementError``: PyTorch does not run ONNX models."""
        raise MeasurementError(
            "PyTorch does not run ONNX models, so whole networks are not timed; "
            "use --runtime onnxruntime for them"
        )

    def close(self) -> None:
        """Give the device back what programs have left in the allocator's cache."""
        self._new_capture().free()


def open_torch_cuda(
    *,
    device: str = "cuda:0",
    threads: int = 1,  # noqa: ARG001 - every back end is opened with it; the device does the work
    method: str = "auto",
    search: str = "benchmark",
    **options: Any,
) -> Backend:
    """Return a back end that times PyTorch on a CUDA ``device``; ``options`` go to ``GpuBackend``.

    Raises ``InputError`` when there is no such device.
    """
    runtime = TorchRuntime(device=device, search=search)
    from profiler.gpu.backend import GpuBackend
    from profiler.gpu.cuda_clock import CudaClock

    clock = CudaClock(index=require_cuda(device), stream=runtime.stream)
    backend: Backend = GpuBackend(runtime, clock, method=method, **options)
    return backend
