"""Channel counts that a module keeps as numbers: which attribute follows which channels.

Code such as ``torch.split(x, self.width, 1)`` runs with the attribute's old value after a cut. Where an
operator uses a channel count, the attributes of the module that runs it which hold this very number are
noted with the channels that they count. Equal numbers may be a coincidence: a candidate is used only for a
group whose sample cut fails without it, and stays only when the sample cut then passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["SizeUse", "find_attributes"]


@dataclass(frozen=True, eq=False)
class SizeUse:
    """The attribute ``name`` of ``module`` (its element ``position``; -1 for a plain number) counts ``labels``.

    ``index`` says which of the sizes of the operator it is.
    """

    module: str
    name: str
    position: int
    index: int
    labels: Tensor


def find_attributes(
    modules: Mapping[str, nn.Module], path: str, values: Sequence[int], labels: Sequence[Tensor]
) -> list[SizeUse]:
    """Return the attributes of the module at ``path``, or of the one around it, that hold ``values``."""
    for place in dict.fromkeys((path, path.rpartition(".")[0])):
        if place not in modules or type(modules[place]).__module__.startswith("torch.nn"):
            continue
        found = [
            SizeUse(place, name, position, index, labels[index])
            for name, held in vars(modules[place]).items()
            if not name.startswith("_")
            for position, index in _matches(held, values)
        ]
        if found:
            return found
    return []


def _matches(held: object, values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (position in the attribute, index in ``values``) for each number that they share."""
    if isinstance(held, int) and not isinstance(held, bool) and held > 1:
        if held in values:
            yield -1, list(values).index(held)
            # an equal split names one number for all parts
            if len(set(values)) == 1:
                yield from ((-1, index) for index in range(1, len(values)))
    elif isinstance(held, tuple | list) and len(values) > 1 and list(held) == list(values):
        yield from ((index, index) for index in range(len(values)))
