"""A TensorRT program: loaded engines with their buffers, run one after the other on one stream."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import MeasurementError
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.ops import Config
from profiler.gpu.program import Step
from profiler.gpu.tensorrt_device import Tensor
from profiler.gpu.tensorrt_formats import pack, physical_dims, unpack

__all__ = ["Device", "Loaded", "Part", "TensorRtProgram"]


class Device(Protocol):
    """What a program needs of ``TorchDevice``; see there."""

    index: int
    stream: Any

    @property
    def name(self) -> str:
        """The device's name."""
        ...

    @property
    def capability(self) -> str:
        """The compute capability, as ``8.9``."""
        ...

    @property
    def cuda(self) -> str:
        """The version of CUDA."""
        ...

    @property
    def handle(self) -> int:
        """The stream as CUDA knows it."""
        ...

    def upload(self, array: NDArray[Any], kind: str) -> Any:
        """Return an array on the device."""
        ...

    def download(self, tensor: Any) -> NDArray[np.float32]:
        """Wait, and return a buffer as fp32."""
        ...

    def address(self, tensor: Any) -> int:
        """Return where a buffer begins."""
        ...

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Return what replays the work that ``enqueue`` puts on the stream."""
        ...

    def synchronise(self) -> None:
        """Wait for the stream."""
        ...

    def free(self) -> None:
        """Give back memory that is kept for later."""
        ...


class Loaded(Protocol):
    """What a program needs of ``LoadedEngine``; see there."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the inputs and outputs."""
        ...

    def bind(self, name: str, address: int) -> None:
        """Say where an input or output lies."""
        ...

    def enqueue(self, stream: int) -> None:
        """Put one run on a stream."""
        ...

    def capturable(self, stream: int) -> bool:
        """Whether a run can be captured."""
        ...

    def layers(self) -> tuple[EngineLayer, ...]:
        """Return the layers as inspected on the device."""
        ...

    def close(self) -> None:
        """Free it; may be called twice."""
        ...


class Part:
    """A loaded engine with its buffers: inputs of one kind share a buffer, every output has its own."""

    def __init__(
        self, device: Device, engine: Loaded, data: Callable[[Tensor], tuple[str, NDArray[Any]]]
    ) -> None:
        self.device, self.engine = device, engine
        self.outputs: list[tuple[Tensor, Any]] = []
        self._buffers: dict[tuple[str, str, str], Any] = {}
        try:
            for tensor in engine.tensors():
                if tensor.is_input:
                    buffer = self._input(tensor, *data(tensor))
                else:
                    empty = np.zeros(physical_dims(tensor.dims, tensor.format), dtype=np.float32)
                    buffer = device.upload(empty, tensor.type)
                    self.outputs.append((tensor, buffer))
                engine.bind(tensor.name, device.address(buffer))
        except MeasurementError:
            self.close()
            raise

    def _input(self, tensor: Tensor, kind: str, array: NDArray[Any]) -> Any:
        key = (kind, tensor.format, tensor.type)
        if key not in self._buffers:
            self._buffers[key] = self.device.upload(pack(array, tensor.format), tensor.type)
        return self._buffers[key]

    def run(self) -> None:
        """Enqueue the engine once."""
        self.engine.enqueue(self.device.handle)

    def close(self) -> None:
        """Free the engine and let go of the buffers."""
        self.engine.close()
        self.outputs.clear()
        self._buffers.clear()


class TensorRtProgram:
    """Engines that run one after the other on one stream; implements ``Program``."""

    def __init__(
        self,
        device: Device,
        parts: Sequence[tuple[Config | None, Part, float]],
        *,
        graph: bool,
    ) -> None:
        self._device, self._parts = device, list(parts)
        try:
            for _, part, _ in parts:
                part.run()  # the first run compiles and allocates
            device.synchronise()
            runs = [part.run for _, part, _ in parts]
            self._whole: Callable[[], None] = functools.partial(_each, runs)
            if graph:
                for _, part, _ in parts:
                    if not part.engine.capturable(device.handle):
                        raise MeasurementError(
                            "TensorRT says that this engine cannot be captured into a CUDA graph; "
                            "use --method kernel-trace"
                        )
                self._whole = device.capture(self._whole)
                runs = [self._whole] if len(runs) == 1 else [device.capture(run) for run in runs]
            self._steps = tuple(
                Step(() if config is None else (config,), run)
                for (config, _, _), run in zip(parts, runs, strict=True)
            )
        except MeasurementError:
            self.close()
            raise

    @property
    def steps(self) -> Sequence[Step]:
        """One step for each engine."""
        return self._steps

    def run(self) -> None:
        """Enqueue all engines once, as one graph if they were captured."""
        self._whole()

    def outputs(self) -> list[NDArray[Any]]:
        """Wait, and return the first copy's output of each configuration, dequantised, as fp32 in NCHW."""
        found = []
        for _, part, scale in self._parts:
            tensor, buffer = next((pair for pair in part.outputs if pair[0].name == "y0"), part.outputs[0])
            values = unpack(self._device.download(buffer), tensor.format, tensor.dims)
            found.append(values * np.float32(scale))
        return found

    def layers(self) -> list[tuple[EngineLayer, ...]]:
        """Return the layers of each engine, as the inspector describes them on this device."""
        return [part.engine.layers() for _, part, _ in self._parts]

    def close(self) -> None:
        """Free the engines and buffers; may be called twice."""
        self._steps, self._whole = (), _nothing
        for _, part, _ in self._parts:
            part.close()
        self._parts.clear()
        self._device.free()


def _each(runs: Sequence[Callable[[], None]]) -> None:
    for run in runs:
        run()


def _nothing() -> None:
    """What a closed program runs."""
