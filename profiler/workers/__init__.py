"""Workers: who times the configurations, in this process, in others of this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from latency_model.errors import InputError
from profiler.spec import BackendSpec
from profiler.workers.base import TIME_LIMIT_S, Task, Workers

__all__ = ["TIME_LIMIT_S", "Task", "Workers", "open_workers"]


def open_workers(
    specs: Sequence[BackendSpec],
    *,
    cluster: str | None = None,
    count: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Workers:
    """Return one worker process for each of ``specs``, to be used as a context manager.

    With ``cluster`` (the address of a Ray cluster, or ``auto``) the one specification is opened by ``count``
    workers on its nodes instead: by default one for each GPU when the device is a GPU, else one a node.
    A worker that is silent for ``time_limit_s`` on one configuration is killed and replaced.
    """
    if not specs:
        raise InputError("no device to measure on; name one with --device")
    if time_limit_s <= 0:
        raise InputError(f"the time limit of a configuration must be positive, not {time_limit_s} s")
    if cluster is None:
        from profiler.workers.local import LocalWorkers

        return LocalWorkers(specs, time_limit_s=time_limit_s)
    if len(specs) > 1:
        raise InputError("on a cluster each worker takes the GPU that it is given; name one --device only")
    from profiler.cluster import ClusterWorkers

    return ClusterWorkers(specs[0], address=cluster, count=count, time_limit_s=time_limit_s)
