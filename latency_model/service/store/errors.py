"""What the store raises: ``InputError`` for what a caller can put right."""

from __future__ import annotations

from latency_model.errors import InputError

__all__ = ["StoreError", "UnknownEnvironmentError"]


class StoreError(InputError):
    """A database or a backup cannot be opened, is damaged, or was written by a later version."""


class UnknownEnvironmentError(StoreError):
    """The database has no environment of this key."""
