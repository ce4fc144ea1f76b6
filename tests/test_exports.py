"""The public surface: small, sorted, importable in any order, and cheap to import."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

PACKAGES = ("latency_model", "profiler", "pruner")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "pandas", "sklearn", "matplotlib", "plotly")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_surface_is_small_sorted_and_importable(package):
    module = importlib.import_module(package)
    assert 0 < len(module.__all__) <= 14
    assert module.__all__ == sorted(set(module.__all__))
    for name in module.__all__:
        assert not isinstance(getattr(module, name), ModuleType), name
        assert (getattr(module, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_the_same_when_every_submodule_was_imported_first(package):
    """A submodule of the same name takes the place of a lazy name; this is where that would show."""
    modules = [
        info.name
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        if info.name != "profiler.testing"  # needs pytest
    ]
    code = (
        f"import importlib, types, warnings; warnings.simplefilter('ignore')\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"p = importlib.import_module({package!r})\n"
        f"print([n for n in p.__all__ if isinstance(getattr(p, n), types.ModuleType)])"
    )
    assert python(code) == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_exports(package):
    module = importlib.import_module(package)
    for info in pkgutil.walk_packages(module.__path__, f"{package}."):
        if info.name.rsplit(".", 1)[-1].startswith("_"):
            continue
        found = importlib.import_module(info.name)
        missing = [name for name in found.__all__ if not hasattr(found, name)]
        assert not missing, (info.name, missing)


@pytest.mark.parametrize("module", ["gharial", *PACKAGES, *(f"{p}.cli" for p in PACKAGES)])
def test_importing_needs_no_framework(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code) == "[]"


def test_star_import_of_the_pruner():
    assert python("from pruner import *; print(Plan.__name__, callable(prune), callable(trace))") == (
        "Plan True True"
    )
