"""Ensembles of regression trees as plain arrays: evaluated without the library that grew them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.regression.geometry import Array

__all__ = ["Forest"]

_BLOCK = 1 << 20  # rows times trees that are walked at once


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees whose leaf values are summed: ``start + scale * sum over trees``.

    ``feature``, ``threshold``, ``left``, ``right`` have one entry a node, all trees one after the other, children as
    places in these arrays; a leaf is its own child. ``value`` has shape (nodes, outputs). ``roots`` are the places
    where trees begin, ``depth`` the longest path.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]
    depth: int
    start: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, trees: Iterable[Any], *, start: float = 0.0, scale: float = 1.0) -> Forest:
        """Return the forest of scikit-learn ``Tree`` objects (``estimator.tree_``)."""
        parts: dict[str, list[Any]] = {
            name: [] for name in ("feature", "threshold", "left", "right", "value")
        }
        roots, depth, offset = [], 0, 0
        for tree in trees:
            count = tree.node_count
            own = np.arange(count)
            leaf = tree.children_left < 0
            parts["feature"].append(np.where(leaf, 0, tree.feature))
            parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
            parts["left"].append(np.where(leaf, own, tree.children_left) + offset)
            parts["right"].append(np.where(leaf, own, tree.children_right) + offset)
            parts["value"].append(tree.value.reshape(count, -1))
            roots.append(offset)
            depth = max(depth, int(tree.max_depth))
            offset += count
        if not roots:
            raise InputError("a forest has at least one tree")
        joined = {name: np.concatenate(columns) for name, columns in parts.items()}
        return cls(
            joined["feature"].astype(np.int32),
            _below(joined["threshold"]),
            joined["left"].astype(np.int32),
            joined["right"].astype(np.int32),
            joined["value"].astype(np.float32),
            np.array(roots, dtype=np.int32),
            depth,
            start,
            scale,
        )

    def predict(self, features: Array) -> Array:
        """Return the sums, shape (n, outputs), of ``features`` of shape (n, number of features)."""
        made = np.empty((len(features), self.value.shape[1]))
        for begin, node in self._leaves(features):
            made[begin : begin + len(node)] = self.value[node].sum(axis=1, dtype=np.float64)
        return self.start + self.scale * made

    def each(self, features: Array) -> Array:
        """Return what every tree says alone, its first output, shape (n, trees)."""
        made = np.empty((len(features), len(self.roots)))
        for begin, node in self._leaves(features):
            made[begin : begin + len(node)] = self.value[node, 0]
        return made

    def _leaves(self, features: Array) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield blocks of rows: the first row, and the leaf of each row in each tree."""
        rows = np.ascontiguousarray(features, dtype=np.float32)
        step = max(1, _BLOCK // len(self.roots))
        for begin in range(0, len(rows), step):
            block = rows[begin : begin + step]
            node = np.broadcast_to(self.roots, (len(block), len(self.roots))).copy()
            place = np.arange(len(block))[:, None]
            for _ in range(self.depth):
                goes_left = block[place, self.feature[node]] <= self.threshold[node]
                node = np.where(goes_left, self.left[node], self.right[node])
            yield begin, node

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what ``from_arrays`` makes the same forest of."""
        names = ("feature", "threshold", "left", "right", "value", "roots")
        found: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in names}
        found["numbers"] = np.array([self.depth, self.start, self.scale])
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Forest:
        """Return the forest whose ``arrays`` these are."""
        depth, start, scale = arrays["numbers"].tolist()
        return cls(
            feature=arrays["feature"],
            threshold=arrays["threshold"],
            left=arrays["left"],
            right=arrays["right"],
            value=arrays["value"],
            roots=arrays["roots"],
            depth=int(depth),
            start=start,
            scale=scale,
        )


def _below(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 not above each threshold: features are float32, and ``x <= t`` stays as it was."""
    rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded
