"""A program of PyTorch modules: built in a thread of its own, replayed from any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latency_model.errors import MeasurementError
from latency_model.ops import Config, OpShape
from profiler.gpu.program import Step, Stepwise
from profiler.gpu.torch_capture import Capture, explain
from profiler.reference import reference_inputs
from profiler.torch_modules import DTYPES, conv_block, memory_format
from profiler.torch_ops import operator

__all__ = ["SEARCHES", "TorchProgram"]

# How many engines of cuDNN a search times: all, torch's own default, or none (what cuDNN's heuristic names).
SEARCHES: Mapping[str, int | None] = {"exhaustive": 0, "benchmark": 10, "heuristic": None}
# The switches belong to the process, so programs are built under them one at a time.
_SWITCHES = threading.Lock()


class TorchProgram(Stepwise):
    """Configurations as captures: one for all of them with ``graph``, else one for each.

    The thread that builds it lives until ``close``. torch keeps cuDNN's plans in a cache of each thread
    (``benchmark_cache`` in its aten/src/ATen/native/cudnn/Conv_v8.cpp), so a new thread searches anew; and a
    plan has to live as long as the graphs that launch its kernels. Copies of one shape share one search.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        *,
        copies: int,
        graph: bool,
        seed: int,
        device: torch.device,
        search: str,
        capture: Capture,
    ) -> None:
        self._capture, self._device, self._search, self._seed = capture, device, search, seed
        self._outputs: list[Tensor | None] = []
        self._steps: tuple[Step, ...] = ()
        # A graph knows addresses only: what it reads must stay alive here.
        self._runs: list[Callable[[], None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gharial-torch")
        error = self._thread.submit(self._build, tuple(configs), copies, graph).result()
        if error is not None:
            self.close()
            raise error

    def _build(self, configs: tuple[Config, ...], copies: int, graph: bool) -> MeasurementError | None:
        # An error is returned: raised through the future, its traceback would keep tensors on a full device.
        with _SWITCHES, torch.inference_mode(), _searching(self._search):
            try:
                self._assemble(configs, copies, graph)
            except (MeasurementError, RuntimeError, ValueError, IndexError) as error:
                self._steps, self._runs, self._outputs = (), [], []
                what = str(configs[0]) if len(configs) == 1 else f"a program of {len(configs)} configurations"
                return explain(error, what, self._capture)
        return None

    def _assemble(self, configs: tuple[Config, ...], copies: int, graph: bool) -> None:
        self._outputs = [None] * len(configs)
        self._runs = runs = [self._run_of(index, config, copies) for index, config in enumerate(configs)]
        for run in runs:
            self._capture.warm_up(run)

        def all_runs() -> None:
            for run in runs:
                run()

        parts = (
            [(configs, all_runs)] if graph else [((c,), run) for c, run in zip(configs, runs, strict=True)]
        )
        self._steps = tuple(Step(part, self._capture.capture(run)) for part, run in parts)
        self.run()  # the warm-up that counts: a graph that was only captured has computed nothing
        self._capture.synchronise()

    def _run_of(self, index: int, config: Config, copies: int) -> Callable[[], None]:
        """Return what runs every copy of ``config``, and keeps the output of the first."""
        if config.precision not in DTYPES:
            raise MeasurementError(
                f"PyTorch times {', '.join(DTYPES)} on a CUDA device, not {config.precision}: {config}"
            )
        inputs: list[Tensor] = []
        modules = []
        for copy in range(copies):
            numbers = reference_inputs(config, seed=self._seed, copy=copy)
            inputs = inputs or [self._tensor(array, config) for array in numbers.inputs]
            weights = [self._tensor(array, config) for array in numbers.weights]
            modules.append(_module(config, weights))

        def run() -> None:
            with _precision(config.precision):
                for copy, module in enumerate(modules):
                    result = module(*inputs)
                    if copy == 0:
                        self._outputs[index] = result

        return run

    def _tensor(self, array: NDArray[Any], config: Config) -> Tensor:
        tensor = torch.from_numpy(np.array(array, dtype=np.float32))
        form = memory_format(config.layout, tensor.ndim)
        return tensor.to(device=self._device, dtype=DTYPES[config.precision]).contiguous(memory_format=form)

    def outputs(self) -> list[NDArray[Any]]:
        """Wait, and return the first copy's output of each configuration in fp32, images in NCHW."""
        kept = [tensor for tensor in self._outputs if tensor is not None]
        try:
            self._capture.synchronise()
            return [np.ascontiguousarray(tensor.float().cpu().numpy()) for tensor in kept]
        except RuntimeError as error:
            raise explain(error, "a program", self._capture) from None

    def close(self) -> None:
        """Free the graphs and their memory, then end the thread whose plans they use."""
        self._steps, self._runs, self._outputs = (), [], []
        self._thread.shutdown(wait=True)


def _module(config: Config, weights: Sequence[Tensor]) -> Callable[..., Tensor]:
    if not isinstance(config, OpShape):
        return conv_block(config, weights)
    function = operator(config)
    return lambda *inputs: function(*inputs, *weights)


@contextmanager
def _searching(search: str) -> Iterator[None]:
    """Set how cuDNN chooses its engines, and put it back."""
    backends: Any = torch.backends  # its stubs lack what its modules have
    cudnn, limit = backends.cudnn, SEARCHES[search]
    limited = limit is not None and cudnn.is_available()
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark = limit is not None
    if limited:
        cudnn.benchmark_limit = limit
    try:
        yield
    finally:
        cudnn.benchmark = before[0]
        if limited:
            cudnn.benchmark_limit = before[1]


@contextmanager
def _precision(precision: str) -> Iterator[None]:
    """Allow TF32 for ``tf32`` only, in convolutions and in matrix products, and put the switches back."""
    backends: Any = torch.backends  # its stubs lack what its modules have
    conv, matmul = backends.cudnn.conv, backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision = matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
