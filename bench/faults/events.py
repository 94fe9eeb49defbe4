"""What the load has seen, one event an attempt, and what that says of a stretch of time. Pure.

An attempt is one message of a connection, one datagram, one request, one handshake with its request. It has begun at a
moment and ended at another, well or not. A *gap* is the longest time in which no attempt of a kind of traffic ended
well. All times are seconds of the machine's monotonic clock, which its processes share.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise


class Traffic(StrEnum):
    """Kinds of traffic, and what an attempt of each is."""

    TCP = "tcp"  # a message on an old connection through L4 alone, and its answer
    TCP_NEW = "tcp-new"  # a connection through L4 alone, with one message
    UDP = "udp"  # a datagram and its answer
    HTTP = "http"  # a request, most on kept connections
    DOWNLOAD = "download"  # a request whose answer takes seconds
    TLS_NEW = "tls-new"  # a connection, a full handshake, a request
    TLS_RESUMED = "tls-resumed"  # a connection, a handshake by a ticket, a request
    API = "api"  # a change of the configuration


LOST = {Traffic.TCP: "connections", Traffic.TCP_NEW: "connections", Traffic.UDP: "datagrams", Traffic.HTTP: "requests",
        Traffic.DOWNLOAD: "downloads", Traffic.TLS_NEW: "handshakes or requests",
        Traffic.TLS_RESUMED: "handshakes or requests", Traffic.API: "changes not acknowledged"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """`why`: empty if it went well. `flow`: which connection or client. `who` has answered."""

    traffic: Traffic
    listener: str
    began: float
    ended: float
    why: str = ""
    flow: str = ""
    who: str = ""


class Record:
    """The events of a whole campaign, by kind of traffic."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events: dict[Traffic, list[Event]] = {traffic: [] for traffic in Traffic}
        for event in events:
            self._events[event.traffic].append(event)
        self._well: dict[Traffic, list[float]] = {}
        self._failed: dict[Traffic, list[Event]] = {}
        for traffic, of in self._events.items():
            self._well[traffic] = sorted(event.ended for event in of if not event.why)
            self._failed[traffic] = sorted((event for event in of if event.why), key=lambda event: event.began)

    def of(self, traffic: Traffic) -> Sequence[Event]:
        return self._events[traffic]

    def failed(self, traffic: Traffic, since: float, until: float) -> list[Event]:
        """Those that failed and were under way at some time from `since` to `until`."""
        return [event for event in self._failed[traffic] if event.began <= until and event.ended >= since]

    def outside(self, traffic: Traffic, windows: Sequence[tuple[float, float]]) -> list[Event]:
        """Those that failed and were under way in none of the windows."""
        return [
            event
            for event in self._failed[traffic]
            if not any(event.began <= until and event.ended >= since for since, until in windows)
        ]

    def gap_s(self, traffic: Traffic, since: float, until: float) -> float:
        """The longest time without success that overlaps the window: from the last success before it, to the first
        after it. 0 if there is no such traffic."""
        well = self._well[traffic]
        if not well:
            return 0.0
        first = max(0, bisect_right(well, since) - 1)
        last = min(len(well) - 1, bisect_left(well, until))
        times = well[first : last + 1]
        if well[-1] < until:  # it never went well again
            times.append(until)
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def attempts(self, traffic: Traffic) -> tuple[int, int]:
        """How many there were, how many failed."""
        return len(self._events[traffic]), len(self._failed[traffic])


def reasons(events: Iterable[Event]) -> dict[str, int]:
    """How often each reason, most often first."""
    return dict(Counter(event.why for event in events).most_common())
