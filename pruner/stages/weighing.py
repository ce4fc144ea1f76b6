"""How groups of channels are weighed against each other before the budget is spent on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.sensitivity import images_for, measure_losses, sample

if TYPE_CHECKING:
    from pruner.data import Splits
    from pruner.methods import Values
    from pruner.programme import Losses
    from pruner.request import PruneRequest
    from pruner.setting import Setting
    from pruner.stages.base import Stages

__all__ = ["weighed"]


def weighed(
    request: PruneRequest, setting: Setting, values: Values, splits: Splits, stages: Stages
) -> Losses | None:
    """Return what each count of each group does to the loss: as the method says, or measured on training images.

    None where the values themselves are to weigh groups, or the method decides on the counts. The network must be on
    the device.
    """
    if request.weigh == "values":
        return None
    if (known := values.losses(setting.choices)) is not None or values.shares is not None:
        return known
    images = sample(splits.train, images_for(setting.macs_per_image), seed=request.seed)
    return measure_losses(
        setting.module, setting.graph, values, setting.choices, images, progress=stages.progress
    )
