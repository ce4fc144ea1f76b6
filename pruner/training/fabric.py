"""Several processes under ``torchrun``, by Lightning Fabric: one network, data parallel.

Each step's batch is shared out, gradients are averaged, and batch norms take the statistics of the whole batch, so
that any number of processes trains the network that one process would, up to the rounding of sums.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from latency_model.errors import DependencyError, GharialError, InputError
from pruner.training.processes import ALONE, Processes, world_size
from pruner.training.sync_norm import synchronised_norms

__all__ = ["FabricProcesses", "open_processes"]

# The others wait this long while the first process allocates and times networks.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class FabricProcesses(Processes):
    """The processes of a ``torchrun``; every operation among them must be called by all of them."""

    fabric: Any = field(default=None, repr=False)

    def place(self, device: torch.device | str) -> torch.device:
        """Return the CPU, or the GPU that belongs to this process."""
        found, asked = self.fabric.device, torch.device(device)
        if asked.index is not None and asked.index != found.index:
            raise InputError(
                f"{self.world} processes cannot all train on {asked}: each takes the GPU of its own number; give "
                f"--device {asked.type}, and choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        if found.type != asked.type:
            raise InputError(
                f"these processes train on {found.type}, not on {device}; give one device to all"
            )
        place: torch.device = found
        return place

    def wrap(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return ``model`` under DistributedDataParallel; all processes start with the first one's weights."""
        wrapped: Callable[[Tensor], Tensor] = self.fabric.setup_module(model, move_to_device=False)
        return wrapped

    def synchronised(self, model: nn.Module) -> AbstractContextManager[None]:
        """Let the batch norms of ``model`` take their statistics over all processes for a while."""
        return synchronised_norms(model, self.total)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of ``loss``; the gradients of a wrapped model are then averages."""
        self.fabric.backward(loss)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place, in one message."""
        if not tensors:
            return
        flat = self.total(torch.cat([tensor.flatten() for tensor in tensors])) / self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of ``tensor`` over the processes, the same bits in each."""
        # Not by Fabric, which puts a barrier before each: a batch norm would wait twice.
        summed = tensor.detach().clone()
        torch.distributed.all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Return when every process has come here; ``GharialError`` when one has ended instead."""
        try:
            self.fabric.barrier()
        except RuntimeError as error:
            raise GharialError(
                f"process {self.rank} stopped because another process did, whose message says why"
            ) from error


def open_processes(device: str = "cpu") -> Processes:
    """Return the processes that ``torchrun`` started, connected; this one alone where it started none.

    ``device`` is cpu (connected by gloo) or cuda (NCCL; each process takes the GPU of its local rank). Raises
    ``DependencyError`` when there are several and Lightning Fabric is not installed.
    """
    return ALONE if world_size() == 1 else _connect(torch.device(device).type)


@cache  # once a program: processes are connected for good
def _connect(kind: str) -> Processes:
    world = world_size()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lightning = import_module("lightning_fabric")
            strategies = import_module("lightning_fabric.strategies")
    except ImportError as error:
        raise DependencyError(
            f"training in {world} processes needs Lightning Fabric ({error}); install it with "
            "pip install lightning-fabric"
        ) from error
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if kind == "cuda" and torch.cuda.device_count() < local:
        raise InputError(
            f"torchrun started {local} processes here, but there are {torch.cuda.device_count()} GPUs; give "
            "--nproc-per-node as many as there are, or --device cpu"
        )
    strategy = strategies.DDPStrategy(timeout=_PATIENCE)
    fabric = lightning.Fabric(accelerator=kind, devices=local, num_nodes=world // local, strategy=strategy)
    fabric.launch()
    return FabricProcesses(fabric.global_rank, fabric.world_size, fabric)
