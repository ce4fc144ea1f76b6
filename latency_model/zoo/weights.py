"""Weights from safetensors files: exact, or an error that names what differs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from latency_model.errors import WeightsError

__all__ = ["load_weights"]

_SHOWN = 4
_OPTIONAL = "num_batches_tracked"
_PREFIX = "module."  # what DistributedDataParallel puts before every name


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Copy the tensors of the safetensors file ``path`` into ``module``, all of them or none.

    Names and shapes must agree exactly, except that counters of batch norms (``num_batches_tracked``) may be
    absent on either side, and that every name may begin with ``module.``. Raises ``WeightsError`` that says
    which names are missing, unexpected or of another shape.
    """
    tensors = _read(Path(path))
    own = module.state_dict()
    if all(name.startswith(_PREFIX) for name in tensors) and not any(
        name.startswith(_PREFIX) for name in own
    ):
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    missing = [name for name in own if name not in tensors and not name.endswith(_OPTIONAL)]
    unexpected = [name for name in tensors if name not in own and not name.endswith(_OPTIONAL)]
    reshaped = [
        f"{name} (file {tuple(tensors[name].shape)}, model {tuple(own[name].shape)})"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    problems = [
        f"{title}: {_some(names)}"
        for title, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"{path} does not fit {type(module).__name__}; {'; '.join(problems)}; "
            "give the weights of this model"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in tensors:
                tensor.copy_(tensors[name])


def _some(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"no weights file at {path}; give a .safetensors file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); it may be truncated, or saved in another format"
        ) from error
