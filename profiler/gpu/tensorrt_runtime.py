"""TensorRT (or TensorRT-RTX) as a runtime that is measured: an engine per configuration.

Each configuration runs in an engine of its own, which is one step of a program, so engines never share a stream of
work or a tactic search. The copies in an engine have inputs of their own bound to one buffer (see
``tensorrt_network``), and what they read and write is in the format that TensorRT prefers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_model.environment import Environment
from latency_model.errors import MeasurementError
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape
from profiler.backends.base import Backend
from profiler.gpu.program import Step
from profiler.gpu.tensorrt_build import Engine, build_engine, conv_engine
from profiler.gpu.tensorrt_device import LoadedEngine, Tensor, TorchDevice
from profiler.gpu.tensorrt_formats import pack, physical_dims, unpack
from profiler.gpu.tensorrt_layers import EngineLayer, merged
from profiler.gpu.tensorrt_module import flavour_of, load_tensorrt, require_capability
from profiler.gpu.tensorrt_network import conv_arrays, scales

__all__ = ["TensorRtProgram", "TensorRtRuntime", "open_tensorrt"]

_NEVER = re.compile(r"(?!)")
# Myelin names a generated kernel after its operations; a lone Conc pads the channels of a tensor between two
# convolutions and belongs to the second one.
_REFORMAT = re.compile(
    r"__myl_(?!Conc_)(?:Move|Tran|Resh|Slic|Conc|Copy|Pad)+_"
    r"|copyPackedKernel|copyVectorizedKernel|genericReformat|permutationKernel|nchwToNhwc|nhwcToNchw"
)
_NETWORK_TYPES = ("FLOAT", "HALF", "BF16")


class _Device(Protocol):
    """What the runtime needs of ``TorchDevice``."""

    index: int
    stream: Any

    @property
    def name(self) -> str: ...
    @property
    def capability(self) -> str: ...
    @property
    def cuda(self) -> str: ...
    @property
    def handle(self) -> int: ...
    def upload(self, array: NDArray[Any], kind: str) -> Any: ...
    def download(self, tensor: Any) -> NDArray[np.float32]: ...
    def address(self, tensor: Any) -> int: ...
    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]: ...
    def synchronise(self) -> None: ...
    def free(self) -> None: ...


class _Loaded(Protocol):
    """What the runtime needs of ``LoadedEngine``."""

    def tensors(self) -> tuple[Tensor, ...]: ...
    def bind(self, name: str, address: int) -> None: ...
    def enqueue(self, stream: int) -> None: ...
    def capturable(self, stream: int) -> bool: ...
    def layers(self) -> tuple[EngineLayer, ...]: ...
    def close(self) -> None: ...


class _Part:
    """A loaded engine with its buffers: inputs of one kind share a buffer, every output has its own."""

    def __init__(
        self, device: _Device, engine: _Loaded, data: Callable[[Tensor], tuple[str, NDArray[Any]]]
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
        self.engine.enqueue(self.device.handle)

    def close(self) -> None:
        self.engine.close()
        self.outputs.clear()
        self._buffers.clear()


class TensorRtProgram:
    """Engines that run one after the other on one stream; implements ``Program``."""

    def __init__(
        self,
        device: _Device,
        parts: Sequence[tuple[Config | None, _Part, float]],
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


class TensorRtRuntime:
    """Builds TensorRT programs for one device; implements ``Runtime``.

    Raises ``InputError`` at once when the installed flavour does not run on the device. ``device``, ``load`` and
    ``build`` stand for the device, for loading an engine and for building one, and are replaced in tests.
    """

    precisions = ("fp32", "tf32", "fp16", "bf16", "int8")
    methods = ("graph-increment", "kernel-trace")
    at_once = 4
    marker = _NEVER
    boundary = _REFORMAT

    def __init__(
        self,
        device: _Device,
        *,
        trt: Any,
        optimisation_level: int | None = None,
        load: Callable[[Any, bytes], _Loaded] = LoadedEngine,
        build: Callable[..., Engine] | None = None,
    ) -> None:
        require_capability(trt, device.capability)
        self._trt, self._device, self._load = trt, device, load
        self._level = optimisation_level
        self._build_conv = build or conv_engine
        self._environment = Environment(
            device=device.name,
            kind="cuda",
            runtime="tensorrt",
            runtime_version=str(trt.__version__),
            driver=_driver(),
            cuda=device.cuda,
            options=(
                ("flavour", flavour_of(trt)),
                ("optimisation_level", "default" if optimisation_level is None else str(optimisation_level)),
                ("timing_cache", "off"),
                ("max_aux_streams", "0"),
                ("compute_capability", device.capability),
            ),
        )

    @property
    def environment(self) -> Environment:
        """Flavour, version, builder options, device, driver and CUDA."""
        return self._environment

    def build(
        self, configs: Sequence[Config], *, copies: int = 1, graph: bool = False, seed: int = 0
    ) -> TensorRtProgram:
        """Return a program with an engine for each of ``configs``; every build searches for tactics anew.

        Raises ``MeasurementError``: an operator that is not a convolution, what TensorRT refuses, copies that it
        merged, or too little memory.
        """
        parts: list[tuple[Config | None, _Part, float]] = []
        try:
            for config in configs:
                if isinstance(config, OpShape):
                    raise MeasurementError(f"TensorRT times convolutions only, not {config}")
                scale = scales(config)["y"] if config.precision == "int8" else 1.0
                parts.append((config, self._conv(config, copies, seed), scale))
        except MeasurementError:
            for _, part, _ in parts:
                part.close()
            raise
        return TensorRtProgram(self._device, parts, graph=graph)

    def _conv(self, shape: ConvShape, copies: int, seed: int) -> _Part:
        engine = self._build_conv(
            shape,
            copies,
            seed=seed,
            compute_capability=None,
            optimisation_level=self._level,
            flavour=flavour_of(self._trt),
        )
        loaded = self._load(self._trt, engine.plan)
        try:
            layers = loaded.layers() if engine.layers is None else engine.layers
            if copies > 1 and (together := merged(layers)):
                raise MeasurementError(
                    f"TensorRT merged copies into one layer ({together[0].name}), so they cannot be told apart; "
                    f"use --method kernel-trace: {shape}"
                )
        except MeasurementError:
            loaded.close()
            raise
        arrays = conv_arrays(shape, seed=seed)
        steps = scales(shape)

        def data(tensor: Tensor) -> tuple[str, NDArray[Any]]:
            kind = tensor.name[0]
            values = arrays[kind]
            if tensor.type == "INT8":
                values = np.clip(np.rint(values / np.float32(steps[kind])), -128, 127).astype(np.float32)
            return kind, values

        return _Part(self._device, loaded, data)

    def build_network(self, model: bytes, *, seed: int = 0) -> TensorRtProgram:
        """Return a program that replays a whole network given as ONNX, with random input, as a CUDA graph."""
        engine = build_engine(
            model,
            optimisation_level=self._level,
            flavour=flavour_of(self._trt),
        )
        loaded = self._load(self._trt, engine.plan)
        rng = np.random.default_rng(seed)

        def data(tensor: Tensor) -> tuple[str, NDArray[Any]]:
            if tensor.type not in _NETWORK_TYPES or min(tensor.dims, default=1) < 1:
                raise MeasurementError(
                    f"the input {tensor.name} ({tensor.type}, {list(tensor.dims)}) cannot be filled with random "
                    "numbers; export the network with fixed sizes and floating-point inputs"
                )
            return tensor.name, rng.standard_normal(tensor.dims, dtype=np.float32)

        return TensorRtProgram(self._device, [(None, _Part(self._device, loaded, data), 1.0)], graph=True)

    def close(self) -> None:
        """Give back the memory that is kept for later; programs are closed by who built them."""
        self._device.free()


def _driver() -> str:
    """Return the driver's version; empty where nvidia-ml-py is not installed or finds no driver."""
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        try:
            version = pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # without the package or the driver; NVML has an exception type for each status
        return ""
    return version.decode() if isinstance(version, bytes) else str(version)


def open_tensorrt(
    *,
    device: str = "cuda:0",
    threads: int = 1,  # noqa: ARG001 - every back end is opened with it; the device has no use for it
    method: str = "auto",
    flavour: str | None = None,
    optimisation_level: int | None = None,
    **options: Any,
) -> Backend:
    """Return a back end that times with TensorRT, or TensorRT-RTX, on a CUDA device.

    ``flavour`` is ``tensorrt`` or ``tensorrt_rtx``, None for the first that is installed; ``options`` go to
    ``GpuBackend``. Raises ``DependencyError`` when neither is installed, ``InputError`` when there is no such
    device or the flavour does not run on it.
    """
    trt = load_tensorrt(flavour)
    opened = TorchDevice(device)
    runtime = TensorRtRuntime(opened, trt=trt, optimisation_level=optimisation_level)
    from profiler.gpu.backend import GpuBackend  # type: ignore[import-not-found]
    from profiler.gpu.cuda_clock import CudaClock  # type: ignore[import-not-found]

    clock = CudaClock(opened.stream, opened.index)
    backend: Backend = GpuBackend(runtime, clock, method=method, **options)
    return backend
