"""Whether a token may be sent."""

from __future__ import annotations

import os

from latency_model.errors import InputError

__all__ = ["checked_token", "plain_allowed"]


def plain_allowed() -> bool:
    """Whether this user's environment allows tokens over plain HTTP."""
    return os.environ.get("GHARIAL_PLAIN_TOKEN") == "1"


def checked_token(token: str | None, origin: str, *, private: bool) -> str | None:
    """Return what is sent of a token, None for none; ``InputError`` unless the way to ``origin`` is ``private``."""
    token = (token or "").strip()
    if not token:
        return None
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            "the token has characters that no token has; give what gharial tokens create printed"
        )
    if not private:
        raise InputError(
            f"the token would go to {origin} for everybody on the way to read; use https://, a tunnel to "
            "localhost, or, in a network that you trust, set GHARIAL_PLAIN_TOKEN=1"
        )
    return token
