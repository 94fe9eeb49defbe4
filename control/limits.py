"""How much one token or one address may ask of the users' API: buckets that fill with time, and places. Pure.

A bucket holds `burst` requests and is filled with `rate_per_s`; what finds it empty is told how long to wait. Only keys
that have asked lately are held, `size` at most: the one that has not asked for longest is forgotten, which can only be
to its good. `now` is monotonic time in seconds.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager


class Buckets:
    """A bucket for each key."""

    def __init__(self, rate_per_s: float, burst: float, size: int) -> None:
        assert rate_per_s > 0
        assert burst >= 1
        self._rate_per_s, self._burst, self._size = rate_per_s, burst, size
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when that was so

    def take(self, key: str, now: float) -> float:
        """0 where the key may ask; else the seconds until it may."""
        left, at = self._level.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate_per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._rate_per_s
        self._level[key] = (left - 1 if left >= 1 else left, now)
        if len(self._level) > self._size:
            self._level.popitem(last=False)
        return wait_s

    def __len__(self) -> int:
        return len(self._level)


class Full(Exception):
    """There is no place; `alone`: because of what the key itself is doing."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.alone = alone


class Places:
    """How many requests are being served at a time: in all, and for one key."""

    def __init__(self, limit: int, limit_each: int) -> None:
        self._limit, self._limit_each = limit, limit_each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Have a place while the context lasts. Raises Full."""
        if self._taken[key] >= self._limit_each:
            raise Full(alone=True)
        if self._taken.total() >= self._limit:
            raise Full(alone=False)
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]

    def __len__(self) -> int:
        return self._taken.total()


def source_of(address: str | None) -> str:
    """Whom an address stands for: itself, or its /64, since whoever has one address of IPv6 has all of these."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "?"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed)
