"""Back ends: one file each, found through the entry-point group ``profiler.backends``."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from latency_model.errors import DependencyError, InputError

if TYPE_CHECKING:
    from profiler.backends.base import Backend
    from profiler.workers.base import Description

__all__ = ["GROUP", "known_backends", "open_backend", "require_precision"]

GROUP = "profiler.backends"

# What pyproject.toml declares, for use from a source tree that is not installed. A name ending in @cuda is
# that runtime on a CUDA device.
_BUILT_IN = {
    "fake": "profiler.backends.fake:FakeDevice",
    "onnxruntime": "profiler.backends.onnxruntime_cpu:OnnxRuntimeCpu",
    "torch": "profiler.backends.torch_cpu:TorchCpu",
}
_PACKAGES = {"onnxruntime": "onnxruntime", "torch": "torch", "onnx": "onnx"}


def known_backends() -> dict[str, str]:
    """Return runtime names and where each one's class is, those of installed plug-ins included."""
    return _BUILT_IN | {point.name: point.value for point in entry_points(group=GROUP)}


def open_backend(
    runtime: str, *, device: str = "cpu", precision: str | None = "fp32", threads: int = 1, **options: Any
) -> Backend:
    """Return the back end ``runtime`` on ``device``; use it as a context manager.

    ``options`` go to the back end's class; None as ``precision`` asks for none. Raises ``InputError`` for an
    unknown runtime, a device that this version cannot time on, or a precision that the back end lacks, and
    ``DependencyError`` when the runtime is not installed.
    """
    known = known_backends()
    if runtime == "tensorrt" and runtime not in known:
        raise InputError(
            "this version times on the CPU only, so it has no runtime tensorrt; use --runtime onnxruntime"
        )
    if runtime not in known:
        raise InputError(f"unknown runtime {runtime!r}; known are {', '.join(sorted(known))}")
    if runtime in _BUILT_IN and device.startswith("cuda"):
        raise InputError(f"this version times on the CPU only, not on {device}; use --device cpu")
    if threads < 1:
        raise InputError(f"a back end needs at least one thread, not {threads}")
    module, _, name = known[runtime].partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        package = _PACKAGES.get((error.name or "").partition(".")[0], error.name)
        raise DependencyError(
            f"the runtime {runtime} needs the package {error.name}; install it with: pip install {package}"
        ) from error
    backend: Backend = factory(device=device, threads=threads, **options)
    if precision is not None:
        require_precision(backend, precision)
    return backend


def require_precision(backend: Backend | Description, precision: str) -> None:
    """Raise ``InputError`` when ``backend`` cannot time ``precision``."""
    if precision not in backend.precisions:
        environment = backend.environment
        raise InputError(
            f"the runtime {environment.runtime} on {environment.kind} cannot time {precision}; it can time "
            f"{', '.join(backend.precisions)}"
        )
