"""Nonces of requests that change something, in the storage: served once on all control nodes, restarts included.

A record's key begins with the time that the request was signed at, so that the oldest are the first of the space.
"""

from __future__ import annotations

from control.cloud.nonces import WINDOW_S, digest_of
from control.store import RecordConflictError, Store, Write

SPACE = "nonces"
FORGOTTEN_AT_ONCE = 50


async def keep(store: Store, owner: str, nonce: str, signed_at: float, now: float) -> bool:
    """Whether the nonce was new. Raises StoreUnavailableError."""
    key = f"{int(signed_at):012d}-{digest_of(owner, nonce).hex()}"
    over = f"{int(now - WINDOW_S):012d}"
    old = [
        each.key for each in await store.records(SPACE, "", FORGOTTEN_AT_ONCE) if each.key < over and each.key != key
    ]
    try:
        await store.write(Write(SPACE, key, b"", 0), *(Write(SPACE, each, None) for each in old))
    except RecordConflictError:
        return False
    return True
