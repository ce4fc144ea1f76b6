"""Which channel counts are worth considering: the efficient edge of the staircase of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from latency_model.grid import efficient_counts
from latency_model.network import Channels
from pruner.cost import Cost

__all__ = ["group_profile", "joint_candidates", "sum_candidates"]


def group_profile(cost: Cost, group: str) -> np.ndarray:
    """Return the cost of the sites of ``group`` at 0 … full channels, every other group in full."""
    counts = dict(cost.network.groups)
    size = counts[group]
    profile = np.zeros(size + 1)
    for site in cost.sites:
        matrix = cost.matrices[site.name]
        axes = (site.inputs, site.outputs)
        if not any(name == group for axis in axes for name, _ in axis.terms):
            continue
        for count in range(size + 1):
            counts[group] = count
            into, out = (axis.count(counts) for axis in axes)
            profile[count] += matrix[into] if matrix.ndim == 1 else matrix[into, out]
        counts[group] = size
    return profile


def _thin(counts: Sequence[int], most: int) -> tuple[int, ...]:
    if len(counts) <= most:
        return tuple(counts)
    picks = np.unique(np.linspace(0, len(counts) - 1, most).round().astype(int))
    return tuple(counts[pick] for pick in picks)


def joint_candidates(
    costs: Sequence[Cost], *, floors: Mapping[str, int], rtol: float = 0.01, most: int = 17
) -> dict[str, tuple[int, ...]]:
    """Return candidate counts per group: efficient in the first cost, at least the floor, at most ``most``.

    A group that no site of any cost reads keeps its full count.
    """
    candidates: dict[str, tuple[int, ...]] = {}
    for group, size in costs[0].network.groups.items():
        profile = next((p for cost in costs if (p := group_profile(cost, group)).any()), None)
        if profile is None:
            candidates[group] = (size,)
            continue
        counts = [c for c in efficient_counts(profile, rtol=rtol) if c >= floors.get(group, 1)]
        candidates[group] = _thin(counts, most)
    return candidates


def sum_candidates(
    costs: Sequence[Cost], axis: Channels, *, least: int, most: int, rtol: float = 0.005, number: int = 25
) -> tuple[int, ...]:
    """Return candidate channel counts of an axis that several groups feed, from ``least`` to ``most``, ascending.

    Those at the ends of plateaus of the sites on that axis, their other sides in full, in the first cost that has any;
    at most ``number``, the largest always.
    """
    for cost in costs:
        profile = np.zeros(most + 1)
        for site in cost.sites:
            matrix = cost.matrices[site.name]
            if site.inputs == axis:
                profile += matrix[: most + 1] if matrix.ndim == 1 else matrix[: most + 1, -1]
            elif site.outputs == axis and matrix.ndim == 2:
                profile += matrix[-1, : most + 1]
        if profile.any():
            counts = [count for count in efficient_counts(profile, rtol=rtol) if count >= least]
            return _thin(counts, number)
    return (most,)
