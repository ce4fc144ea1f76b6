"""What all stages that train stand on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.training.tensorboard import TensorBoard

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from pruner.training import Callback
    from pruner.training.processes import Processes

__all__ = ["Stages"]


@dataclass(frozen=True)
class Stages:
    """What every stage that trains needs beside the request."""

    processes: Processes
    device: torch.device
    progress: Progress
    log_dir: Path | None

    def logs(self, stage: str) -> tuple[Callback, ...]:
        """Return the callbacks that log ``stage``; the first process's alone."""
        if self.log_dir is None or not self.processes.first:
            return ()
        return (TensorBoard(self.log_dir / stage),)
