"""ONNX Runtime on a GPU, through its CUDA or its TensorRT execution provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError, MeasurementError
from latency_model.shapes import LAYOUTS
from profiler.gpu.buffers import Buffers
from profiler.gpu.device import cuda_versions, require_cuda
from profiler.gpu.kernel_names import TENSORRT_BOUNDARY
from profiler.gpu.ort_library import load_provider
from profiler.gpu.ort_runtime import OrtRuntime
from profiler.gpu.ort_session import Bound

if TYPE_CHECKING:
    from profiler.backends.base import Backend

__all__ = [
    "SEARCHES",
    "OnnxRuntimeCuda",
    "OnnxRuntimeTensorRt",
    "OrtProgram",
    "open_cuda",
    "open_tensorrt_ep",
]

SEARCHES = ("exhaustive", "heuristic", "default")
_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OnnxRuntimeCuda(OrtRuntime):
    """The CUDA execution provider: cuDNN and cuBLAS kernels, many configurations in one marked session.

    ``search`` is how cuDNN chooses an algorithm for a convolution, in every session anew: ``exhaustive`` times
    them all, ``heuristic`` asks a model, ``default`` takes the first that works. With ``layout`` ``nhwc``
    convolutions run in NHWC (there is no such kernel for bf16) and programs take and give NHWC, so that what
    is left of the transposes at their ends is what a network would pay in its middle: nothing.
    """

    provider = _CUDA
    name = "onnxruntime"
    precisions = ("fp32", "tf32", "fp16", "bf16")

    def __init__(
        self,
        buffers: Buffers,
        *,
        stream: int,
        versions: Mapping[str, str],
        search: str = "exhaustive",
        layout: str = "nhwc",
        max_workspace: bool = True,
        at_once: int = 64,
        memory_limit_bytes: int | None = None,
    ) -> None:
        if search not in SEARCHES:
            raise InputError(f"unknown algorithm search {search!r}; known are {', '.join(SEARCHES)}")
        if layout not in LAYOUTS:
            raise InputError(f"unknown layout {layout!r}; known are {', '.join(LAYOUTS)}")
        if at_once < 1:
            raise InputError(f"a program needs at least one configuration, not {at_once}")
        options = {"provider": "cuda", "search": search, "layout": layout}
        super().__init__(
            buffers,
            stream=stream,
            versions=versions,
            options=options | {"max_workspace": str(int(max_workspace))},
        )
        self.at_once, self.channels_last = at_once, layout == "nhwc"
        self._search, self._max_workspace, self._memory = search, max_workspace, memory_limit_bytes

    def options(self, *, tf32: bool, graph: bool) -> dict[str, str]:
        """Return the options of the CUDA execution provider for one session."""
        options = {
            "device_id": str(self._buffers.index),
            "user_compute_stream": str(self._stream),
            "cudnn_conv_algo_search": self._search.upper(),
            "cudnn_conv_use_max_workspace": str(int(self._max_workspace)),
            "prefer_nhwc": str(int(self.channels_last)),
            "use_tf32": str(int(tf32)),
            "enable_cuda_graph": str(int(graph)),
            # Each session has an arena: one that grows by powers of two would hold twice what it needs.
            "arena_extend_strategy": "kSameAsRequested",
        }
        return options | ({"gpu_mem_limit": str(self._memory)} if self._memory else {})


class OnnxRuntimeTensorRt(OrtRuntime):
    """The TensorRT execution provider: one engine for each configuration, built anew in each session.

    The graphs are strongly typed: the provider asks TensorRT for a strongly typed network as long as none of
    its own precision flags is set. It cannot forbid TF32, so graphs with fp32 tensors are ``tf32`` rows here.
    Engines and timings are not cached unless ``engine_cache`` names a folder for engines.
    """

    provider = _TENSORRT
    name = "onnxruntime-tensorrt"
    precisions = ("tf32", "fp16", "bf16", "int8")
    methods = ("graph-increment", "kernel-trace")
    boundary = TENSORRT_BOUNDARY
    own_inputs = True  # TensorRT merges convolutions that read one tensor
    quantised_bias = False

    def __init__(
        self,
        buffers: Buffers,
        *,
        stream: int,
        versions: Mapping[str, str],
        optimisation: int = 3,
        workspace_bytes: int | None = None,
        engine_cache: str = "",
    ) -> None:
        if not 0 <= optimisation <= 5:
            raise InputError(f"TensorRT's builder has the optimisation levels 0 to 5, not {optimisation}")
        options = {"provider": "tensorrt", "optimisation": str(optimisation)}
        if workspace_bytes:
            options["workspace_bytes"] = str(workspace_bytes)
        super().__init__(buffers, stream=stream, versions=versions, options=options)
        self._level, self._workspace, self._cache = optimisation, workspace_bytes, engine_cache

    def options(self, *, tf32: bool, graph: bool) -> dict[str, str]:  # noqa: ARG002 - it cannot be forbidden
        """Return the options of the TensorRT execution provider for one session."""
        options = {
            "device_id": str(self._buffers.index),
            "user_compute_stream": str(self._stream),
            "trt_builder_optimization_level": str(self._level),
            "trt_auxiliary_streams": "0",
            "trt_timing_cache_enable": "0",
            "trt_engine_cache_enable": str(int(bool(self._cache))),
            "trt_min_subgraph_size": "1",
            "trt_cuda_graph_enable": str(int(graph)),
        }
        if self._workspace:
            options["trt_max_workspace_size"] = str(self._workspace)
        return options | ({"trt_engine_cache_path": self._cache} if self._cache else {})

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
        if len(bound.ran) != 1:
            raise MeasurementError(
                f"TensorRT took {what} in {len(bound.ran)} pieces instead of one engine, so its time "
                "would hold the seams between them"
            )


def open_cuda(
    *,
    device: str = "cuda:0",
    threads: int = 1,  # noqa: ARG001 - every back end takes it; the device does the work
    search: str = "exhaustive",
    layout: str = "nhwc",
    max_workspace: bool = True,
    at_once: int = 64,
    memory_limit_bytes: int | None = None,
    **policy: Any,
) -> Backend:
    """Return the back end of ONNX Runtime's CUDA provider on ``device``; ``policy`` goes to ``GpuBackend``.

    Raises ``InputError`` where the device or its libraries cannot be used and ``DependencyError`` where
    ONNX Runtime has no such provider.
    """
    import torch

    index = require_cuda(device)
    load_provider(_CUDA)
    stream = torch.cuda.Stream(index)
    runtime = OnnxRuntimeCuda(
        Buffers("cuda", index),
        stream=stream.cuda_stream,
        versions=cuda_versions(index),
        search=search,
        layout=layout,
        max_workspace=max_workspace,
        at_once=at_once,
        memory_limit_bytes=memory_limit_bytes,
    )
    return _backend(runtime, stream, index, policy)


def open_tensorrt_ep(
    *,
    device: str = "cuda:0",
    threads: int = 1,  # noqa: ARG001 - every back end takes it; the device does the work
    optimisation: int = 3,
    workspace_bytes: int | None = None,
    engine_cache: str = "",
    **policy: Any,
) -> Backend:
    """Return the back end of ONNX Runtime's TensorRT provider on ``device``; see ``open_cuda``."""
    import torch

    index = require_cuda(device)
    load_provider(_TENSORRT)
    stream = torch.cuda.Stream(index)
    runtime = OnnxRuntimeTensorRt(
        Buffers("cuda", index),
        stream=stream.cuda_stream,
        versions=cuda_versions(index),
        optimisation=optimisation,
        workspace_bytes=workspace_bytes,
        engine_cache=engine_cache,
    )
    return _backend(runtime, stream, index, policy)


def _backend(runtime: OrtRuntime, stream: Any, index: int, policy: Mapping[str, Any]) -> Backend:
    from profiler.gpu.backend import GpuBackend
    from profiler.gpu.cuda_clock import CudaClock

    backend: Backend = GpuBackend(runtime, CudaClock(stream, index), **policy)
    return backend
