"""Requests a second, which the workers of a node count together, for all or for each of many keys. Pure.

For each limit, or key of one, there is a single number: the time at which all that was let through would have come if
it had come evenly (the generic cell rate algorithm, ITU-T I.371 annex A: a leaky bucket without a clock of its own). A
request moves it on by 1/rate. One that finds it no more than `burst` - 1 requests ahead of the clock goes through;
another has to wait until then, and if that is longer than it may, nothing is moved: what is refused costs nobody
anything.

The numbers stand in memory that all workers share (`Clocks`), without locks. Two workers that move one number at the
same moment, within the half microsecond that it takes, count one request for two: below a hundredth of 10,000
requests a second. The monotonic clock is the same for all processes of a machine.

A limit of all requests has a row of its own. Keys share KEYED places, so that an attacker with millions of addresses
takes no more memory than anybody. A key has SET places where it may stand, by a keyed hash of it; when all are taken
the one gives way that would be free first, and most of those are free already: a number in the past says nothing. What
an attacker gains by driving out keys that do say something is a burst for each of them, once for each time that all
places have been filled; who comes often is not driven out, since his number is further ahead. It is counted
(`forgotten`).
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_network
from math import ceil
from typing import Final

from core.limits import nodes
from core.model import Model, Role
from proxy.demands import Rated, rates_of
from proxy.keys import Key, key_of
from proxy.ledger import ROWS
from proxy.message import Asked
from proxy.origin import Origin

SET: Final = 8
KEYED: Final = 1 << 18  # 4 MiB; pages that nobody has written take no room
HEADER_BYTES: Final = 4096
SECRET_BYTES: Final = 16
CELL_BYTES: Final = 8
MEMORY_BYTES: Final = HEADER_BYTES + (ROWS + 2 * KEYED) * CELL_BYTES
SLACK: Final = 1e-3  # of a request: who comes exactly at the rate is not refused for what rounding does


class Clocks:
    """The numbers: `times` by row and then by place, and whose the places are. `fd`: the memory, else it is our own."""

    __slots__ = ("_memory", "_secret", "_tags", "forgotten", "times")

    def __init__(self, fd: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if fd is None else fd, MEMORY_BYTES)
        if fd is None:
            self._memory[:SECRET_BYTES] = os.urandom(SECRET_BYTES)
        else:
            os.close(fd)
        self._secret = self._memory[:SECRET_BYTES]
        whole = memoryview(self._memory)
        tags_at = HEADER_BYTES + (ROWS + KEYED) * CELL_BYTES
        self.times = whole[HEADER_BYTES:tags_at].cast("d")
        self._tags = whole[tags_at:].cast("Q")
        self.forgotten = 0

    def place(self, name: bytes, value: bytes, now: float) -> int:
        """Where the number of a key stands; it has a place from now on."""
        digest = hashlib.blake2b(b"%b\0%b" % (name, value), digest_size=CELL_BYTES, key=self._secret).digest()
        tag = int.from_bytes(digest, "little") or 1
        first = tag % (KEYED // SET) * SET
        tags = self._tags[first : first + SET].tolist()
        if tag in tags:
            return ROWS + first + tags.index(tag)
        times = self.times[ROWS + first : ROWS + first + SET].tolist()
        soonest = min(times)
        at = times.index(soonest)
        self.forgotten += soonest > now
        self.times[ROWS + first + at] = 0.0
        self._tags[first + at] = tag
        return ROWS + first + at


def memory() -> int:
    """A descriptor of memory for the workers of a node."""
    fd = os.memfd_create("paifang-l7-rates")
    os.ftruncate(fd, MEMORY_BYTES)
    os.pwrite(fd, os.urandom(SECRET_BYTES), 0)
    return fd


class Rate:
    """One limit, this node's part of it. `row`: of its number; with a key it has as many as there are keys."""

    __slots__ = ("_clocks", "_depth_s", "_each_s", "_key", "_limit", "_masked", "_name", "_row", "dry_run")

    def __init__(self, clocks: Clocks, rated: Rated, row: int, parts: int) -> None:
        limit = self._limit = rated.limit
        self._clocks, self._row, self._name = clocks, row, rated.name.encode()
        self._each_s = parts / limit.rate_per_s
        burst = ceil((limit.burst or limit.rate_per_s) / parts)
        self._depth_s = (max(burst, 1) - 1 + SLACK) * self._each_s
        self._key: Key | None = key_of(limit.key) if limit.key else None
        self._masked = limit.key == "source"
        self.dry_run = limit.dry_run

    def start(self) -> None:
        """The limit is a new one: what stands in its row is another's."""
        self._clocks.times[self._row] = 0.0

    def at(self, asked: Asked, target: bytes, origin: Origin, now: float) -> int:
        """Where the number of this request stands; -1: it has none of the key."""
        limit = self._limit
        if self._masked:
            value = client_prefix(client_address(asked, origin), limit.prefix, limit.prefix_v6)
        elif self._key is None:
            return self._row
        else:
            value = self._key(asked, target)
        return self._clocks.place(self._name, value, now) if value else -1

    def wait_s(self, at: int, now: float) -> float:
        """How long a request has to wait; 0: not at all."""
        return max(self._clocks.times[at] - now - self._depth_s, 0.0)

    def take(self, at: int, now: float) -> None:
        times = self._clocks.times
        times[at] = max(times[at], now) + self._each_s

    @property
    def max_delay_s(self) -> float:
        return self._limit.max_delay_s


def client_address(asked: Asked, origin: Origin) -> bytes:
    """The client's, also where a proxy that is trusted says it (the last hop of X-Forwarded-For)."""
    if origin.trusted and (said := asked.values(b"x-forwarded-for")):
        return said[-1].rpartition(b",")[2].strip()
    return origin.client


@lru_cache(maxsize=16_384)
def client_prefix(address: bytes, prefix: int, prefix_v6: int) -> bytes:
    """What clients of one prefix have in common; what is no address is taken as it is."""
    text = address.decode("latin-1").partition("%")[0]
    try:
        return str(ip_network((text, prefix_v6 if ":" in text else prefix), strict=False)).encode()
    except ValueError:
        return address


def limits(model: Model) -> tuple[Rated, ...]:
    """All of a configuration."""
    found = [each for listener in model.listeners.values() for each in rates_of("listener", listener)]
    return (*found, *(each for rule in model.rules.values() if rule.rate_limits for each in rates_of("rule", rule)))


def names(model: Model) -> list[str]:
    """What needs a row."""
    return [rated.name for rated in limits(model) if not rated.limit.key]


class Rates:
    """The limits of a worker, by name."""

    def __init__(self, clocks: Clocks | None = None) -> None:
        self.clocks = clocks or Clocks()
        self._of: dict[str, tuple[tuple[object, ...], Rate]] = {}
        self._began = False

    def update(self, model: Model, rows: Mapping[str, int]) -> None:
        """Takes what a configuration says; numbers go on."""
        parts = nodes(model, Role.L7)
        before, self._of = self._of, {}
        for rated in limits(model):
            row = rows.get(rated.name, -1)
            made_of = rated, row, parts
            known = before.get(rated.name)
            if known is not None and known[0] == made_of:
                self._of[rated.name] = known
                continue
            rate = Rate(self.clocks, rated, row, parts)
            if row >= 0 and self._began and (known is None or known[0][1] != row):
                rate.start()
            self._of[rated.name] = made_of, rate
        self._began = True

    def take_forgotten(self) -> int:
        """How many keys that counted have lost their place since this was last asked."""
        forgotten, self.clocks.forgotten = self.clocks.forgotten, 0
        return forgotten

    def of(self, name: str) -> Rate | None:
        """None: the configuration has changed under a request."""
        found = self._of.get(name)
        return found[1] if found is not None else None
