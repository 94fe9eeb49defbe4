"""The users' tokens: 256 random bits each, of which the store has a plain SHA-256 (a slow hash is for passwords)."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time

from control.store import Store, Write

SPACE = "tokens"


async def set_token(store: Store, name: str) -> str:
    """Make a token, which replaces the one of that name, and return it: only its hash is kept."""
    token = secrets.token_urlsafe(32)
    kept = {"hash": _hash(token), "created": time.time()}
    await store.write(Write(SPACE, name, json.dumps(kept).encode()))
    return token


async def token_name(store: Store, token: str) -> str | None:
    """Whose token this is, compared in constant time."""
    offered = _hash(token)
    kept = {record.key: json.loads(record.value)["hash"] for record in await store.records(SPACE)}
    found = [name for name, hash in kept.items() if hmac.compare_digest(hash, offered)]
    return found[0] if found else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
