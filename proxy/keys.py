"""What a consistent hash goes by: a part of the request. Pure."""

from __future__ import annotations

from collections.abc import Callable

from proxy.conditions import cookie_pairs
from proxy.message import Asked

# Request and normal target → what is hashed, empty where it is missing.
Key = Callable[[Asked, bytes], bytes]


def key_of(hash_key: str) -> Key | None:
    """How to find a `core.model.HASH_KEY`; None for the client's address, which is no part of the request."""
    kind, _, name = hash_key.partition(":")
    match kind:
        case "source":
            return None
        case "path":
            return lambda _, target: target.partition(b"?")[0]
        case "header":
            field = name.lower().encode("ascii")
            return lambda head, _: b",".join(head.values(field))
    cookie = name.encode("ascii")
    return lambda head, _: next((value for each, value in cookie_pairs(head) if each == cookie), b"")
