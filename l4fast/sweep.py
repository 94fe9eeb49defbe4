"""What a sweep over the sessions keeps from one call to the next (pure; `expiry` reads and deletes).

Kinds. Sessions that agree in a few numbers, their mark, have one owner and one timeout. The first of a kind is judged
by all that its entry says, the others are told by their mark, which is what makes a sweep fast. Kinds are forgotten
when the configuration changes. What has to be judged each time, such as a session that no listener here has, is of
KIND_NONE.

Due. A sweep comes by every second in a small table, every twelve in one of a million sessions. What will have been idle
long enough before it comes by again is put down under that second, and goes then if nothing has happened to it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_

Block = tuple[int, bytes, bytes, int]  # IP version, keys, values, count
Mark = tuple[int, ...]
# Whose a session is: a listener's name and "address:port" of its server, which is empty until a packet came by here.
Owner = tuple[str, str]
NOBODY: Owner = ("", "")

KIND_NONE = 0
# About 50 MB of memory. Sessions that find no room here wait for the sweep.
DUE_MOST = 1 << 18
# How far ahead a sweep looks when the one before was held up.
PERIOD_MOST_S = 30
# The longest idle time of a session, after which none is left of before a pause.
PAUSE_MOST_S = 900
_ALWAYS = 1 << 40  # later than any second


class _Numbers(dict[Mark, int]):
    def __missing__(self, mark: Mark) -> int:
        return KIND_NONE


class Kinds:
    """Kinds of sessions by number: `owners`, `timeouts`."""

    def __init__(self) -> None:
        self.owners = [NOBODY]
        self.timeouts = [0]
        self._marks: dict[Hashable, _Numbers] = defaultdict(_Numbers)
        self._numbers: dict[tuple[Owner, int], int] = {}
        self._limits: tuple[int, list[int]] = (0, [])

    def numbers(self, of: Hashable) -> Mapping[Mark, int]:
        """By mark, of one sort of marks; KIND_NONE for those that are not known."""
        return self._marks[of]

    def learn(self, of: Hashable, mark: Mark, owner: Owner, timeout_s: int) -> None:
        number = self._numbers.setdefault((owner, timeout_s), len(self.timeouts))
        if number == len(self.timeouts):
            self.owners.append(owner)
            self.timeouts.append(timeout_s)
        self._marks[of][mark] = number

    def limits(self, by_s: int) -> list[int]:
        """By kind: whose last packet came then or before will have been idle long enough at `by_s`."""
        if self._limits[0] != by_s or len(self._limits[1]) != len(self.timeouts):
            self._limits = by_s, [_ALWAYS, *(by_s - timeout_s for timeout_s in self.timeouts[1:])]
        return self._limits[1]


@dataclass(frozen=True, slots=True)
class Seen:
    """A session as it was read. When it ends, it does so only if it is still the same."""

    version: int
    key: bytes
    last_s: int
    state: int


class Due:
    """Sessions by the second in which they will have been idle long enough; at most `most`."""

    def __init__(self, most: int = DUE_MOST) -> None:
        self._most = most
        self._count = 0
        self._by_second: dict[int, list[Seen]] = defaultdict(list)

    def put(self, second: int, seen: Seen) -> None:
        if self._count < self._most:
            self._by_second[second].append(seen)
            self._count += 1

    def take(self, now_s: int, most: int) -> list[Seen]:
        """Up to `most` of those whose second has come, the oldest first."""
        taken: list[Seen] = []
        for second in sorted(second for second in self._by_second if second <= now_s):
            here = self._by_second[second]
            room = most - len(taken)
            taken += here[:room]
            if len(here) > room:
                del here[:room]
                break
            del self._by_second[second]
        self._count -= len(taken)
        return taken


@dataclass(frozen=True, slots=True)
class Listener:
    """What decides about a listener's sessions."""

    name: str
    stateless: bool  # its sessions are of the time before it became so
    counted: bool  # its reals' connections are
    timeouts: tuple[int, ...]  # by state
    reals: frozenset[bytes]  # address and port, as a session has them


@dataclass(slots=True)
class Pause:
    """Packets that came after `from_s`, for `gap_s` seconds, left no trace: there was no agent to set the clock. That
    time does not count for sessions whose last packet seems to have come before."""

    from_s: int = 0
    gap_s: int = 0

    def without(self, last_s: Sequence[int]) -> Sequence[int]:
        """When the last packets came at the latest."""
        if not self.gap_s:
            return last_s
        return [second + self.gap_s if second <= self.from_s else second for second in last_s]


@dataclass(slots=True)
class Sweep:
    """Where the walk over the sessions stands, and how many it has left: by owner, and entries by IP version."""

    blocks: Iterator[Block] | None = None
    counts: Counter[Owner] = field(default_factory=Counter)
    last_counts: Mapping[str, int] = field(default_factory=dict)  # by listener
    last_servers: Mapping[Owner, int] = field(default_factory=dict)  # of those that packets have met here
    entries: Counter[int] = field(default_factory=Counter)
    last_entries: Mapping[int, int] = field(default_factory=dict)
    configuration: Sequence[object] = ()  # of which the listeners and the kinds are
    listeners: Mapping[bytes, Listener] = field(default_factory=dict)  # by their part of a session's key
    kinds: Kinds = field(default_factory=Kinds)
    due: Due = field(default_factory=Due)
    begun_s: int = 0
    paused: Pause = field(default_factory=Pause)
    period_s: int = 1  # after which, presumably, the sweep will come by again

    def is_of(self, configuration: Sequence[object]) -> bool:
        return len(configuration) == len(self.configuration) and all(map(is_, configuration, self.configuration))

    def follow(self, configuration: Sequence[object], listeners: Mapping[bytes, Listener]) -> None:
        self.configuration, self.listeners, self.kinds = configuration, listeners, Kinds()

    def begin(self, blocks: Iterator[Block], now_s: int) -> None:
        self.period_s = min(max(now_s - self.begun_s, 1), PERIOD_MOST_S)
        self.begun_s, self.blocks = now_s, blocks
        if now_s > self.paused.from_s + self.paused.gap_s + PAUSE_MOST_S:
            self.paused = Pause()
        self.entries.clear()

    def end(self) -> None:
        """Publishes the counts."""
        listeners: Counter[str] = Counter()
        for (listener, _), n in self.counts.items():
            if listener:
                listeners[listener] += n
        self.last_counts, self.blocks = dict(listeners), None
        self.last_servers = {owner: n for owner, n in self.counts.items() if owner[1]}
        self.last_entries = dict(self.entries)
        self.counts.clear()
