"""The state of a training stage: one file in which tensors and meta data cannot disagree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from latency_model.errors import WeightsError
from latency_model.files import write_atomic

__all__ = [
    "STATE_FILE",
    "digest",
    "flatten_optimizer",
    "has_state",
    "load_state",
    "load_tensors",
    "save_state",
    "save_tensors",
    "under",
    "unflatten_optimizer",
]

STATE_FILE = "state.safetensors"
_META = "gharial.state"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` and text ``metadata`` to ``path`` as safetensors, atomically."""
    # The library refuses views and shared storage, so every tensor gets its own plain copy.
    plain = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    data = save(plain, metadata=dict(metadata))

    def write(target: Path) -> None:
        target.write_bytes(data)

    write_atomic(path, write)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file; ``WeightsError`` when missing or damaged."""
    if not Path(path).is_file():
        raise WeightsError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged ({error}); delete it to start anew") from error


def has_state(folder: Path) -> bool:
    """Whether ``folder`` holds a saved state."""
    return (Path(folder) / STATE_FILE).is_file()


def save_state(folder: Path, *, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write ``tensors`` and JSON-ready ``meta`` to one file in ``folder``, replacing the old state at once.

    A crash leaves the old state or the new one. Temporary files of earlier crashes are removed.
    """
    folder = Path(folder)
    text = json.dumps(meta, allow_nan=False)
    save_tensors(folder / STATE_FILE, tensors, {_META: text})
    for leftover in folder.glob(f".{STATE_FILE}.*"):
        leftover.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, meta) as ``save_state`` wrote them; ``WeightsError`` when missing or damaged."""
    path = Path(folder) / STATE_FILE
    tensors, metadata = load_tensors(path)
    try:
        meta = json.loads(metadata[_META])
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path} is not a training state; delete it to start anew") from error
    return tensors, meta


def flatten_optimizer(optimizer: torch.optim.Optimizer, prefix: str = "optimizer.") -> dict[str, Tensor]:
    """Return the optimizer's tensors by flat names; its hyperparameters are the caller's."""
    return {
        f"{prefix}{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def unflatten_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str = "optimizer."
) -> None:
    """Give the optimizer back what ``flatten_optimizer`` took; other names are left alone."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            number, entry = name.removeprefix(prefix).split(".", 1)
            index = int(number)
            like = parameters[index] if value.shape == parameters[index].shape else value
            # The file has no strides; another memory order may take another kernel, and round otherwise.
            state.setdefault(index, {})[entry] = torch.empty_like(like, dtype=value.dtype).copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def digest(model: nn.Module) -> str:
    """Return a hash of all names, shapes, types and bits of the model's state."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
