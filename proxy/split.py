"""To which of a rule's backend services a request goes: by what it carries, by who sends it, or in turn.

First counts what the request carries: of all parts those `headers` that it has, then `cookies`. Then the client's
server, where it has one by a sticky cookie (`proxy.rules`). Then `split_by`, or whose turn it is.

`split_by` is weighted rendezvous hashing: each service has a number for each client, -ln(u)/weight with u from a hash
of both, and the smallest wins (the logarithmic method of Schindelhauer and Schomaker, Weighted distributed hash tables,
SPAA 2005). So every service gets its part of many clients; and where one gets a larger part, clients move to it and
between no two others: whoever was in a canary of 5 % stays in it at 10 %. Nothing is remembered, and the hash has no
seed, so that all workers and nodes say the same, after restarts too. Rules that split among the same services choose
alike for the same client.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from core.model import Share
from core.overrides import configured
from core.schedule import smooth_wrr_ring
from proxy.actions import Forward
from proxy.conditions import Wanted, cookie_pairs, wanted_of
from proxy.keys import Key, key_of
from proxy.message import Asked

_BITS: Final = 64


class Part(NamedTuple):
    """A share of a split, and where it goes."""

    forward: Forward
    share: Share


class Split:
    """To one of several."""

    __slots__ = ("_by_cookies", "_by_headers", "_forwards", "_hashes", "_key", "_turn", "by", "forwards")

    def __init__(self, parts: Iterable[Part], by: str = "") -> None:
        """`by`: a `core.model.HASH_KEY`; empty: in turn."""
        parts = list(parts)
        self.by = by
        self.forwards = [forward for forward, _ in parts]
        self._forwards = [self.forwards[index] for index in smooth_wrr_ring([share.weight for _, share in parts])]
        self._turn = -1
        self._by_headers = _listed((forward, wanted_of(share.headers, lower=True)) for forward, share in parts)
        self._by_cookies = _listed((forward, wanted_of(share.cookies)) for forward, share in parts)
        self._key: Key | None = key_of(by) if by else None
        self._hashes = [
            (blake2b(configured(share.backend_service).encode() + b"\0", digest_size=_BITS // 8), share.weight, forward)
            for forward, share in parts
            if share.weight
        ]

    def claimed(self, asked: Asked) -> Forward | None:
        """Where a request goes whatever the weights, by a field or a cookie; None: nowhere."""
        for forward, name, values in self._by_headers:
            if any(values.has(value) for value in asked.values(name)):
                return forward
        if self._by_cookies:
            pairs = list(cookie_pairs(asked))
            for forward, name, values in self._by_cookies:
                if any(name == key and values.has(value) for key, value in pairs):
                    return forward
        return None

    def weighed(self, asked: Asked, target: bytes, client: bytes) -> Forward:
        """By the weights: always the same for a client where there is a `split_by`, else whose turn it is."""
        if not self.by:
            return self.next()
        return self.of(self.key(asked, target) or client)

    def key(self, asked: Asked, target: bytes) -> bytes:
        """What stands for the client in a request; empty where its address does."""
        return self._key(asked, target) if self._key is not None else b""

    def of(self, key: bytes) -> Forward:
        """Whose a key is."""
        best, least = None, math.inf
        for prepared, weight, forward in self._hashes:
            hashed = prepared.copy()
            hashed.update(key)
            number = -math.log((int.from_bytes(hashed.digest(), "big") + 0.5) / (1 << _BITS)) / weight
            if number < least:
                best, least = forward, number
        assert best is not None, "some weight is more than 0"
        return best

    def next(self) -> Forward:
        """Whose turn it is."""
        self._turn = (self._turn + 1) % len(self._forwards)
        return self._forwards[self._turn]

    def next_of(self, some: Sequence[Forward]) -> Forward:
        """The next one that is among these; they keep their proportions."""
        if len(some) == 1:
            return some[0]
        return next((each for each in (self.next() for _ in self._forwards) if each in some), some[0])


def split_of(forwards: Iterable[Forward], shares: Sequence[Share], by: str) -> Split:
    """The split of a rule."""
    return Split((Part(forward, share) for forward, share in zip(forwards, shares, strict=True)), by)


def _listed(
    parts: Iterable[tuple[Forward, tuple[tuple[bytes, Wanted], ...]]],
) -> tuple[tuple[Forward, bytes, Wanted], ...]:
    return tuple((forward, name, values) for forward, each in parts for name, values in each)
