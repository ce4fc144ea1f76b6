"""What can be wrong with a request about a job; ``status`` is what an HTTP server answers."""

from __future__ import annotations

from latency_model.errors import InputError

__all__ = ["JobConflictError", "LeaseLostError", "UnknownJobError"]


class JobConflictError(InputError):
    """The request contradicts what the job is, or what an earlier request with the same key was."""

    status = 409


class LeaseLostError(JobConflictError):
    """Whoever asks does not hold the job, or no longer does; nothing has been changed."""


class UnknownJobError(InputError):
    """There is no such job."""

    status = 404
