"""Which nonces have been used: a signed request is served once. Pure.

A request is good for WINDOW_S before and after the time that it was signed at; its nonce is remembered until then, in
Unix seconds `now`. Nothing is forgotten before its time: where there is no room, the request has to wait.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from enum import Enum

WINDOW_S = 900.0  # as the API's: fifteen minutes
MOST = 200_000  # some 200 bytes each
MOST_EACH = 100_000


class Seen(Enum):
    """What became of a nonce."""

    NEW = "new"
    USED = "used"
    NO_ROOM = "no room"


def within(signed_at: float, now: float) -> bool:
    """Whether a request that was signed then may be served now."""
    return abs(now - signed_at) <= WINDOW_S


class Nonces:
    """The nonces of one control node."""

    def __init__(self, most: int = MOST, most_each: int = MOST_EACH) -> None:
        self._most, self._most_each = most, most_each
        self._seen: set[bytes] = set()
        self._ends: list[tuple[float, bytes, str]] = []
        self._of: Counter[str] = Counter()

    def take(self, owner: str, nonce: str, signed_at: float, now: float) -> Seen:
        """Remember a nonce of `owner`, whose signature is right, until its time is over."""
        self._forget(now)
        digest = digest_of(owner, nonce)
        if digest in self._seen:
            return Seen.USED
        if len(self._seen) >= self._most or self._of[owner] >= self._most_each:
            return Seen.NO_ROOM
        self._seen.add(digest)
        self._of[owner] += 1
        heapq.heappush(self._ends, (signed_at + WINDOW_S, digest, owner))
        return Seen.NEW

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] < now:
            _, digest, owner = heapq.heappop(self._ends)
            self._seen.discard(digest)
            self._of[owner] -= 1
            if not self._of[owner]:
                del self._of[owner]

    def __len__(self) -> int:
        return len(self._seen)


def digest_of(owner: str, nonce: str) -> bytes:
    """What is remembered of a nonce, however long it is."""
    return hashlib.sha256(f"{len(owner)}:{owner}{nonce}".encode()).digest()[:16]
