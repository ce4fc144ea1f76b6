"""What is to be measured: configurations, or a whole ONNX model, checked and in canonical form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latency_model.errors import InputError
from latency_model.network import NetworkCost
from latency_model.ops import OpShape, parse_config
from latency_model.service.store.jobs.wants import Wants

__all__ = ["MOST_CONFIGS", "NETWORK", "JobRequest", "Model", "configs_request", "model_request"]

MOST_CONFIGS = 100_000
NETWORK = "network "  # what the item of a whole network begins with; no configuration's text does

_LONGEST_CONFIG = 2000  # characters: PostgreSQL indexes no texts that are much longer
_PRIORITIES, _ATTEMPTS = range(-1000, 1001), range(1, 101)
_NAME = re.compile(r"[A-Za-z0-9][\w.+:-]{0,79}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Model:
    """A network to be timed as a whole: the bytes of its ONNX file, and what the file may leave open.

    ``name`` ends in twelve digits of the digest of all of this, so that no two different networks share one.
    """

    name: str
    batch: int
    precision: str
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of the file's bytes, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job to be submitted. ``items`` are the texts of its configurations, each once, and of its network."""

    kind: str
    wants: Wants
    items: tuple[str, ...]
    priority: int = 0
    max_attempts: int = 5
    model: Model | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.priority) or self.priority not in _PRIORITIES:
            raise InputError(
                f"a priority is a whole number from {_PRIORITIES[0]} to {_PRIORITIES[-1]}, the largest first"
            )
        if not _is_int(self.max_attempts) or self.max_attempts not in _ATTEMPTS:
            raise InputError(
                f"max_attempts is a whole number from {_ATTEMPTS[0]} to {_ATTEMPTS[-1]}, "
                f"not {self.max_attempts!r}"
            )

    @property
    def about(self) -> dict[str, Any]:
        """What the job says of its request beside its items."""
        if self.model is None:
            return {}
        model = self.model
        return {"name": model.name, "batch": model.batch, "precision": model.precision}

    @property
    def digest(self) -> str:
        """The SHA-256 of everything that was asked for: two requests with one digest are the same."""
        whole = {
            "kind": self.kind,
            "wants": self.wants.to_json(),
            "items": self.items,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "model": None if self.model is None else {**self.about, "sha256": self.model.digest},
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def configs_request(
    configs: Sequence[Any], wants: Wants, *, priority: int = 0, max_attempts: int = 5
) -> JobRequest:
    """Return the request to measure ``configs``, texts of convolutions and operators; duplicates count once.

    Raises ``InputError`` for a text that is no configuration, and where ``wants`` names another precision.
    """
    if not configs:
        raise InputError("a job measures at least one configuration; name some in configs")
    if len(configs) > MOST_CONFIGS:
        raise InputError(f"a job has at most {MOST_CONFIGS} configurations, not {len(configs)}; make several")
    parsed = {}
    for number, text in enumerate(configs):
        if not isinstance(text, str) or len(text) > _LONGEST_CONFIG:
            raise InputError(
                f"configuration {number} is no text of at most {_LONGEST_CONFIG} characters; write it like "
                "'1x64x56x56 ->64 k3 s1 p1 g1 conv fp32 nchw'"
            )
        config = parse_config(text)
        parsed[config.text] = config
    precisions = {config.precision for config in parsed.values()}
    if wants.precisions and precisions - set(wants.precisions):
        raise InputError(
            f"the job wants {', '.join(wants.precisions)}, but a configuration is in "
            f"{sorted(precisions - set(wants.precisions))[0]}; leave the precision out, or make them agree"
        )
    ops = wants.ops or any(isinstance(config, OpShape) for config in parsed.values())
    needed = dataclasses.replace(wants, precisions=tuple(sorted(precisions)), ops=ops)
    return JobRequest("configs", needed, tuple(parsed), priority, max_attempts)


def model_request(
    data: bytes,
    cost: NetworkCost,
    wants: Wants,
    *,
    name: str = "model",
    priority: int = 0,
    max_attempts: int = 5,
) -> JobRequest:
    """Return the request to measure an ONNX model: its convolutions, its other operators, and the whole of it.

    ``cost`` is what was harvested from ``data``; its batch and precision are those that are measured. Raises
    ``InputError`` for a name that is none, a precision that ``wants`` has not, and a model without a convolution.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            "the name of a model is at most 80 letters, digits and .+:-_ and begins with a letter or digit"
        )
    shapes = [shape for _, shape in cost.shapes()]
    if not shapes:
        raise InputError("the model has no 2-D convolution, so there is nothing to measure")
    batch, precision = shapes[0].batch, shapes[0].precision
    if wants.precisions and wants.precisions != (precision,):
        raise InputError(
            f"the job wants {', '.join(wants.precisions)}, but the model is in {precision}; leave the precision "
            "out, or harvest the model in the one that is wanted"
        )
    about = json.dumps([hashlib.sha256(data).hexdigest(), batch, precision]).encode()
    model = Model(f"{name}-{hashlib.sha256(about).hexdigest()[:12]}", batch, precision, data)
    precisions = sorted({shape.precision for shape in shapes})
    # Not ``ops``: a runtime that times no operators (TensorRT fuses them away) can still time the network.
    needed = dataclasses.replace(wants, precisions=tuple(precisions))
    texts = [*(shape.text for shape in shapes), *(op.text for _, op in cost.op_shapes())]
    items = (*dict.fromkeys(texts), NETWORK + model.name)
    if long := next((item for item in items if len(item) > _LONGEST_CONFIG), None):
        raise InputError(
            f"the model has an operator whose text is {len(long)} characters long, over {_LONGEST_CONFIG}: "
            f"{long[:60]}…; split it"
        )
    return JobRequest("model", needed, items, priority, max_attempts, model)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
