"""The seam that every pruning method stands behind: it says what channels are worth, and nothing else.

A method never sees surgery, and sees cost only as a price per channel. What it returns goes to the
allocator, which spends the budget on the most valuable channels that the device's table can sell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from latency_model.errors import InputError
from pruner.budget import Budget
from pruner.training.callback import Callback
from pruner.training.processes import ALONE, Processes

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

    from pruner.cost import Cost
    from pruner.data import Splits
    from pruner.edits import Edit
    from pruner.graph import ChannelGraph

__all__ = ["Method", "Problem", "Rewriter", "Values"]


@dataclass(frozen=True)
class Problem:
    """What a method is given: a model it may train in place, its channel graph, data, cost and budget.

    ``ratio`` is the budget as a share of the network's full cost in ``budget.metric``; ``others`` are costs that are
    bounded too, and their shares. ``splits`` is None
    for a run without data; a method that needs data then raises ``DataError``. ``state_dir`` is where a
    method that trains keeps what it needs to resume; the same call with the same directory goes on. ``amp``,
    ``clip_norm``, ``processes`` and ``callbacks`` (which only look on) are to be handed to ``fit``.

    ``price_after`` returns what the network costs, in the metric of the budget, once edits have been made to it; None
    where nothing is priced.

    ``allocate`` returns the counts per group that the budget grants at present values, 0 inside a block that goes: for
    a method that trains on with what will stay. It weighs groups in ``model`` as it is then, without anybody's gates,
    and every process must call it. None where nothing is allocated.
    """

    model: nn.Module
    graph: ChannelGraph
    cost: Cost
    budget: Budget
    ratio: float
    splits: Splits | None
    epochs: int
    seed: int
    state_dir: Path
    batch_size: int = 128
    learning_rate: float = 0.01
    teacher: nn.Module | None = None
    amp: bool | str = False
    clip_norm: float | None = None
    progress: Progress | None = None
    others: tuple[tuple[Cost, float], ...] = ()
    processes: Processes = ALONE
    callbacks: Sequence[Callback] = ()
    allocate: Callable[[Values], Mapping[str, int]] | None = None
    price_after: Callable[[Sequence[Edit]], float] | None = None


@dataclass(frozen=True)
class Values:
    """What channels are worth: per group one non-negative number per channel, the larger the dearer.

    Values rank channels within a group. Across groups the allocator minimises the rise of the loss, which is measured
    on training images, or maximises the sum of the values where the user wants it so (``--weigh values``).
    ``open_counts`` says how many channels of a group the model was left to work with (all, where not named).

    ``curves`` is for a method that knows what a count costs: per group (every group is named) ``size + 1`` numbers,
    the harm of keeping 0, 1, … channels, none rising with the count. They are added up over the groups, in place of
    measured losses.

    ``shares`` is for a method that decides on the counts itself: per group (every group is named) how much of it to
    keep, up to one common factor. The budget then sets the factor and nothing else is weighed; see ``pruner.shares``.
    """

    channels: Mapping[str, np.ndarray]
    open_counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] | None = None
    curves: Mapping[str, np.ndarray] | None = None

    def losses(self, choices: Mapping[str, Sequence[int]]) -> dict[str, dict[int, float]] | None:
        """Return the harm of the counts that are considered, above that of all channels; None without ``curves``."""
        if self.curves is None:
            return None
        return {
            name: {count: float(self.curves[name][count] - self.curves[name][-1]) for count in counts}
            for name, counts in choices.items()
        }

    def check(self, graph: ChannelGraph, *, method: str) -> Values:
        """Return these values; ``InputError`` names the first group that ``method`` gave no usable values for."""
        for name, group in graph.groups.items():
            worth = np.asarray(self.channels.get(name, ()))
            if worth.shape != (group.size,) or not np.isfinite(worth).all() or (worth < 0).any():
                raise InputError(
                    f"the method {method} must give {group.size} finite, non-negative values for the group {name}; "
                    f"it gave {'none' if name not in self.channels else f'an array of shape {worth.shape}'}"
                )
            if self.shares is not None and not 0 < self.shares.get(name, 0.0) < math.inf:
                raise InputError(f"the method {method} must give a share above 0 for the group {name}")
            if self.curves is not None:
                curve = np.asarray(self.curves.get(name, ()))
                if (
                    curve.shape != (group.size + 1,)
                    or not np.isfinite(curve).all()
                    or (np.diff(curve) > 0).any()
                ):
                    raise InputError(
                        f"the method {method} must give {group.size + 1} finite numbers that never rise as the curve "
                        f"of the group {name}"
                    )
        return self


@runtime_checkable
class Rewriter(Protocol):
    """A method that changes the network's structure first, as one that takes layers out: it has this beside ``values``.

    ``values`` is then asked about the network that was left, with a channel graph and prices of its own; where the
    edits alone meet the budget, every channel stays.
    """

    def rewrite(self, problem: Problem) -> Sequence[Edit]:
        """Return the edits that have been made to ``problem.model``, its weights fit for them; empty for none.

        On return the model holds the replaced modules (``apply_edits``) and nothing else that is new. It may have been
        trained in place, in ``problem.state_dir``, whatever ``values`` trains in another.
        """
        ...


class Method(Protocol):
    """A pruning method; construct without arguments, register under the entry-point group ``pruner.methods``.

    The first line of its docstring and ``paper`` are what ``gharial methods`` shows. A class with settings has a frozen
    dataclass of them as ``Config``, and takes one as its first argument. ``docs/methods.md`` has a complete example.
    """

    name: str
    paper: str
    needs_data: bool
    trains: bool

    def values(self, problem: Problem) -> Values:
        """Return the worth of every channel of every group, training ``problem.model`` in place if it must."""
        ...
