"""The queue of what is to be measured: submitted once, held by one worker at a time, never lost.

All functions take the ``Database`` and the present time; each is one transaction.
"""

from __future__ import annotations

from latency_model.service.store.jobs.cancelling import cancel
from latency_model.service.store.jobs.errors import JobConflictError, LeaseLostError, UnknownJobError
from latency_model.service.store.jobs.forgetting import drop_models
from latency_model.service.store.jobs.holding import Lease
from latency_model.service.store.jobs.leasing import heartbeat, lease_job, sweep
from latency_model.service.store.jobs.outcome import clean
from latency_model.service.store.jobs.reading import count_jobs, get_job, job_items_of, list_jobs
from latency_model.service.store.jobs.requests import JobRequest, configs_request, model_request
from latency_model.service.store.jobs.results import (
    Posted,
    complete,
    fail,
    give_back,
    model_of,
    post_late,
    post_rows,
)
from latency_model.service.store.jobs.states import Job
from latency_model.service.store.jobs.submitting import submit
from latency_model.service.store.jobs.wants import Offer, Wants

__all__ = [
    "Job",
    "JobConflictError",
    "JobRequest",
    "Lease",
    "LeaseLostError",
    "Offer",
    "Posted",
    "UnknownJobError",
    "Wants",
    "cancel",
    "clean",
    "complete",
    "configs_request",
    "count_jobs",
    "drop_models",
    "fail",
    "get_job",
    "give_back",
    "heartbeat",
    "job_items_of",
    "lease_job",
    "list_jobs",
    "model_of",
    "model_request",
    "post_late",
    "post_rows",
    "submit",
    "sweep",
]
