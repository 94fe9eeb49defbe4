"""What the L7 nodes seal sticky cookies with: random, made once, and part of no configuration."""

from __future__ import annotations

import secrets

from control.store import RecordConflictError, Store, Write

SECRET_BYTES = 32
SPACE, KEY = "secrets", "cookies"


async def cookie_secret(store: Store) -> bytes:
    """The secret, made where there is none yet; two that make it at once get the same."""
    while (record := await store.record(SPACE, KEY)) is None:
        try:
            await store.write(Write(SPACE, KEY, secrets.token_bytes(SECRET_BYTES), 0))
        except RecordConflictError:
            continue
    return record.value
