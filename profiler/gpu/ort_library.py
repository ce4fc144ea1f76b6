"""Whether ONNX Runtime's library for a GPU is there and can be loaded, and if not, why."""

from __future__ import annotations

import contextlib
import ctypes
import io
from pathlib import Path

import onnxruntime as ort
from onnx import TensorProto, helper

from latency_model.errors import DependencyError, InputError, MeasurementError
from profiler.gpu.ort_session import open_session

__all__ = ["load_provider"]


def load_provider(provider: str) -> None:
    """Make sure that ONNX Runtime can run on ``provider``, or say why not and what to do.

    Raises ``DependencyError`` for a build of ONNX Runtime without it and ``InputError`` for libraries of
    CUDA, cuDNN or TensorRT that cannot be loaded.
    """
    if provider not in ort.get_available_providers():
        raise DependencyError(
            f"the installed onnxruntime {ort.__version__} has no {provider}; install onnxruntime-gpu: "
            "pip uninstall onnxruntime, then pip install 'gharial[gpu]' (both share one import name)"
        )
    if hasattr(ort, "preload_dlls"):
        # It takes the libraries that a CUDA build of torch brought, and prints what it does not find.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], "probe", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    ort.set_default_logger_severity(4)
    try:
        open_session(model.SerializeToString(), provider=provider, options={}, what="a first operator")
    except MeasurementError as error:
        raise InputError(
            f"{provider} of onnxruntime {ort.__version__} cannot be loaded: "
            f"{_library_error(provider) or error}; install what it was built for"
            + (f" (CUDA {ort.cuda_version}, cuDNN 9)" if getattr(ort, "cuda_version", "") else "")
            + ", for example with a torch for the same CUDA version"
            + (", and TensorRT's libraries" if provider.startswith("Tensorrt") else "")
        ) from error
    finally:
        ort.set_default_logger_severity(2)


def _library_error(provider: str) -> str:
    """Return what the dynamic linker says of the provider's library, "" when it can be loaded."""
    folder = Path(ort.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error)
    return ""
