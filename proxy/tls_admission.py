"""Which handshakes may begin, how long they may take, and who gives way when there are too many. Pure.

A handshake costs the node half a millisecond and the key server a signature, and the client next to nothing. So:

* A client (an IPv4 address, or the /64 of an IPv6 one) has so many handshakes at a time. One that fails by the client's
  doing keeps its place until it would have timed out: whoever begins handshakes and drops them begins no more than
  `per_client` in `timeout_s`, however fast he drops them.
* A worker has so many. When all places are taken, the oldest handshake that waits for its client gives way: honest
  clients answer within a round trip, those of a flood never. Only if all of the oldest wait for the key server, whose
  work would be lost, is the new one refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import islice
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

LOOKED_AT: Final = 32  # of the oldest, for one that may give way
# Places kept for handshakes that failed: so many that a flood from everywhere costs 10 MiB, not all memory.
MOST_KEPT: Final = 65_536


@dataclass(frozen=True, slots=True)
class Terms:
    """What a listener grants. `per_client`: handshakes at a time, 0 for any number; `exempt`: who has no such limit."""

    timeout_s: float = 10.0
    per_client: int = 1024
    exempt: tuple[IPv4Network | IPv6Network, ...] = ()


def client_of(address: str, terms: Terms) -> str:
    """Whose limit a handshake from this address counts towards; "" for nobody's."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if not terms.per_client or any(ip in network for network in terms.exempt):
        return ""
    return str(IPv6Network((int(ip) >> 64 << 64, 64))) if isinstance(ip, IPv6Address) else str(ip)


class Clients:
    """How many places each client holds. `now` is monotonic seconds and never goes back."""

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self._places: dict[str, int] = {}
        self._kept: deque[tuple[float, str]] = deque()
        self._most_kept = most_kept

    def take(self, client: str, limit: int, now: float) -> bool:
        """A place for a client, if it has fewer than `limit`."""
        while self._kept and self._kept[0][0] <= now:
            self.give_back(self._kept.popleft()[1])
        places = self._places.get(client, 0)
        if places >= limit:
            return False
        self._places[client] = places + 1
        return True

    def give_back(self, client: str) -> None:
        places = self._places[client] - 1
        if places:
            self._places[client] = places
        else:
            del self._places[client]

    def keep(self, client: str, until: float) -> None:
        """A place stays taken until then; with timeouts that differ, until a little later. The oldest gives way."""
        self._kept.append((until, client))
        if len(self._kept) > self._most_kept:
            self.give_back(self._kept.popleft()[1])

    def __len__(self) -> int:
        return len(self._places)


class InFlight(Generic[T]):
    """What is under way, in the order in which it began, and when each is due."""

    def __init__(self) -> None:
        self._timeouts: dict[T, float] = {}
        self._deadlines: dict[float, dict[T, float]] = {}  # by timeout: within one, deadlines are in order

    def add(self, item: T, timeout_s: float, now: float) -> None:
        self._timeouts[item] = timeout_s
        self._deadlines.setdefault(timeout_s, {})[item] = now + timeout_s

    def remove(self, item: T) -> float:
        """The deadline that it had."""
        timeout_s = self._timeouts.pop(item)
        group = self._deadlines[timeout_s]
        deadline = group.pop(item)
        if not group:
            del self._deadlines[timeout_s]
        return deadline

    def due(self, now: float) -> list[T]:
        """Those whose time is over. The caller removes them."""
        found = []
        for group in self._deadlines.values():
            for item, deadline in group.items():
                if deadline > now:
                    break
                found.append(item)
        return found

    def again(self, item: T, now: float) -> None:
        """It has its whole time again."""
        timeout_s = self._timeouts[item]
        self.remove(item)
        self.add(item, timeout_s, now)

    @property
    def next_due(self) -> float | None:
        """The first deadline; None if nothing is under way."""
        return min((next(iter(group.values())) for group in self._deadlines.values()), default=None)

    def oldest(self, wanted: Callable[[T], bool]) -> T | None:
        """The oldest that is wanted, of the LOOKED_AT oldest."""
        return next(filter(wanted, islice(self._timeouts, LOOKED_AT)), None)

    def all(self) -> list[T]:
        return list(self._timeouts)

    def __len__(self) -> int:
        return len(self._timeouts)


class Turns(Generic[T]):
    """Who may begin in this turn of the event loop: a few, so that established connections get theirs in between.

    The rest wait in line, the first first. The line is short, so that whoever comes through it has not waited long:
    when it is full, the first in it leaves. The caller calls `next_turn` once in each turn in which it has taken part.
    """

    def __init__(self, a_turn: int, most_waiting: int) -> None:
        self._a_turn = a_turn
        self._left = a_turn
        self._waiting: deque[T] = deque()
        self._most_waiting = most_waiting

    def take(self, item: T) -> bool:
        """Whether it may begin at once; else it waits in line, and `leaver` may have to leave."""
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting.append(item)
        return False

    def leaver(self) -> T | None:
        """Whoever has to leave a line that is too long."""
        return self._waiting.popleft() if len(self._waiting) > self._most_waiting else None

    def next_turn(self) -> list[T]:
        """Those whose turn it is now. Whoever has left meanwhile is among them."""
        chosen = [self._waiting.popleft() for _ in range(min(self._a_turn, len(self._waiting)))]
        self._left = self._a_turn - len(chosen)
        return chosen

    def __len__(self) -> int:
        return len(self._waiting)
