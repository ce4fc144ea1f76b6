"""Errors, one tree.

GharialError
├── InputError          the caller's mistake; the command line exits with code 2
│   ├── TableError      a latency table is missing, damaged, or of another environment
│   ├── RowsError       a file of plain rows cannot be read, or its rows are no convolutions with latencies
│   ├── ModelError      a model is unknown, cannot be loaded, or cannot be traced
│   ├── WeightsError    a weights file cannot be read or does not fit the model
│   ├── DataError       a data set is missing or does not fit the model
│   ├── BudgetError     a budget cannot be parsed or reached
│   └── DependencyError an optional package is missing; the message has the install command
├── ServerError         a server does not answer, fails, or answers what makes no sense
└── MeasurementError    the device could not time one configuration; the others go on
    └── DeviceLostError the device fails whatever it is asked; this process must end, a new one can go on

Every message is one sentence that says what, where and what to do.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "DataError",
    "DependencyError",
    "DeviceLostError",
    "GharialError",
    "InputError",
    "MeasurementError",
    "ModelError",
    "RowsError",
    "ServerError",
    "TableError",
    "WeightsError",
]


class GharialError(Exception):
    """Base of every error that Gharial raises on purpose."""

    exit_code = 1


class InputError(GharialError):
    """Something the caller gave cannot be used as it is."""

    exit_code = 2


class TableError(InputError):
    """A latency table is missing, damaged, or belongs to another environment."""


class RowsError(InputError):
    """A file of plain rows cannot be read, or its rows are no convolutions with latencies."""


class ModelError(InputError):
    """A model is unknown, cannot be loaded, or cannot be traced."""


class WeightsError(InputError):
    """A weights file cannot be read or does not fit the model."""


class DataError(InputError):
    """A data set is missing or does not fit the model."""


class BudgetError(InputError):
    """A budget cannot be parsed, or cannot be reached by this network."""


class DependencyError(InputError):
    """An optional package is missing."""


class ServerError(GharialError):
    """A server does not answer, fails, or answers what makes no sense."""


class MeasurementError(GharialError):
    """The device could not time one configuration."""


class DeviceLostError(MeasurementError):
    """The device answers every call of this process with an error; only a new process can go on."""
