"""The stage before learning, for methods that change the network's structure: layers go, others take their place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.edits import Edit
from pruner.methods.base import Method, Rewriter
from pruner.rewriting import EDITED, apply_edits, load_edited, load_edits, save_edited
from pruner.stages.problem import posed
from pruner.training.device import on

if TYPE_CHECKING:
    from torch import nn

    from pruner.data import Splits
    from pruner.request import PruneRequest
    from pruner.setting import Setting
    from pruner.stages.base import Stages

__all__ = ["after_edits", "rewrite"]


def rewrite(
    request: PruneRequest,
    method: Method,
    setting: Setting,
    original: nn.Module,
    splits: Splits,
    out: Path,
    stages: Stages,
) -> Setting:
    """Return the setting of the network that ``method`` has made of the setting's, which is kept in ``out``.

    The same setting for a method that changes no structure. With ``request.transfer_from`` the edits are those of the
    other run: the weights stay ours, as far as they have a place.
    """
    kept = out / EDITED
    if kept.is_file():
        return setting.rewritten(load_edited(setting.module, kept))
    if request.transfer_from is not None:
        edits = _edits_of(request.transfer_from)
        apply_edits(setting.module, edits)
    elif isinstance(method, Rewriter):
        problem = posed(
            request,
            setting,
            original,
            splits,
            out / "rewrite",
            stages,
            price_after=lambda edits: _price(setting, edits),
        )
        with on(stages.device, setting.module, original):
            edits = tuple(method.rewrite(problem))
    else:
        return setting
    stages.processes.wait()  # no process may find the file before it has made its own
    changed = setting.rewritten(edits)
    if edits and stages.processes.first:
        save_edited(setting.module, edits, kept)
    return changed


def after_edits(request: PruneRequest, setting: Setting) -> Setting:
    """Return the setting as it will be once the edits of the run ``request.transfer_from`` are made to a copy."""
    assert request.transfer_from is not None
    return _edited(setting, _edits_of(request.transfer_from))


def _edits_of(run: str) -> tuple[Edit, ...]:
    path = Path(run) / EDITED
    return load_edits(path) if path.is_file() else ()


def _edited(setting: Setting, edits: Sequence[Edit]) -> Setting:
    module = copy.deepcopy(setting.module).cpu()
    apply_edits(module, edits)
    return replace(setting, module=module).rewritten(edits)


def _price(setting: Setting, edits: Sequence[Edit]) -> float:
    """Return what the network of ``setting`` costs once ``edits`` have been made to it."""
    return _edited(setting, edits).cost.full
