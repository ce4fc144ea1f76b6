"""Timing on a GPU: programs that a runtime builds, and the ways to time what runs in them."""

from __future__ import annotations

from profiler.gpu.program import Clock, GpuState, Kernel, Program, Runtime, Step

__all__ = ["Clock", "GpuState", "Kernel", "Program", "Runtime", "Step"]
