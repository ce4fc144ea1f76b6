"""PyTorch on the CPU in eager mode: what one more convolution module adds to a run of several."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from latency_model.environment import Environment
from latency_model.errors import InputError, MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape
from profiler.backends.base import OneByOne, cpu_isa, cpu_name
from profiler.cpu_timer import cpu_timer
from profiler.sampling import Policy, collect, measurement, warm_up
from profiler.torch_modules import DTYPES, ConvBlock, memory_format

__all__ = ["TorchCpu"]

_DTYPES = {name: DTYPES[name] for name in ("fp32", "bf16")}


class TorchCpu(OneByOne):
    """Times eager PyTorch modules on the CPU, weights random from a seed, in inference mode.

    The row of a shape is ``(t_R - t_1) / (R - 1)`` for R successive modules against one, so the dispatch of a
    module's operators counts and that of the loop does not. A shape whose layout is ``nhwc`` runs in
    channels-last. Sets the number of threads of this process; leaving the context restores it.
    """

    passes = 2
    precisions = tuple(_DTYPES)

    def __init__(
        self, *, device: str = "cpu", threads: int = 1, policy: Policy | None = None, seed: int = 0
    ) -> None:
        if device != "cpu":
            raise InputError(f"PyTorch times on the CPU only in this version, not on {device}")
        self._policy, self._seed = policy or Policy(), seed
        self._timer = cpu_timer(threads)
        self._before: int | None = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._environment = Environment(
            device=cpu_name(),
            kind="cpu",
            runtime="torch",
            runtime_version=torch.__version__,
            options=(("threads", str(threads)), ("mode", "eager"), ("isa", cpu_isa())),
        )

    @property
    def environment(self) -> Environment:
        """CPU, PyTorch version, threads and vector instructions."""
        return self._environment

    def close(self) -> None:
        """Give the process back the number of threads that it had."""
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None

    def measure(self, config: Config, *, run_id: str) -> Measurement:
        """Return what one more module of a convolution adds to a run."""
        if isinstance(config, OpShape):
            raise MeasurementError(f"PyTorch on the CPU times convolutions only, not {config}")
        shape = config
        if shape.precision not in _DTYPES:
            raise MeasurementError(
                f"PyTorch on the CPU times {', '.join(_DTYPES)}, not {shape.precision}: {shape}"
            )
        copies = 1 + int(np.clip(round(1500.0 / (shape.macs / 60e3 + 5.0)), 2, 8))
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                draw = self._draw(shape, copies)
                warm_up(draw, policy=self._policy)
                sampled = collect(draw, policy=self._policy)
        except RuntimeError as error:
            raise MeasurementError(f"PyTorch could not run {shape}: {str(error).splitlines()[0]}") from error
        return measurement(sampled, method="host-increment", run_id=run_id)

    def _draw(self, shape: ConvShape, copies: int) -> Callable[[], float]:
        form = memory_format(shape.layout)
        dtype = _DTYPES[shape.precision]
        blocks = [ConvBlock(shape).eval().to(dtype).to(memory_format=form) for _ in range(copies)]
        images = torch.randn(shape.batch, shape.in_channels, shape.height, shape.width)
        x = images.to(dtype, memory_format=form)
        first = torch.randn(shape.batch, shape.out_channels, shape.out_height, shape.out_width)
        residual = first.to(dtype, memory_format=form)

        def run(count: int) -> None:
            y = residual
            for block in blocks[:count]:
                y = block(x, y)

        one, many = functools.partial(run, 1), functools.partial(run, copies)
        return lambda: (-self._timer(one) + self._timer(many)) / (copies - 1)

    def time_networks(
        self,
        models: Sequence[bytes],  # noqa: ARG002 - part of the protocol
        *,
        seed: int = 0,  # noqa: ARG002
        rounds: int = 20,  # noqa: ARG002
        run_id: str = "",  # noqa: ARG002
    ) -> list[Measurement]:
        """Raise ``MeasurementError``: eager PyTorch does not run ONNX models."""
        raise MeasurementError(
            "PyTorch does not run ONNX models, so whole networks are not timed; "
            "use --runtime onnxruntime for them"
        )
