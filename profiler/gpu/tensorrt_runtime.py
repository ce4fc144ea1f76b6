"""TensorRT (or TensorRT-RTX) as a runtime that is measured: an engine per configuration.

Each configuration runs in an engine of its own, which is one step of a program, so engines never share a stream of
work or a tactic search. The copies in an engine have inputs of their own bound to one buffer (see
``tensorrt_network``), and what they read and write is in the format that TensorRT prefers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.environment import Environment
from latency_model.errors import MeasurementError
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape
from profiler.backends.base import Backend
from profiler.gpu.device import driver_version
from profiler.gpu.tensorrt_build import Engine, build_engine, conv_engine
from profiler.gpu.tensorrt_device import LoadedEngine, Tensor, TorchDevice
from profiler.gpu.tensorrt_layers import merged
from profiler.gpu.tensorrt_module import flavour_of, load_tensorrt, require_capability
from profiler.gpu.tensorrt_network import conv_arrays, scales
from profiler.gpu.tensorrt_program import Device, Loaded, Part, TensorRtProgram

__all__ = ["TensorRtRuntime", "open_tensorrt"]

_NEVER = re.compile(r"(?!)")
# Myelin names a generated kernel after its operations; a lone Conc pads the channels of a tensor between two
# convolutions and belongs to the second one.
_REFORMAT = re.compile(
    r"__myl_(?!Conc_)(?:Move|Tran|Resh|Slic|Conc|Copy|Pad)+_"
    r"|copyPackedKernel|copyVectorizedKernel|genericReformat|permutationKernel|nchwToNhwc|nhwcToNchw"
)
_NETWORK_TYPES = ("FLOAT", "HALF", "BF16")


class TensorRtRuntime:
    """Builds TensorRT programs for one device; implements ``Runtime``.

    Raises ``InputError`` at once when the installed flavour does not run on the device. ``device``, ``load`` and
    ``build`` stand for the device, for loading an engine and for building one, and are replaced in tests.
    """

    precisions: tuple[str, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")
    methods: tuple[str, ...] = ("graph-increment", "kernel-trace")
    at_once = 4
    times_ops = False
    marker = _NEVER
    boundary = _REFORMAT

    def __init__(
        self,
        device: Device,
        *,
        trt: Any,
        optimisation_level: int | None = None,
        load: Callable[[Any, bytes], Loaded] = LoadedEngine,
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
            driver=driver_version(),
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
        parts: list[tuple[Config | None, Part, float]] = []
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

    def _conv(self, shape: ConvShape, copies: int, seed: int) -> Part:
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

        return Part(self._device, loaded, data)

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

        return TensorRtProgram(self._device, [(None, Part(self._device, loaded, data), 1.0)], graph=True)

    def close(self) -> None:
        """Give back the memory that is kept for later; programs are closed by who built them."""
        self._device.free()


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
    from profiler.gpu.backend import GpuBackend
    from profiler.gpu.cuda_clock import CudaClock

    clock = CudaClock(index=opened.index, stream=opened.stream)
    backend: Backend = GpuBackend(runtime, clock, method=method, **options)
    return backend
