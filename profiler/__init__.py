"""The profiler: plans configurations, times them on a device, and keeps what was measured."""
