"""Sequence numbers: which of a peer's have been seen and which are missed, and our own datagrams for peers that miss
one.

A number that is skipped is *missing*: the peer is asked for it after `RESEND_DELAY_S`, for datagrams overtake one
another, and again every `RESEND_RETRY_S`, `RESEND_TRIES` times in all. What has not come by then, or has fallen out of
the window, is *lost* and not taken any more. What matters is each number's own time: under a constant loss there is
always one that has only just been missed. Of a gap wider than GAP_MOST nothing is asked for: a snapshot is cheaper.

Memory: a number for each that is missing, at most WINDOW; `limit` datagrams of our own (12 MB with 8,192).
"""

from __future__ import annotations

from typing import Final

RESEND_DELAY_S: Final = 0.02
RESEND_RETRY_S: Final = 0.1
# With one datagram in five lost, and with it one request and one repeat, one in 4,000 is lost after six tries.
RESEND_TRIES: Final = 6
# Sequence numbers; IPsec's default is 64 (RFC 4303, 3.4.3). A sender on one core at its fastest makes so many in 40 ms.
WINDOW: Final = 8192
GAP_MOST: Final = 4096


class Window:
    """Which numbers of one sender have been seen: all up to `highest` that are not missing."""

    __slots__ = ("_missing", "highest", "lost")

    def __init__(self, first: int) -> None:
        """What came before the first is not ours to miss, nor to accept."""
        self.highest = first
        self.lost = 0
        self._missing: dict[int, tuple[float, int]] = {}  # number → when to ask for it, how often that was done

    def fresh(self, sequence: int) -> bool:
        """Whether this number has not been seen and may still be taken."""
        return sequence > self.highest or sequence in self._missing

    def mark(self, sequence: int, now: float) -> int:
        """Takes a fresh number; returns how many are newly missing (0 for one that fills a gap)."""
        if sequence <= self.highest:
            del self._missing[sequence]
            return 0
        first, self.highest = self.highest + 1, sequence
        skipped = sequence - first
        if skipped > GAP_MOST:
            self.lost += skipped
        elif skipped:
            self._missing.update(dict.fromkeys(range(first, sequence), (now + RESEND_DELAY_S, 0)))
        if self._missing:
            self._forget_old()
        return skipped

    def _forget_old(self) -> None:
        oldest = self.highest - WINDOW
        while self._missing and (number := next(iter(self._missing))) <= oldest:
            del self._missing[number]
            self.lost += 1

    def missing(self) -> int:
        return len(self._missing)

    def next_ask(self) -> float | None:
        """When something is to be asked for."""
        return min((due for due, _ in self._missing.values()), default=None)

    def ask(self, now: float, most: int) -> list[tuple[int, int]]:
        """Up to `most` ranges, inclusive, the oldest first, of what is to be asked for now; it counts as asked for.

        What has been asked for often enough is given up.
        """
        ranges: list[tuple[int, int]] = []
        for number, (due, tries) in list(self._missing.items()):
            if due > now:
                continue
            if tries >= RESEND_TRIES:
                del self._missing[number]
                self.lost += 1
                continue
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1] = (ranges[-1][0], number)
            elif len(ranges) < most:
                ranges.append((number, number))
            else:
                break
            self._missing[number] = (now + RESEND_RETRY_S, tries + 1)
        return ranges

    def give_up(self) -> None:
        """What is missing now is lost."""
        self.lost += len(self._missing)
        self._missing.clear()


class History:
    """Our last datagrams by sequence number, which are added in turn, for peers that missed one."""

    __slots__ = ("_datagrams", "_last", "_limit", "_not_before")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last = 0
        self._datagrams: list[bytes] = [b""] * limit
        self._not_before = [0.0] * limit  # when each may be sent again

    def add(self, sequence: int, datagram: bytes) -> None:
        self._last = sequence
        self._datagrams[sequence % self._limit] = datagram
        self._not_before[sequence % self._limit] = 0.0

    def again(self, sequence: int, now: float) -> bytes | None:
        """The datagram, unless it is too old or has just been sent again for another peer."""
        place = sequence % self._limit
        if not max(0, self._last - self._limit) < sequence <= self._last or now < self._not_before[place]:
            return None
        self._not_before[place] = now + RESEND_RETRY_S / 2
        return self._datagrams[place]
