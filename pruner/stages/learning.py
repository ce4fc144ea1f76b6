"""The first stage: the method says what channels are worth, training the network if it must."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pruner.confidence import allocate_within
from pruner.methods import Method, Values
from pruner.stages.problem import posed
from pruner.stages.weighing import weighed
from pruner.training.device import on
from pruner.values_file import VALUES, method_of, save_values, transferred

if TYPE_CHECKING:
    from torch import nn

    from pruner.data import Splits
    from pruner.request import PruneRequest
    from pruner.setting import Setting
    from pruner.stages.base import Stages

__all__ = ["learn"]


def learn(
    request: PruneRequest,
    method: Method,
    setting: Setting,
    original: nn.Module,
    splits: Splits,
    out: Path,
    stages: Stages,
) -> Values:
    """Return what the channels are worth to ``method``, which may train the setting's module, and keep it in ``out``.

    With ``request.transfer_from`` it is what another run found, and nothing is trained.
    """
    found_by = request.method
    if request.transfer_from is not None:
        values = transferred(Path(request.transfer_from), setting.graph)
        found_by = method_of(Path(request.transfer_from) / VALUES)
    else:
        problem = posed(
            request,
            setting,
            original,
            splits,
            out / "learn",
            stages,
            allocate=lambda values: _granted(request, setting, values, splits, stages),
        )
        with on(stages.device, setting.module, original):
            values = method.values(problem).check(setting.graph, method=request.method)
    if stages.processes.first:
        save_values(values, out / VALUES, method=found_by)
    return values


def _granted(
    request: PruneRequest, setting: Setting, values: Values, splits: Splits, stages: Stages
) -> dict[str, int]:
    """Return the counts that the budget grants at ``values``: the first process's, should another find others."""
    losses = weighed(request, setting, values, splits, stages)
    found = allocate_within(setting, setting.limit, values.channels, losses=losses, shares=values.shares)
    names = list(setting.graph.groups)
    if stages.processes.world == 1:
        return {name: found.counts[name] for name in names}
    counts = torch.tensor([found.counts[name] for name in names], device=stages.device)
    if not stages.processes.first:
        counts.zero_()
    return dict(zip(names, stages.processes.total(counts).tolist(), strict=True))
