"""Labels that name channels: a union-find, and tensors of labels that broadcast to an activation's shape.

Every activation carries an integer tensor that broadcasts to its shape: size 1 along an axis means that all
positions along it have the same label. Two elements with labels of one class belong to one channel and are
removed together. Label 0 is what can never be removed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Labels", "fixed", "varying"]

FIXED = 0


def fixed(rank: int) -> Tensor:
    """Return the labels of an activation of ``rank`` axes in which nothing can be removed."""
    return torch.zeros([1] * rank, dtype=torch.long)


def varying(labels: Tensor) -> list[int]:
    """Return the axes along which ``labels`` differ."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


class Labels:
    """Union-find over channel labels; a class may be frozen, with the first reason given for it."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._frozen: dict[int, str] = {}

    def new(self, count: int) -> Tensor:
        """Return ``count`` labels that nobody has yet."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, label: int) -> int:
        """Return the smallest label of the class of ``label``."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def roots(self, labels: Tensor) -> Tensor:
        """Return ``labels`` with each one replaced by the smallest of its class."""
        unique, inverse = torch.unique(labels, return_inverse=True)
        return torch.tensor([self.find(label) for label in unique.tolist()], dtype=torch.long)[inverse]

    def compact(self, labels: Tensor) -> Tensor:
        """Return the roots of ``labels``, with size 1 along each axis where they do not differ."""
        for axis in varying(labels):
            if torch.equal(labels, labels.narrow(axis, 0, 1).expand_as(labels)):
                labels = labels.narrow(axis, 0, 1)
        labels = self.roots(labels)
        for axis in varying(labels):
            if torch.equal(labels, labels.narrow(axis, 0, 1).expand_as(labels)):
                labels = labels.narrow(axis, 0, 1)
        return labels.contiguous()

    def why_frozen(self, label: int) -> str | None:
        """Return why the class of ``label`` stays whole, or None when it can be removed."""
        root = self.find(label)
        return "fixed" if root == FIXED else self._frozen.get(root)

    def freeze(self, labels: Tensor | Iterable[int], why: str) -> None:
        """Keep the classes of ``labels`` whole; an earlier reason stays."""
        values = torch.unique(labels).tolist() if isinstance(labels, Tensor) else labels
        for label in values:
            root = self.find(label)
            if root != FIXED:
                self._frozen.setdefault(root, why)

    def unify(self, left: Tensor, right: Tensor, why: str) -> None:
        """Join the classes of ``left`` and ``right``, position by position after broadcasting.

        What is joined to label 0 is frozen for the reason ``why``.
        """
        left, right = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
        pairs = torch.unique(torch.stack([left.reshape(-1), right.reshape(-1)], 1), dim=0)
        for first, second in pairs.tolist():
            self._union(first, second, why)

    def _union(self, first: int, second: int, why: str) -> None:
        low, high = sorted((self.find(first), self.find(second)))
        if low == high:
            return
        if low == FIXED:
            self._frozen.setdefault(high, why)
            return
        self._parent[high] = low
        if (reason := self._frozen.pop(high, None)) is not None:
            self._frozen.setdefault(low, reason)

    def along(self, labels: Tensor, axis: int, size: int, why: str) -> Tensor:
        """Return one label for each of the ``size`` positions along ``axis``.

        Labels that differ across the other axes at one position (after a pixel shuffle, a stack) are joined,
        unless they also occur at other positions: then everything is frozen for the reason ``why``.
        """
        labels = self.compact(labels)
        axis %= labels.dim()
        if varying(labels) in ([], [axis]):
            return labels.reshape(-1).expand(size).contiguous()
        rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
        per_row = sum(len(torch.unique(row)) for row in rows)
        if len(rows) == 1 or per_row != len(torch.unique(rows)):
            self.freeze(labels, why)
        else:
            for column in rows[:, 1:].unbind(1):
                self.unify(rows[:, 0], column, why)
        return self.roots(rows[:, 0]).expand(size).contiguous()
