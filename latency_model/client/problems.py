"""What a server's refusal becomes here: the error that the same mistake raises locally, with the server's sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from latency_model import errors
from latency_model.errors import GharialError, InputError, ServerError, TableError

__all__ = ["Problem", "problem_of"]

# Types of the service that are no class of ours.
_TYPES: Mapping[str, type[GharialError]] = {
    "not-measured": TableError,
    "unknown-environment": TableError,
    "internal": ServerError,
    "unavailable": ServerError,
    "timeout": ServerError,
    "rate-limited": ServerError,
}
# What a server says that does not know a path, a method, a parameter or a kind of body.
_FOREIGN = frozenset({"not-found", "method-not-allowed", "unsupported-media-type", "invalid"})
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is no success; ``foreign`` when client and server may not be of one version."""

    status: int
    type: str
    message: str
    request_id: str
    foreign: bool

    def error(self, where: str, *, skew: str = "") -> GharialError:
        """Return the error to raise; ``where`` is the server, ``skew`` says of its version."""
        kind = _class_of(self.type, self.status)
        text = self.message
        if self.status in (401, 403):
            text = f"{where} refuses this: {text.rstrip('.')}; a token is given as GHARIAL_TOKEN"
        elif kind is ServerError:
            text = f"{where} failed ({self.status}): {text.rstrip('.')}"
            text += f" (request {self.request_id})" if self.request_id else ""
        if skew and self.foreign:
            text = f"{text.rstrip('.')}; {skew}"
        error = kind(text)
        if self.request_id:
            error.add_note(f"request {self.request_id} of {where}")
        return error


def problem_of(status: int, body: bytes) -> Problem:
    """Return what an answer with ``status`` says; of a body that is not the service's, only the status."""
    try:
        said = json.loads(body)["error"]
        kind, message = str(said["type"]), str(said["message"])[:_LONGEST]
        return Problem(status, kind, message, str(said.get("request_id", ""))[:64], kind in _FOREIGN)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a proxy's page, or nothing
        return Problem(status, "", f"HTTP status {status} without a reason", "", foreign=status < 500)


def _class_of(kind: str, status: int) -> type[GharialError]:
    if kind in _TYPES:
        return _TYPES[kind]
    name = "".join(word.capitalize() for word in re.split("-", kind))
    known = getattr(errors, name, None) if name in errors.__all__ else None
    if known is not None:
        return known  # type: ignore[no-any-return]
    return ServerError if status >= 500 or not kind else InputError
