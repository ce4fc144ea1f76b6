"""A client of the service that ``gharial serve`` runs."""

from __future__ import annotations

from latency_model.client.answers import Staircase
from latency_model.client.client import Client
from latency_model.client.environments import ServedEnvironment
from latency_model.client.jobs import Job, Jobs

__all__ = ["Client", "Job", "Jobs", "ServedEnvironment", "Staircase"]
