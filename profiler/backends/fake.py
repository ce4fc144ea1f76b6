"""A device that exists only as a formula: a roofline with stairs, and noise from a seed.

It makes the whole flow testable, failures, crashes and drift included, with exact numbers to compare with.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from latency_model.environment import Environment
from latency_model.errors import InputError, MeasurementError, ModelError
from latency_model.measurement import Measurement
from latency_model.ops import Config, OpShape
from profiler.backends.base import OneByOne
from profiler.sampling import Policy, measurement, summarise

__all__ = ["FakeDevice"]

_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_SAMPLES = 25


class FakeDevice(OneByOne):
    """Deterministic: the same shape and seed give the same row in every process.

    ``true_us`` is the larger of arithmetic and memory time plus a launch overhead; channels are rounded up to
    ``tile_in`` and ``tile_out`` first, which makes the staircase. ``noise`` is the relative standard
    deviation of a sample. For tests: shapes in ``fail_on`` cannot be timed (the first ``fail_times`` times,
    always if None), the process dies without a word after ``crash_after`` measurements, each measurement
    sleeps ``delay_s``, and from measurement ``drift_after`` on everything takes ``drift_factor`` as long.
    ``crash_on`` end the process by ``crash_signal`` (only as long as the file ``crash_marker``, if one is
    named, does not exist; the crash makes it), as ``die_at_start`` does at once, ``hang_on`` never end,
    ``break_on`` raise ``break_error`` as no measuring error, and ``refuse`` is why the device cannot be opened.
    Shapes may be given as text, so that a ``BackendSpec`` can hold all of this.
    """

    precisions = ("fp32", "tf32", "fp16", "bf16", "int8")
    times_ops = True

    def __init__(
        self,
        *,
        device: str = "fake",  # noqa: ARG002 - every back end takes one
        threads: int = 1,
        seed: int = 0,
        noise: float = 0.01,
        macs_per_us: float = 50e3,
        bytes_per_us: float = 20e3,
        launch_us: float = 1.5,
        other_us: float = 1.0,
        tile_in: int = 8,
        tile_out: int = 16,
        fail_on: Sequence[Config | str] = (),
        fail_times: int | None = None,
        crash_after: int | None = None,
        delay_s: float = 0.0,
        drift_after: int | None = None,
        drift_factor: float = 1.2,
        crash_on: Sequence[Config | str] = (),
        crash_signal: int = signal.SIGSEGV,
        crash_marker: str = "",
        hang_on: Sequence[Config | str] = (),
        break_on: Sequence[Config | str] = (),
        break_error: str = "an illegal memory access was encountered",
        refuse: str = "",
        die_at_start: bool = False,
        at_once: int = 1,
    ) -> None:
        if refuse:
            raise InputError(refuse)
        if die_at_start and not (crash_marker and Path(crash_marker).exists()):
            _crash(crash_signal, crash_marker)
        self.at_once = at_once
        self._crash_on, self._hang_on, self._break_on = map(_texts, (crash_on, hang_on, break_on))
        self._crash_signal, self._crash_marker = crash_signal, crash_marker
        self._break_error = break_error
        self._seed, self._noise = seed, noise
        self._macs_per_us, self._bytes_per_us = macs_per_us * threads, bytes_per_us
        self._launch_us, self._other_us = launch_us, other_us
        self._tile_in, self._tile_out = tile_in, tile_out
        self._fail_on, self._fail_times = _texts(fail_on), fail_times
        self._failed: dict[Config, int] = {}
        self._crash_after, self._delay_s = crash_after, delay_s
        self._drift_after, self._drift_factor = drift_after, drift_factor
        self._measured = 0
        options = {
            "threads": threads,
            "seed": seed,
            "noise": noise,
            "macs_per_us": macs_per_us,
            "bytes_per_us": bytes_per_us,
            "launch_us": launch_us,
            "other_us": other_us,
            "tiles": f"{tile_in}x{tile_out}",
        }
        self._environment = Environment(
            device="fake device",
            kind="fake",
            runtime="fake",
            runtime_version="1",
            options=tuple((name, str(value)) for name, value in options.items()),
        )

    @property
    def environment(self) -> Environment:
        """The fake device and every number that its formula uses."""
        return self._environment

    def true_us(self, shape: Config) -> float:
        """Return the latency that ``measure`` scatters around, in microseconds."""
        if isinstance(shape, OpShape):
            moved = sum(math.prod(dims) for dims in (*shape.inputs, *shape.weights))
            return self._launch_us + moved * _BYTES[shape.precision] / self._bytes_per_us
        tile_in, tile_out = (1, self._tile_out) if shape.groups > 1 else (self._tile_in, self._tile_out)
        inputs = math.ceil(shape.in_channels / shape.groups / tile_in) * tile_in
        outputs = math.ceil(shape.out_channels / tile_out) * tile_out
        kernel = shape.kernel[0] * shape.kernel[1]
        pixels = shape.batch * shape.out_height * shape.out_width
        residual = outputs * pixels if "add" in shape.pattern.split("+") else 0
        moved = (
            shape.batch * shape.height * shape.width * math.ceil(shape.in_channels / tile_in) * tile_in
            + outputs * (pixels + inputs * kernel)
            + residual
        )
        width = _BYTES[shape.precision]
        arithmetic = pixels * outputs * inputs * kernel / (self._macs_per_us * 4 / width)
        return self._launch_us + max(arithmetic, moved * width / self._bytes_per_us)

    def _samples(self, true_us: float, what: str) -> list[float]:
        digest = hashlib.sha256(f"{self._seed} {what}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        factor = self._drift_factor if self._drifted else 1.0
        # Log-normal: never negative, skewed to the long side as times are.
        return list(true_us * factor * np.exp(self._noise * rng.standard_normal(_SAMPLES)))

    @property
    def _drifted(self) -> bool:
        return self._drift_after is not None and self._measured >= self._drift_after

    def measure(self, config: Config, *, run_id: str) -> Measurement:
        """Return ``true_us`` with noise; the same for the same configuration and seed."""
        if self._crash_after is not None and self._measured >= self._crash_after:
            os._exit(9)
        if self._delay_s:
            time.sleep(self._delay_s)
        self._misbehave(config.text)
        if config.text in self._fail_on:
            self._failed[config] = self._failed.get(config, 0) + 1
            if self._fail_times is None or self._failed[config] <= self._fail_times:
                raise MeasurementError(f"the fake device was told to fail on {config}")
        samples = self._samples(self.true_us(config), config.text)
        self._measured += 1
        sampled = summarise(samples, policy=Policy(relative=1.0))
        return measurement(sampled, method="fake", run_id=run_id)

    def _misbehave(self, text: str) -> None:
        if text in self._crash_on and not (self._crash_marker and Path(self._crash_marker).exists()):
            _crash(self._crash_signal, self._crash_marker)
        if text in self._hang_on:
            time.sleep(1e6)
        if text in self._break_on:
            raise RuntimeError(self._break_error)

    def network_us(self, model: bytes) -> float:
        """Return the exact latency of a network: its operators, and a constant for each without a shape."""
        from latency_model.harvest import harvest_onnx

        try:
            network = harvest_onnx(model)
        except ModelError as error:
            raise MeasurementError(f"the fake device cannot run this network: {error}") from error
        convolutions = sum(self.true_us(shape) for _, shape in network.shapes())
        operators = sum(self.true_us(shape) for _, shape in network.op_shapes())
        return convolutions + operators + self._other_us * sum(network.others.values())

    def time_networks(
        self,
        models: Sequence[bytes],
        *,
        seed: int = 0,
        rounds: int = 20,  # noqa: ARG002 - part of the protocol
        run_id: str = "",
    ) -> list[Measurement]:
        """Return ``network_us`` of each network with noise."""
        rows = []
        for model in models:
            true_us = self.network_us(model)
            samples = self._samples(true_us, f"network {seed} {true_us!r}")
            rows.append(
                measurement(summarise(samples, policy=Policy(relative=1.0)), method="fake", run_id=run_id)
            )
        return rows


def _texts(configs: Iterable[Config | str]) -> frozenset[str]:
    return frozenset(map(str, configs))


def _crash(number: int, marker: str) -> None:
    if marker:
        Path(marker).touch()
    os.kill(os.getpid(), number)
