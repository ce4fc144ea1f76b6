"""A torch module as one self-contained ONNX file, made without noise on the terminal."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from latency_model.errors import DependencyError, ModelError

__all__ = ["export_onnx"]

_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._dynamo")


# Not bf16: the exporter's folding of batch norms leaves fp32 weights in such a network.
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def export_onnx(
    module: nn.Module, input_shape: tuple[int, int, int], *, batch: int, precision: str = "fp32"
) -> bytes:
    """Return ``module`` in evaluation mode as ONNX, weights inside, input ``(batch, *input_shape)``.

    Every tensor is of ``precision`` (fp32 or fp16), the input too, with no cast between.

    Batch norms are folded into the convolutions before them. Sizes are fixed. The module is left as it was,
    the training flag of each submodule included. Raises ``ModelError`` when it cannot be exported.

    >>> len(export_onnx(torch.nn.Conv2d(3, 8, 3), (3, 8, 8), batch=1)) > 0
    True
    """
    if precision not in _DTYPES:
        raise ModelError(f"a network is exported in {', '.join(_DTYPES)}, not in {precision}")
    if precision != "fp32":
        module = copy.deepcopy(module).to(_DTYPES[precision])
    training = [part for part in module.modules() if part.training]
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    example = torch.zeros(batch, *input_shape, device=device, dtype=_DTYPES[precision])
    module.eval()
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module, (example,), dynamo=True, verbose=False, external_data=False, optimize=True
            )
            if program is None:
                raise ModelError("the exporter returned nothing")
            return bytes(program.model_proto.SerializeToString())
    except ImportError as error:
        raise DependencyError(
            "ONNX export needs the package onnxscript; install it with: pip install onnxscript"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # the exporter has a tree of errors of its own, most of them not public
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{type(module).__name__} cannot be exported to ONNX: {reason}; "
            "does its forward take one image batch and trace with torch.export?"
        ) from error
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
