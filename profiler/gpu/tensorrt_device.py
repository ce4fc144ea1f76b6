"""The thinnest layer under the TensorRT runtime: a CUDA device through torch, and a loaded engine.

Both are replaced by fakes in tests; nothing else of the runtime touches a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError, MeasurementError
from latency_model.harvest.engine_layers import EngineLayer, layers_from_json
from profiler.gpu.tensorrt_module import flavour_of, load_tensorrt, message_log

__all__ = ["LoadedEngine", "Tensor", "TorchDevice", "engine_layers"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of an engine: its sizes as NCHW, and how it lies in memory."""

    name: str
    is_input: bool
    dims: tuple[int, ...]
    format: str
    type: str


class TorchDevice:
    """A CUDA device, one stream of its own, and buffers on it. Raises ``InputError`` where there is none."""

    def __init__(self, device: str) -> None:
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                f"torch {torch.__version__} finds no CUDA device, so nothing can be timed on {device}; check the "
                "driver with nvidia-smi, or use --device cpu"
            )
        chosen = torch.device(device)
        self.index = torch.cuda.current_device() if chosen.index is None else chosen.index
        if self.index >= torch.cuda.device_count():
            raise InputError(
                f"there is no device {device}; torch finds {torch.cuda.device_count()} CUDA devices"
            )
        self._torch = torch
        # TensorRT works on the current device of the thread.
        torch.cuda.set_device(self.index)
        self.stream = torch.cuda.Stream(device=self.index)

    @property
    def name(self) -> str:
        """The device's name."""
        return str(self._torch.cuda.get_device_name(self.index))

    @property
    def capability(self) -> str:
        """The compute capability, as ``8.9``."""
        major, minor = self._torch.cuda.get_device_capability(self.index)
        return f"{major}.{minor}"

    @property
    def cuda(self) -> str:
        """The version of CUDA that torch brings."""
        return str(self._torch.version.cuda or "")

    @property
    def handle(self) -> int:
        """The stream as CUDA knows it."""
        return int(self.stream.cuda_stream)

    def upload(self, array: NDArray[Any], kind: str) -> Any:
        """Return ``array`` on the device as TensorRT's data type ``kind``."""
        types = self._types()
        if kind not in types:
            raise MeasurementError(
                f"tensors of TensorRT's type {kind} are not supported; known are {', '.join(types)}"
            )
        with self._memory():
            host = self._torch.from_numpy(np.ascontiguousarray(array))
            return host.to(types[kind]).to(f"cuda:{self.index}")

    def download(self, tensor: Any) -> NDArray[np.float32]:
        """Wait, and return a buffer as fp32."""
        self.synchronise()
        values: NDArray[np.float32] = tensor.float().cpu().numpy()
        return values

    def address(self, tensor: Any) -> int:
        """Return where a buffer begins."""
        return int(tensor.data_ptr())

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Capture what ``enqueue`` puts on the stream into a CUDA graph and return what replays it."""
        self.synchronise()
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, stream=self.stream):
                enqueue()
        except RuntimeError as error:
            raise MeasurementError(
                f"TensorRT's work could not be captured into a CUDA graph: {str(error).splitlines()[0]}"
            ) from error

        def replay() -> None:
            with self._torch.cuda.stream(self.stream):
                graph.replay()

        return replay

    def synchronise(self) -> None:
        """Wait for the stream; ``MeasurementError`` for an error of the device."""
        try:
            self.stream.synchronize()
        except RuntimeError as error:
            raise MeasurementError(f"the device reported: {str(error).splitlines()[0]}") from error

    def free(self) -> None:
        """Give back the memory that torch keeps for later."""
        self._torch.cuda.empty_cache()

    def _types(self) -> Mapping[str, Any]:
        torch = self._torch
        return {
            "FLOAT": torch.float32,
            "HALF": torch.float16,
            "BF16": torch.bfloat16,
            "INT8": torch.int8,
        }

    @contextmanager
    def _memory(self) -> Iterator[None]:
        try:
            yield
        except self._torch.cuda.OutOfMemoryError as error:
            raise MeasurementError(
                f"the buffers do not fit into the memory of {self.name}; use a smaller batch"
            ) from error


class LoadedEngine:
    """An engine on the device, with an execution context. Raises ``MeasurementError`` when it cannot be loaded."""

    def __init__(self, trt: Any, plan: bytes) -> None:
        self._trt = trt
        self._logger, self._log = message_log(trt)
        self._runtime: Any = trt.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan) if self._runtime else None
        self._context: Any = self._engine.create_execution_context() if self._engine else None
        if self._context is None:
            raise MeasurementError(
                f"TensorRT could not load an engine on this device: {self._log.reason or 'it gave no reason'}"
            )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the inputs and outputs."""
        engine, found = self._engine, []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found.append(
                Tensor(
                    name=name,
                    is_input=engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT,
                    dims=tuple(engine.get_tensor_shape(name)),
                    format=str(engine.get_tensor_format(name).name),
                    type=str(engine.get_tensor_dtype(name).name),
                )
            )
        return tuple(found)

    def bind(self, name: str, address: int) -> None:
        """Say where an input or output lies."""
        if not self._context.set_tensor_address(name, address):
            raise MeasurementError(f"TensorRT refused the buffer of {name}: {self._log.reason}")

    def enqueue(self, stream: int) -> None:
        """Put one run on a stream."""
        if not self._context.execute_async_v3(stream):
            raise MeasurementError(f"TensorRT could not run: {self._log.reason or 'it gave no reason'}")

    def capturable(self, stream: int) -> bool:
        """Whether a run can be captured into a CUDA graph; TensorRT proper does not say, and tries."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return True if asked is None else bool(asked(stream))

    def layers(self) -> tuple[EngineLayer, ...]:
        """Return the layers as the engine inspector describes them on this device."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return layers_from_json(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    @property
    def flavour(self) -> str:
        """The import name of what runs it."""
        return flavour_of(self._trt)

    def close(self) -> None:
        """Free the context, then the engine; may be called twice."""
        self._context = self._engine = self._runtime = None


def engine_layers(flavour: str, plan: bytes) -> tuple[EngineLayer, ...]:
    """Return the layers that the inspector lists on this device, for a builder that logged none."""
    loaded = LoadedEngine(load_tensorrt(flavour), plan)
    try:
        return loaded.layers()
    finally:
        loaded.close()
