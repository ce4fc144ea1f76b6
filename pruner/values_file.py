"""What a method found, in a file: a resumed run reads it back, and a run on other data may take it over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_model.errors import InputError
from pruner.graph import ChannelGraph
from pruner.methods import Values
from pruner.training.state import load_tensors, save_tensors

__all__ = ["VALUES", "load_values", "method_of", "save_values", "transferred"]

VALUES = "values.safetensors"
_CHANNELS, _CURVES, _META = "channels/", "curves/", "gharial.values"


def save_values(values: Values, path: Path, *, method: str) -> None:
    """Write ``values``, which ``method`` found, to ``path``, atomically."""
    arrays = {f"{_CHANNELS}{name}": worth for name, worth in values.channels.items()}
    arrays |= {f"{_CURVES}{name}": curve for name, curve in (values.curves or {}).items()}
    rest = {
        "method": method,
        "open_counts": dict(values.open_counts),
        "notes": dict(values.notes),
        "shares": None if values.shares is None else dict(values.shares),
        "curves": values.curves is not None,
    }
    tensors = {name: torch.as_tensor(np.asarray(array, np.float64)) for name, array in arrays.items()}
    save_tensors(path, tensors, {_META: json.dumps(rest)})


def load_values(path: Path) -> Values:
    """Return what ``save_values`` wrote; ``InputError`` for another file, ``WeightsError`` for a damaged one."""
    tensors, rest = _loaded(path)

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    return Values(
        under(_CHANNELS),
        rest["open_counts"],
        rest["notes"],
        rest["shares"],
        under(_CURVES) if rest["curves"] else None,
    )


def method_of(path: Path) -> str:
    """Return the name of the method that found the values in ``path``; raises what ``load_values`` does."""
    return str(_loaded(path)[1]["method"])


def _loaded(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, metadata = load_tensors(path)
    if _META not in metadata:
        raise InputError(f"{path} holds no values of a pruning method; give the folder of a pruning run")
    return tensors, json.loads(metadata[_META])


def transferred(run: Path, graph: ChannelGraph) -> Values:
    """Return the values that another run found, for the network of ``graph``: the masks travel, weights do not.

    Raises ``InputError`` for a folder without a run, and for a run of a network with other groups.
    """
    path = Path(run) / VALUES
    if not path.is_file():
        raise InputError(
            f"{run} holds no values of a pruning method; give the --out of a run that has learned"
        )
    values = load_values(path)
    found = {name: len(worth) for name, worth in values.channels.items()}
    if found != graph.sizes():
        differs = sorted(
            name for name in {*found, *graph.groups} if found.get(name) != graph.sizes().get(name)
        )
        raise InputError(
            f"{run} is of a network with other groups of channels ({differs[0]} has {found.get(differs[0], 'none')} "
            f"there, {graph.sizes().get(differs[0], 'none')} here); transfer between networks of one architecture"
        )
    return values
