"""Tokens: shown once, kept as a hash, refused when revoked or expired."""

import hashlib
import time

import pytest
from sqlalchemy import text, update

from latency_model.errors import InputError
from latency_model.service.store import schema
from latency_model.service.store import tokens as module
from latency_model.service.store.tokens import (
    SCOPES,
    TokenBook,
    check_token,
    create_token,
    list_tokens,
    revoke_token,
)


def everything(database):
    """Return all that the database holds of tokens, as text."""
    with database.read() as connection:
        return repr(connection.execute(text("SELECT * FROM tokens")).all())


def test_a_secret_is_random_and_only_its_hash_is_kept(database):
    made = [create_token(database, f"robot {i}", ["read"]) for i in range(3)]
    secrets = [secret for _, secret in made]
    assert len(set(secrets)) == 3 and all(s.startswith("ghl_") and len(s) == 4 + 43 for s in secrets)
    kept, listed = everything(database), repr(list_tokens(database))
    for secret in secrets:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        assert secret not in kept and secret[4:] not in kept and digest in kept
        assert secret not in listed and digest not in listed
    assert [info for info, _ in made] == list_tokens(database)


def test_the_right_secret_and_no_other(database):
    info, secret = create_token(database, "ci", ["rows:write"])
    assert check_token(database, secret).id == TokenBook(database).check(secret).id == info.id
    for wrong in ("", "ghl_", secret[:-1], secret + "A", secret.upper(), "\0", "\udc80", info.id):
        assert check_token(database, wrong) is None
        assert TokenBook(database).check(wrong) is None


def test_a_book_knows_a_new_token_at_once_and_cannot_be_made_to_read_for_ever(database, monkeypatch):
    reads = []
    real = module._active
    monkeypatch.setattr(module, "_active", lambda database: reads.append(1) or real(database))
    book = TokenBook(database, stale_s=3600)
    assert book.check("ghl_unknown") is None
    info, secret = create_token(database, "new", ["read"])
    time.sleep(2 * module._AGAIN_S)
    assert book.check(secret).id == info.id
    assert len(reads) == 2
    for _ in range(50):
        assert book.check("ghl_guess") is None
    assert len(reads) <= 4


def test_scopes(database):
    info, _ = create_token(database, "worker", ["work", "read", "work"])
    assert info.scopes == ("work", "read")
    assert [scope for scope in SCOPES if info.allows(scope)] == ["read", "work"]
    admin, _ = create_token(database, "root", ["admin"])
    assert all(admin.allows(scope) for scope in SCOPES)


@pytest.mark.parametrize(
    ("name", "scopes", "expires", "said"),
    [
        ("a", ["write"], None, "unknown scope 'write'"),
        ("a", [], None, "needs a scope"),
        (" ", ["read"], None, "printable"),
        ("a\0", ["read"], None, "printable"),
        ("a", ["read"], 0, "positive time"),
        ("a", ["read"], float("nan"), "positive time"),
    ],
)
def test_what_cannot_be_a_token(database, name, scopes, expires, said):
    with pytest.raises(InputError, match=said):
        create_token(database, name, scopes, expires_in_s=expires)
    assert not list_tokens(database)


def test_an_expired_token_is_refused(database):
    info, secret = create_token(database, "guest", ["read"], expires_in_s=3600)
    book = TokenBook(database)
    assert book.check(secret) and info.valid()
    assert not info.valid(time.time() + 3600) and info.state == "valid"
    with database.write() as connection:
        connection.execute(update(schema.tokens).values(expires_at=time.time() - 1))
    assert check_token(database, secret) is None
    assert TokenBook(database).check(secret) is None
    assert list_tokens(database)[0].state == "expired"


def test_a_token_expires_on_time_however_long_ago_it_was_read(database, monkeypatch):
    info, secret = create_token(database, "guest", ["read"], expires_in_s=60)
    book = TokenBook(database, stale_s=3600)
    assert book.check(secret)
    monkeypatch.setattr("latency_model.service.store.tokens.time.time", lambda: info.expires_at - 1e-3)
    assert book.check(secret)
    monkeypatch.setattr("latency_model.service.store.tokens.time.time", lambda: info.expires_at)
    assert book.check(secret) is None


def test_a_revoked_token_is_refused_and_stays_in_the_list(database):
    first, secret = create_token(database, "ci", ["read"])
    _, other = create_token(database, "ci", ["read"])
    book, old = TokenBook(database, stale_s=0), TokenBook(database, stale_s=3600)
    assert book.check(secret) and old.check(secret)
    with pytest.raises(InputError, match="2 tokens are named 'ci'"):
        revoke_token(database, "ci")
    revoked = revoke_token(database, first.id)
    assert revoked.state == "revoked"
    assert check_token(database, secret) is None and book.check(secret) is None
    assert old.check(secret), "within stale_s what was read counts"
    assert check_token(database, other) and book.check(other)
    assert revoke_token(database, first.id).revoked_at == revoked.revoked_at
    # Only one valid token of the name is left.
    assert revoke_token(database, "ci").id != first.id
    assert check_token(database, other) is None
    with pytest.raises(InputError, match="no token 'nobody'"):
        revoke_token(database, "nobody")


def test_the_last_use_is_written_down(database):
    info, secret = create_token(database, "ci", ["read"])
    book = TokenBook(database)
    book.check(secret)
    assert list_tokens(database)[0].used_at is None
    book.flush()
    used = list_tokens(database)[0].used_at
    assert used >= info.created_at
    check_token(database, secret)
    assert list_tokens(database)[0].used_at == used, "once a minute is enough"
