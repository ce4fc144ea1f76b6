"""How a model is run on an example: positional and keyword arguments, and the part of it that is run."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

__all__ = ["Example", "ForwardFn"]

ForwardFn = Callable[..., Any]


@dataclass(frozen=True)
class Example:
    """The arguments of one call of a model; ``forward_fn(model, *args, **kwargs)`` stands for its forward."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    forward_fn: ForwardFn | None = None

    @classmethod
    def of(
        cls, inputs: Any, kwargs: Mapping[str, Any] | None = None, forward_fn: ForwardFn | None = None
    ) -> Example:
        """Return an example: a tuple is several arguments; a tensor, list or mapping is one."""
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        return cls(args, dict(kwargs or {}), forward_fn)

    def map(self, function: Callable[[Tensor], Tensor]) -> Example:
        """Return the example with ``function`` applied to every tensor in it."""
        args, kwargs = tree_map_only(Tensor, function, (self.args, dict(self.kwargs)))
        return Example(args, kwargs, self.forward_fn)

    def run(self, model: nn.Module) -> Any:
        """Return what ``model`` computes, without gradients."""
        with torch.no_grad():
            if self.forward_fn is None:
                return model(*self.args, **self.kwargs)
            return self.forward_fn(model, *self.args, **self.kwargs)

    @contextmanager
    def forward_of(self, model: nn.Module) -> Iterator[None]:
        """Let ``forward_fn`` be the forward of ``model`` for as long as the context lasts."""
        if self.forward_fn is None:
            yield
            return
        own = vars(model).get("forward")
        model.forward = types.MethodType(self.forward_fn, model)
        try:
            yield
        finally:
            del model.forward
            if own is not None:
                model.forward = own
