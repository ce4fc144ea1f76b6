"""Back ends: one file each, found through the entry-point group ``profiler.backends``."""

from __future__ import annotations

import importlib
import re
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
    "onnxruntime@cuda": "profiler.gpu.onnxruntime_gpu:open_cuda",
    "onnxruntime-tensorrt@cuda": "profiler.gpu.onnxruntime_gpu:open_tensorrt_ep",
    "tensorrt@cuda": "profiler.gpu.tensorrt_runtime:open_tensorrt",
    "torch": "profiler.backends.torch_cpu:TorchCpu",
    "torch@cuda": "profiler.gpu.torch_runtime:open_torch_cuda",
}
_ON_CUDA = "@cuda"
_CUDA_DEVICE = re.compile(r"cuda(:\d+)?")


def known_backends() -> dict[str, str]:
    """Return runtime names and where each one's class or factory is, those of installed plug-ins included.

    A name that ends in @cuda is that runtime on CUDA devices.
    """
    return _BUILT_IN | {point.name: point.value for point in entry_points(group=GROUP)}


def open_backend(
    runtime: str, *, device: str = "cpu", precision: str | None = "fp32", threads: int = 1, **options: Any
) -> Backend:
    """Return the back end ``runtime`` on ``device``; use it as a context manager.

    ``options`` go to the back end's class; None as ``precision`` asks for none. Raises ``InputError`` for an
    unknown runtime or option, a device that it cannot time on, or a precision that the back end lacks, and
    ``DependencyError`` when the runtime is not installed.
    """
    if threads < 1:
        raise InputError(f"a back end needs at least one thread, not {threads}")
    name = _name(runtime, device)
    module, _, attribute = known_backends()[name].partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "onnxruntime" and name.endswith(_ON_CUDA):
            package = "'gharial[gpu]'"
        raise DependencyError(
            f"the runtime {runtime} needs the package {error.name}; install it with: pip install {package}"
        ) from error
    try:
        backend: Backend = factory(device=device, threads=threads, **options)
    except TypeError as error:
        # Only a call with a name that nobody takes; any other TypeError is a bug and must stay one.
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in options:
            raise
        raise InputError(f"the runtime {runtime} on {device} has no option {unknown[1]!r}") from error
    if precision is not None:
        require_precision(backend, precision)
    return backend


def _name(runtime: str, device: str) -> str:
    """Return the name under which ``runtime`` is known for ``device``; ``InputError`` when there is none."""
    known = known_backends()
    on_cuda = sorted(name.removesuffix(_ON_CUDA) for name in known if name.endswith(_ON_CUDA))
    plain = sorted(name for name in known if not name.endswith(_ON_CUDA))
    if runtime not in plain and runtime not in on_cuda:
        raise InputError(
            f"unknown runtime {runtime!r}; known are {', '.join(plain)}"
            + (f", and on CUDA devices {', '.join(on_cuda)}" if on_cuda else "")
        )
    if not device.startswith("cuda"):
        if runtime not in plain:
            raise InputError(
                f"the runtime {runtime} times on CUDA devices only, not on {device}; use --device cuda:0"
            )
        return runtime
    if not _CUDA_DEVICE.fullmatch(device):
        raise InputError(f"not a device: {device!r}; write cpu, cuda or, for the second GPU, cuda:1")
    if runtime in on_cuda:
        return runtime + _ON_CUDA
    if runtime in _BUILT_IN:
        raise InputError(
            f"the runtime {runtime} does not time on {device}; on CUDA devices there are {', '.join(on_cuda)}"
        )
    return runtime  # another's back end, which knows its devices itself


def require_precision(backend: Backend | Description, precision: str) -> None:
    """Raise ``InputError`` when ``backend`` cannot time ``precision``."""
    if precision not in backend.precisions:
        environment = backend.environment
        raise InputError(
            f"the runtime {environment.runtime} on {environment.kind} cannot time {precision}; it can time "
            f"{', '.join(backend.precisions)}"
        )
