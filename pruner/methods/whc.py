"""Weighted hybrid criterion: a filter is redundant if it is small and points where large other filters point.

Shaowu Chen, Weize Sun, Lei Huang, "WHC: Weighted Hybrid Criterion for Filter Pruning on Convolutional Neural
Networks", ICASSP 2023 (arXiv 2302.08185), equations 1 to 3. Opposite filters are as redundant as equal ones: what
counts is the absolute cosine.

Here a filter of zeros is worth nothing (its cosine is no number), every layer that writes a group of coupled channels
has an equal say in it, and the filters may be judged anew after each that goes: of twins both score low, but only one
of them can be spared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latency_model.errors import InputError
from pruner.methods.base import Problem, Values
from pruner.methods.filters import filters_of, relative

__all__ = ["Whc", "WhcConfig"]

CRITERIA = ("whc", "hc", "dm")
NORMS = ("l2", "l1")
SIMILARITIES = ("cosine", "correlation")


@dataclass(frozen=True, slots=True, kw_only=True)
class WhcConfig:
    """The paper's criterion and the variants of its ablation.

    ``criterion`` is whc, hc (other filters' norms do not matter) or dm (no norms do). ``norm`` weighs filters, l2 or
    l1; ``similarity`` is the cosine or the correlation of two filters. ``iterative`` judges the filters that are left
    anew after each that goes; the paper judges once.
    """

    criterion: str = "whc"
    norm: str = "l2"
    similarity: str = "cosine"
    iterative: bool = False

    def __post_init__(self) -> None:
        rules = (("criterion", CRITERIA), ("norm", NORMS), ("similarity", SIMILARITIES))
        for name, known in rules:
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} of whc must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                )


class Whc:
    """Data-free redundancy criterion: norm times norm-weighted dissimilarity to the other filters."""

    name = "whc"
    paper = "Chen et al., ICASSP 2023, arXiv 2302.08185"
    needs_data = False
    trains = False
    Config = WhcConfig

    def __init__(self, config: WhcConfig | None = None) -> None:
        self.config = config or WhcConfig()

    def values(self, problem: Problem) -> Values:
        """Return each channel's score over the group's mean; with ``iterative`` in the order of going."""
        channels = {}
        for group in problem.graph.groups.values():
            layers = [
                _Layer.of(rows, self.config) for rows in filters_of(problem.model, problem.graph, group)
            ]
            worth = _together(layers, torch.ones(group.size, dtype=torch.float64))
            if self.config.iterative and layers:
                worth = _in_order(layers, worth)
            channels[group.name] = relative(worth)
        return Values(channels)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The filters of one layer: ``own`` (n,) and ``others`` (n, n), so that the scores are ``own * (others @ left)``.

    Scaled so that the mean score of all filters is 1, or all are 0.
    """

    own: Tensor
    others: Tensor

    @classmethod
    def of(cls, rows: Tensor, config: WhcConfig) -> _Layer:
        """Return the layer with (n, weights) filters ``rows``."""
        sizes = rows.norm(dim=1, p=1 if config.norm == "l1" else 2)
        centred = rows - rows.mean(1, keepdim=True) if config.similarity == "correlation" else rows
        lengths = centred.norm(dim=1, keepdim=True)
        directions = torch.where(lengths > 0, centred / lengths, 0.0)
        # Rounding takes the cosine of twins above 1.
        apart = (1 - (directions @ directions.T).abs()).clamp(min=0)
        apart.fill_diagonal_(0)
        ones = torch.ones_like(sizes)
        # A filter of zeros points nowhere: under dm too it is worth nothing, and tells the others nothing.
        some = (sizes > 0).to(sizes)
        others = apart * (sizes if config.criterion == "whc" else some)
        own = some if config.criterion == "dm" else sizes
        mean = float((own * (others @ ones)).mean())
        return cls(own / mean if mean > 0 else torch.zeros_like(own), others)

    def scores(self, left: Tensor) -> Tensor:
        """Return the scores among the filters where ``left`` is 1, the others 0."""
        return self.own * (self.others @ left)


def _together(layers: Sequence[_Layer], left: Tensor) -> Tensor:
    found = torch.zeros_like(left)
    for layer in layers:
        found += layer.scores(left)
    return found


def _in_order(layers: Sequence[_Layer], scores: Tensor) -> Tensor:
    """Return ``scores``, given out anew in the order in which filters go when those that are left are judged anew."""
    left, order = torch.ones_like(scores), list[int]()
    for _ in range(len(scores)):
        order.append(int(torch.where(left > 0, _together(layers, left), torch.inf).argmin()))
        left[order[-1]] = 0
    worth = torch.empty_like(scores)
    # Equal scores would lose the order: the later ones get more, by less than anything that matters.
    steps = torch.arange(len(scores), dtype=scores.dtype) / len(scores)
    worth[order] = scores.sort().values + 1e-9 * scores.mean() * steps
    return worth
