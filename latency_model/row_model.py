"""Convolutions that a table lacks: a regression of its rows, with intervals from rows that it did not see."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from latency_model.columns import ConvColumns
from latency_model.conformal import Conformal, size_class
from latency_model.errors import GharialError, ModelError, TableError
from latency_model.files import read_json, write_bytes, write_json
from latency_model.regression.regressor import FEWEST as _LEAST_OF_A_FOLD
from latency_model.regression.regressor import RowRegressor, Settings
from latency_model.regression.state import restored, state

__all__ = ["FEWEST", "LeftOut", "Predicted", "RowModel"]

Array = NDArray[np.float64]
_JSON, _ARRAYS = "regression.json", "regression.npz"
_FOLDS = 4
# So many that each regression without a fold still has enough.
FEWEST = -(-_LEAST_OF_A_FOLD * _FOLDS // (_FOLDS - 1))
# More rows than this are thinned: a fit takes time in proportion, five times over.
_MOST = 6000
# What is outside the rows' sizes is taken to err this many times as much; a rule, not a measurement.
_BEYOND = 3.0
# Rows whose place and size correlate by rank this much, and by so many standard errors more than chance would have
# it, were sorted by size: their order says nothing of time.
_SORTED, _SURE = 0.1, 4.0


@dataclass(frozen=True)
class Predicted:
    """Latencies with intervals, shapes (n,); ``beyond`` marks what lies outside the sizes of the rows."""

    latency_us: Array
    low_us: Array
    high_us: Array
    beyond: NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOut:
    """What the rows themselves were predicted at by regressions that did not see them, shapes (n,).

    ``rows`` are the places of the rows that were used, ``family`` the kernel family of each.
    """

    rows: NDArray[np.int64]
    predicted_us: Array
    spread: Array
    family: tuple[str, ...]


@dataclass(frozen=True)
class RowModel:
    """Predicts convolutions; made by ``fit`` or ``load``."""

    regressor: RowRegressor
    intervals: Conformal

    @classmethod
    def fit(
        cls,
        columns: ConvColumns,
        latency_us: Array,
        *,
        kernels: Sequence[str] | None = None,
        in_order: bool = False,
        settings: Settings | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[RowModel, LeftOut]:
        """Return the model of rows, and what each row is predicted at by a regression without it.

        ``in_order`` says that the rows stand as they were measured, so that a drift may be looked for.
        ``progress`` is called with (done, total) regressions. Of more than 6,000 rows an even selection is used.
        Raises ``ModelError`` for fewer than 40 rows.
        """
        from sklearn.model_selection import KFold

        if len(columns) < FEWEST:
            raise ModelError(
                f"a regression with intervals needs at least {FEWEST} rows, not {len(columns)}; measure more"
            )
        used: NDArray[np.int64] = np.arange(len(columns))
        if len(used) > _MOST:
            used = np.sort(np.random.default_rng(0).choice(len(columns), _MOST, replace=False))
            columns, latency_us = columns.take(used), latency_us[used]
            kernels = None if kernels is None else [kernels[i] for i in used.tolist()]
        count = len(used)
        place = np.linspace(0.0, 1.0, count) if in_order and _unsorted(columns) else np.full(count, 0.5)

        def fitted(some: NDArray[np.int64]) -> RowRegressor:
            names = None if kernels is None else [kernels[i] for i in some.tolist()]
            return RowRegressor.fit(
                columns.take(some), latency_us[some], kernels=names, place=place[some], settings=settings
            )

        tell = progress or _silent
        everything = np.arange(count)
        tell(0, _FOLDS + 1)
        predicted, apart = np.empty(count), np.empty((count, 3))
        folds = KFold(_FOLDS, shuffle=True, random_state=0).split(everything)
        for number, (train, test) in enumerate(folds):
            predicted[test], apart[test] = fitted(train).predict_parts(columns.take(test))
            tell(number + 1, _FOLDS + 1)
        regressor = fitted(everything).calibrated(latency_us, predicted, apart)
        tell(_FOLDS + 1, _FOLDS + 1)
        spread = apart @ np.array(regressor.spread_weights)
        intervals = Conformal.fit(latency_us, predicted, spread, size_class(predicted))
        names = tuple(kernels) if kernels is not None else ("",) * count
        return cls(regressor, intervals), LeftOut(used, predicted, spread, names)

    def predict(self, columns: ConvColumns, *, confidence: float = 0.9, for_sums: bool = False) -> Predicted:
        """Return the latencies of ``columns`` with their intervals at ``confidence``.

        Each is the number of least expected relative error, which is too low in sums where kernels of different
        speed may run; ``for_sums`` gives expectations instead.
        """
        latency, apart = self.regressor.predict_parts(columns)
        beyond = self.regressor.beyond(columns) if len(columns) else np.zeros(0, dtype=bool)
        low, high = self.around(latency, apart @ np.array(self.regressor.spread_weights), beyond, confidence)
        if for_sums and len(columns):
            latency = self.regressor.expected(columns)
            low, high = np.minimum(low, latency), np.maximum(high, latency)
        return Predicted(latency, low, high, beyond)

    def around(
        self, latency_us: Array, spread: Array, beyond: NDArray[np.bool_], confidence: float
    ) -> tuple[Array, Array]:
        """Return the ends of the intervals of predictions with this ``spread``; each holds its prediction."""
        if not len(latency_us):
            return np.zeros(0), np.zeros(0)
        low, high = self.intervals.interval(
            latency_us,
            spread,
            size_class(latency_us),
            confidence=confidence,
            stretch=np.where(beyond, _BEYOND, 1.0),
        )
        return np.minimum(low, latency_us), np.maximum(high, latency_us)

    def save(self, folder: Path) -> None:
        """Write ``regression.json`` and ``regression.npz`` into ``folder``, each atomically."""
        data, arrays = state(self.regressor)
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]  # the stub takes the keywords for an option
        write_bytes(folder / _ARRAYS, packed.getvalue())
        write_json(folder / _JSON, {**data, "intervals": self.intervals.to_json()})

    @classmethod
    def load(cls, folder: Path) -> RowModel:
        """Read what ``save`` wrote; ``TableError`` when it is missing or damaged."""
        try:
            data: dict[str, Any] = read_json(folder / _JSON)
            with (folder / _ARRAYS).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(restored(data, arrays), Conformal.from_json(data["intervals"]))
        except TableError:
            raise
        except (GharialError, OSError, KeyError, TypeError, ValueError, EOFError, BadZipFile) as error:
            raise TableError(
                f"the regression in {folder} is missing or damaged ({error}); fit the model again"
            ) from error


def _unsorted(columns: ConvColumns) -> bool:
    """Return whether the order of the rows has nothing to do with their sizes."""
    place = np.arange(len(columns))
    most = max(_SORTED, _SURE / np.sqrt(len(columns)))
    for sizes in (columns.batch, columns.in_channels, columns.out_channels, columns.height):
        if len(np.unique(sizes)) > 1 and abs(float(spearmanr(place, sizes).statistic)) > most:
            return False
    return True


def _silent(_done: int, _total: int) -> None:
    """Tell nobody."""
