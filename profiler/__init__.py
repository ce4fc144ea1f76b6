"""The profiler: plans configurations, times them on a device, and keeps what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.backends import open_backend
from profiler.plan import plan
from profiler.runner import profile
from profiler.spec import BackendSpec
from profiler.workers import open_workers

if TYPE_CHECKING:
    from profiler.onnx_export import export_onnx

__all__ = ["BackendSpec", "export_onnx", "open_backend", "open_workers", "plan", "profile"]


def __getattr__(name: str) -> Any:
    if name == "export_onnx":  # its module imports torch
        from profiler.onnx_export import export_onnx

        return export_onnx
    raise AttributeError(f"module 'profiler' has no attribute {name!r}")
