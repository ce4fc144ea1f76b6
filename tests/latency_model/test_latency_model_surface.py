import subprocess
import sys

import latency_model


def test_the_surface_is_small_and_sorted():
    assert len(latency_model.__all__) <= 14
    assert latency_model.__all__ == sorted(latency_model.__all__)
    assert all(hasattr(latency_model, name) for name in latency_model.__all__)


def test_importing_needs_no_framework():
    heavy = ("torch", "onnx", "onnxruntime", "matplotlib", "plotly", "pandas", "sklearn")
    code = f"import sys, latency_model, latency_model.cli; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
