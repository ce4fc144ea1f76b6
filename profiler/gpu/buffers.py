"""Device memory that a session reads and writes at fixed addresses, held as torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from latency_model.errors import MeasurementError

__all__ = ["Buffers"]

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


class Buffers:
    """Allocates on one device and binds to ONNX Runtime; ``cpu`` or ``cuda``, and the index of the device."""

    def __init__(self, kind: str, index: int = 0) -> None:
        self.kind, self.index = kind, index
        self._device = torch.device(kind) if kind == "cpu" else torch.device(kind, index)

    def _dtype(self, element: int) -> torch.dtype:
        if element not in _DTYPES:
            raise MeasurementError(
                f"a tensor of ONNX type {TensorProto.DataType.Name(element)} cannot be bound to device memory"
            )
        return _DTYPES[element]

    def put(self, values: NDArray[Any], element: int) -> torch.Tensor:
        """Return ``values`` on the device, rounded to the ONNX type ``element``."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device, self._dtype(element))

    def empty(self, sizes: tuple[int, ...], element: int) -> torch.Tensor:
        """Return uninitialised memory on the device."""
        return torch.empty(sizes, dtype=self._dtype(element), device=self._device)

    def get(self, tensor: torch.Tensor) -> NDArray[Any]:
        """Return ``tensor`` as fp32 in host memory, after all that was enqueued."""
        self.synchronise()
        array: NDArray[Any] = tensor.to(torch.float32).cpu().numpy()
        return array

    def bind(self, binding: Any, name: str, tensor: torch.Tensor, element: int, *, output: bool) -> None:
        """Make the session read the input, or write the output, ``name`` at ``tensor``."""
        bind = binding.bind_output if output else binding.bind_input
        bind(name, self.kind, self.index, element, list(tensor.shape), tensor.data_ptr())

    def synchronise(self) -> None:
        """Wait until the device has done all that was enqueued."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.index)
