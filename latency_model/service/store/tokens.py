"""Tokens: who may do what. A secret is shown once, when it is made; the database holds its SHA-256.

A slow hash as for passwords is not needed: a secret is 256 random bits, nobody guesses one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, insert, or_, select, update

from latency_model.errors import InputError
from latency_model.service.store.database import Database
from latency_model.service.store.schema import tokens

__all__ = ["SCOPES", "TokenBook", "TokenInfo", "check_token", "create_token", "list_tokens", "revoke_token"]

# admin may do everything.
SCOPES = ("read", "rows:write", "jobs:write", "work", "admin")
PREFIX = "ghl_"
_BYTES = 32
_LONGEST_NAME = 200
# How often the last use of a token is written down, at most.
_USED_S = 60.0
# How often an unknown secret makes a book look again, at most.
_AGAIN_S = 0.1
# Everything but the digest: it never leaves this module.
_PUBLIC = [column for column in tokens.c if column.name != "digest"]


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token beside its secret; times are seconds since the epoch."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    used_at: float | None = None

    def allows(self, scope: str) -> bool:
        """Whether the token is for ``scope``."""
        return scope in self.scopes or "admin" in self.scopes

    def valid(self, now: float | None = None) -> bool:
        """Whether the token is neither revoked nor expired at ``now``, by default this moment."""
        now = time.time() if now is None else now
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def state(self) -> str:
        """``valid``, ``revoked`` or ``expired``."""
        return "valid" if self.valid() else "expired" if self.revoked_at is None else "revoked"


def create_token(
    database: Database, name: str, scopes: Iterable[str], *, expires_in_s: float | None = None
) -> tuple[TokenInfo, str]:
    """Return a new token and its secret, which nobody can read again.

    Raises ``InputError`` for an unknown scope, none, or a name that is empty or cannot be printed.
    """
    wanted = tuple(dict.fromkeys(scopes))
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise InputError(f"unknown scope {unknown[0]!r}; known are {', '.join(SCOPES)}")
    if not wanted:
        raise InputError(f"a token needs a scope; known are {', '.join(SCOPES)}")
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InputError(f"the name of a token is 1 to {_LONGEST_NAME} printable characters, not {name!r}")
    if expires_in_s is not None and not 0 < expires_in_s < float("inf"):
        raise InputError(f"a token expires after a positive time, not {expires_in_s} s")
    now = time.time()
    info = TokenInfo(
        secrets.token_hex(8), name, wanted, now, None if expires_in_s is None else now + expires_in_s
    )
    secret = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)).rstrip(b"=").decode()
    with database.write() as connection:
        connection.execute(
            insert(tokens).values(
                id=info.id,
                name=name,
                digest=_digest(secret),
                scopes=" ".join(wanted),
                created_at=now,
                expires_at=info.expires_at,
            )
        )
    return info, secret


def list_tokens(database: Database) -> list[TokenInfo]:
    """Return every token, revoked and expired ones too, in the order in which they were made."""
    with database.read() as connection:
        return [_info(row) for row in connection.execute(select(*_PUBLIC).order_by(tokens.c.created_at))]


def revoke_token(database: Database, token: str) -> TokenInfo:
    """Revoke the token of an id, or the only valid one of a name; return it. Revoking twice changes nothing.

    Raises ``InputError`` when there is no such token, or several of this name.
    """
    with database.write() as connection:
        query = select(*_PUBLIC).where(or_(tokens.c.id == token, tokens.c.name == token))
        found = [_info(row) for row in connection.execute(query)]
        exact = [info for info in found if info.id == token]
        chosen = exact or [info for info in found if info.valid()] or found
        if not chosen:
            raise InputError(f"there is no token {token!r}; gharial tokens list shows all")
        if len(chosen) > 1:
            ids = ", ".join(info.id for info in chosen)
            raise InputError(f"{len(chosen)} tokens are named {token!r}; give the id of one: {ids}")
        connection.execute(
            update(tokens)
            .where(tokens.c.id == chosen[0].id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=time.time())
        )
        return _info(connection.execute(select(*_PUBLIC).where(tokens.c.id == chosen[0].id)).one())


def check_token(database: Database, secret: str) -> TokenInfo | None:
    """Return the valid token of a secret, None when there is none; its use is noted once a minute."""
    digest = _digest(secret)
    with database.read() as connection:
        row = connection.execute(select(tokens).where(tokens.c.digest == digest)).one_or_none()
    # The index led to it by its hash, of which a guesser cannot choose the start; the comparison takes its time.
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    info = _info(row)
    if not info.valid():
        return None
    _note_use(database, info)
    return info


class TokenBook:
    """Checks tokens from memory: what the database says is read again when older than ``stale_s`` seconds.

    So a revoked token is refused after ``stale_s`` at the latest, whoever revoked it; a secret that is not known makes
    it look again at once, ten times a second at most, so that a new token is good from the start. Threads may share
    one. When tokens were used is kept until ``flush`` writes it down: ``check`` never waits for a writer.
    """

    def __init__(self, database: Database, *, stale_s: float = 1.0) -> None:
        self._database, self._stale_s = database, stale_s
        self._known: dict[str, TokenInfo] = {}
        self._used: dict[str, float] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def check(self, secret: str) -> TokenInfo | None:
        """Return the valid token of a secret, None when there is none."""
        digest = _digest(secret)
        found = _matching(self._read(self._stale_s), digest)
        if found is None:
            found = _matching(self._read(min(self._stale_s, _AGAIN_S)), digest)
        if found is None or not found.valid():
            return None
        self._used[found.id] = time.time()
        return found

    def _read(self, oldest_s: float) -> dict[str, TokenInfo]:
        """Return the active tokens by their digests, read at most ``oldest_s`` seconds ago."""
        with self._lock:
            if time.monotonic() - self._read_at >= oldest_s:
                read_at = time.monotonic()
                self._known, self._read_at = _active(self._database), read_at
            return self._known

    def flush(self) -> None:
        """Write down when tokens were used last."""
        used, self._used = self._used, {}
        if used:
            with self._database.write() as connection:
                for token, at in used.items():
                    connection.execute(update(tokens).where(tokens.c.id == token).values(used_at=at))


def _matching(known: Mapping[str, TokenInfo], digest: str) -> TokenInfo | None:
    # All of them, each in constant time: how long this takes tells nothing of any.
    found = None
    for there, info in known.items():
        if hmac.compare_digest(there, digest):
            found = info
    return found


def _active(database: Database) -> dict[str, TokenInfo]:
    with database.read() as connection:
        found = connection.execute(select(tokens).where(tokens.c.revoked_at.is_(None)))
        return {row.digest: info for row in found if (info := _info(row)).valid()}


def _note_use(database: Database, info: TokenInfo) -> None:
    now = time.time()
    if info.used_at is None or now - info.used_at >= _USED_S:
        with database.write() as connection:
            connection.execute(update(tokens).where(tokens.c.id == info.id).values(used_at=now))


def _info(row: Row[Any]) -> TokenInfo:
    values = {column.name: row._mapping[column] for column in _PUBLIC}
    return TokenInfo(**{**values, "scopes": tuple(row.scopes.split())})


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "backslashreplace")).hexdigest()
