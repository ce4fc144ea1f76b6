"""The version of this Gharial, and of the server where it is another."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

__all__ = ["skew", "version"]


@cache
def version() -> str:
    """Return the installed version, "0" in a checkout that was not installed."""
    try:
        return installed("gharial")
    except PackageNotFoundError:
        return "0"


def skew(health: bytes) -> str:
    """Return a phrase when the answer of ``/healthz`` names another version; a server that names none is older."""
    said = json.loads(health)
    theirs = said.get("version") if said.get("status") == "ok" else None
    if theirs == version():
        return ""
    if not isinstance(theirs, str):
        return "it may be no Gharial server, or an older one"
    return f"the server runs Gharial {theirs[:40]} and this is {version()}; they should be of one version"
