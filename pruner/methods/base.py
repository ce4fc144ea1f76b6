"""The seam that every pruning method stands behind: it says what channels are worth, and nothing else.

A method never sees surgery, and sees cost only as a price per channel. What it returns goes to the
allocator, which spends the budget on the most valuable channels that the device's table can sell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pruner.budget import Budget

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

    from pruner.cost import Cost
    from pruner.data import Splits
    from pruner.graph import ChannelGraph

__all__ = ["Method", "Problem", "Values"]


@dataclass(frozen=True)
class Problem:
    """What a method is given: a model it may train in place, its channel graph, data, cost and budget.

    ``ratio`` is the budget as a share of the network's full cost in ``budget.metric``; ``others`` are costs that are
    bounded too, and their shares. ``splits`` is None
    for a run without data; a method that needs data then raises ``DataError``. ``state_dir`` is where a
    method that trains keeps what it needs to resume; the same call with the same directory goes on.
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
    amp: bool = False
    progress: Progress | None = None
    others: tuple[tuple[Cost, float], ...] = ()


@dataclass(frozen=True)
class Values:
    """What channels are worth: per group one non-negative number per channel, the larger the dearer.

    Values rank channels within a group. Across groups the allocator maximises their sum over kept channels,
    unless it can weigh groups by the loss itself. ``open_counts`` says how many channels of a group the model
    was left to work with (all, where not named).
    """

    channels: Mapping[str, np.ndarray]
    open_counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A pruning method; construct without arguments, register under the entry-point group ``pruner.methods``.

    A class with settings has a frozen dataclass of them as ``Config``, and takes one as its first argument.
    """

    name: str
    needs_data: bool
    trains: bool

    def values(self, problem: Problem) -> Values:
        """Return the worth of every channel of every group, training ``problem.model`` in place if it must."""
        ...
