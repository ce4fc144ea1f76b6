"""What `gharial profile` is to measure: models, channel counts, configurations and whole networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError

if TYPE_CHECKING:
    from latency_model.network import NetworkCost
    from latency_model.zoo import LoadedModel
    from profiler.runner import Network

__all__ = ["channel_counts", "load", "option_values", "whole_networks"]

# What networks are exported in. A file cannot ask for tf32, and int8 needs a calibration that is not ours.
_EXPORTED = ("fp32", "fp16")


def option_values(texts: Sequence[str]) -> dict[str, Any]:
    """Return options given as ``NAME=VALUE``: values are numbers, true, false or null as in JSON, else text."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"not an option: {text!r}; write --option NAME=VALUE, like search=heuristic")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def load(
    models: Sequence[str], *, batches: Sequence[int | None], precisions: Sequence[str | None]
) -> list[tuple[LoadedModel, NetworkCost]]:
    """Return (loaded model, its cost) for each model, batch and precision."""
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    loaded = [load_model(name) for name in models]
    return [
        (model, harvest(model, batch=batch, precision=precision))
        for model in loaded
        for batch in batches
        for precision in precisions
    ]


def channel_counts(text: str) -> list[int]:
    """Return the counts that a text like ``8,16,32:64:16`` names, ascending, the ends of ranges included."""
    counts: set[int] = set()
    for part in text.split(","):
        numbers = part.strip().split(":")
        if len(numbers) > 3 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise InputError(
                f"not channel counts: {part.strip()!r} in --channels {text}; write them like 8,16,24 or 8:64:8"
            )
        first, last, step = (*map(int, numbers), *(int(numbers[0]), 1)[len(numbers) - 1 :])[:3]
        counts.update(range(first, last + 1, step))
    if not counts:
        raise InputError(
            f"--channels {text} names no count; write a range from the smaller to the larger one"
        )
    return sorted(counts)


def whole_networks(
    loaded: Sequence[tuple[LoadedModel, NetworkCost]], notes: list[str], *, ops: bool, reorders: bool
) -> list[Network]:
    """Return each network as ONNX; one that cannot be exported in its precision is left out with a note."""
    from latency_model.harvest import onnx_at_batch

    whole: list[Network] = []
    for model, cost in loaded:
        shapes = tuple(shape for _, shape in cost.shapes())
        batch, precision = shapes[0].batch, shapes[0].precision
        if model.onnx_path is not None:
            data = onnx_at_batch(model.onnx_path, batch=batch)
        elif precision in _EXPORTED:
            from profiler.onnx_export import export_onnx

            assert model.module is not None
            data = export_onnx(model.module, model.input_shape, batch=batch, precision=precision)
        else:
            notes.append(
                f"networks are exported in {', '.join(_EXPORTED)}, so the whole of {model.name} was not timed "
                f"in {precision}; give it as an ONNX file of that precision"
            )
            continue
        others = tuple(shape for _, shape in cost.op_shapes(reorders=reorders)) if ops else ()
        whole.append((model.name, data, (*shapes, *others)))
    return whole
