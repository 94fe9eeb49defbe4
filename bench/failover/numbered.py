"""Numbered messages and who has lost some: what the two ends of a flow check, without sockets or clocks.

A message is its flow's number and its own, eight bytes, said eight times over; the answer is the same read backwards.
So either end can tell a byte that is wrong, a message that is missing or comes twice, and one of another flow. Of
datagrams some may be missing; the answer begins with the number of the server, which must stay the same.

A *gap* is what a user would notice. Of a connection: the longest that an answer took; TCP sends lost segments again
after 200 ms at the earliest, which is part of it. Of datagrams: from the last one that was answered to the next, as
sent; the interval between two is part of it. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Member = TypeVar("Member")

_HEAD = struct.Struct("!II")
_TIMES = 8
MESSAGE_BYTES = _HEAD.size * _TIMES
UNANSWERED_MOST = 64  # messages of one connection: what it cannot get rid of does not pile up


class WrongError(Exception):
    """What has come is not what the other end has to send next."""


def message(flow: int, number: int) -> bytes:
    return _HEAD.pack(flow, number) * _TIMES


def answer(data: bytes) -> bytes:
    return data[::-1]


def parse(data: bytes) -> tuple[int, int]:
    """Flow and number of a message. Raises WrongError unless every byte is right."""
    head = data[: _HEAD.size]
    if len(data) != MESSAGE_BYTES or head * _TIMES != data:
        raise WrongError(f"no message: {data!r}")
    flow, number = _HEAD.unpack(head)
    return flow, number


@dataclass(slots=True)
class Served:
    """A connection as its server sees it: whole messages of one flow, from 0 on, none missing."""

    flow: int | None = None
    expected: int = 0
    _rest: bytes = b""

    def receive(self, data: bytes) -> bytes:
        """The answers to what is complete. Raises WrongError."""
        data = self._rest + data
        whole = len(data) - len(data) % MESSAGE_BYTES
        self._rest = data[whole:]
        answers = []
        for at in range(0, whole, MESSAGE_BYTES):
            piece = data[at : at + MESSAGE_BYTES]
            flow, number = parse(piece)
            if number != self.expected or flow != (flow if self.flow is None else self.flow):
                raise WrongError(f"message {number} of flow {flow}, not {self.expected} of {self.flow}")
            self.flow = flow
            self.expected += 1
            answers.append(answer(piece))
        return b"".join(answers)


@dataclass(slots=True)
class Connection:
    """A connection as its client sees it."""

    flow: int
    sent: int = 0
    messages: int = 0  # answered
    longest_s: float = 0.0
    _waiting: deque[float] = field(default_factory=deque)  # when those were sent that have no answer yet
    _rest: bytes = b""

    def send(self, now: float) -> bytes:
        """The next message; none while too many are unanswered."""
        if len(self._waiting) >= UNANSWERED_MOST:
            return b""
        self._waiting.append(now)
        self.sent += 1
        return message(self.flow, self.sent - 1)

    def receive(self, data: bytes, now: float) -> None:
        """Raises WrongError."""
        data = self._rest + data
        while len(data) >= MESSAGE_BYTES:
            if not self._waiting:
                raise WrongError("an answer to nothing")
            if data[:MESSAGE_BYTES] != answer(message(self.flow, self.sent - len(self._waiting))):
                raise WrongError(f"not the answer to message {self.sent - len(self._waiting)} of flow {self.flow}")
            data = data[MESSAGE_BYTES:]
            self.longest_s = max(self.longest_s, now - self._waiting.popleft())
            self.messages += 1
        self._rest = data

    def begin(self) -> None:
        """What was before does not count any more."""
        self.longest_s = 0.0
        self.messages = 0

    def answered(self) -> int:
        return self.sent - len(self._waiting)


@dataclass(slots=True)
class Datagrams:
    """A flow of datagrams as its client sees it."""

    flow: int
    server: int | None = None
    moved: bool = False
    _first: int = 0  # the number of the first that counts
    _sent: list[float] = field(default_factory=list)
    _answered: bytearray = field(default_factory=bytearray)

    def send(self, now: float) -> bytes:
        self._sent.append(now)
        self._answered.append(0)
        return message(self.flow, self._first + len(self._sent) - 1)

    def receive(self, data: bytes) -> None:
        """Raises WrongError."""
        flow, number = parse(answer(data[1:]))
        if flow != self.flow or number >= self._first + len(self._sent):
            raise WrongError(f"an answer to {number} of flow {flow}, got by {self.flow}")
        if self.server not in (None, data[0]):
            self.moved = True
        self.server = data[0]
        if number >= self._first:
            self._answered[number - self._first] = 1

    def begin(self) -> None:
        """What was sent before does not count any more."""
        self._first += len(self._sent)
        self._sent.clear()
        self._answered.clear()
        self.moved = False

    def count(self, until: float) -> tuple[int, int, float]:
        """How many were sent before `until`, how many of those are lost, and the longest gap in seconds. A gap that is
        still open lasts until then."""
        end = bisect_left(self._sent, until)
        lost = end - sum(self._answered[:end])
        gap, before = 0.0, None
        for at in range(end):
            if self._answered[at]:
                if before is not None and at - before > 1:
                    gap = max(gap, self._sent[at] - self._sent[before])
                before = at
        if lost and not self._answered[end - 1]:
            gap = max(gap, until - self._sent[before or 0])
        return end, lost, gap


class Wheel(Generic[Member]):
    """Whose turn it is: each member once in a period, evenly spread. Turns that were missed are not made up for, beyond
    `burst` of them."""

    def __init__(self, period_s: float, burst: int) -> None:
        self.members: list[Member] = []
        self._period_s = period_s
        self._burst = burst
        self._next = 0
        self.due_at = 0.0

    def turns(self, now: float) -> Iterator[Member]:
        """The members whose turn has come."""
        if not self.members:
            self.due_at = now + self._period_s
            return
        step_s = self._period_s / len(self.members)
        turns = int((now - self.due_at) / step_s) + 1 if now >= self.due_at else 0
        if turns > self._burst:
            turns = self._burst
            self.due_at = now
        else:
            self.due_at += turns * step_s
        for _ in range(turns):
            self._next = (self._next + 1) % len(self.members)
            yield self.members[self._next]


@dataclass(frozen=True, slots=True)
class Spread:
    """How something is distributed over flows, in ms."""

    least: float
    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of nothing: zeros."""
        ms = [round(1000 * each, 1) for each in sorted(seconds)] or [0.0]
        return cls(ms[0], ms[len(ms) // 2], ms[min(len(ms) - 1, len(ms) * 99 // 100)], ms[-1])

    def __str__(self) -> str:
        return f"min {self.least:.0f}, median {self.median:.0f}, p99 {self.p99:.0f}, max {self.most:.0f} ms"


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Short connections that began one after the other: how many went well, only when tried again, or not at all."""

    well: int = 0
    again: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What has happened in one window. `lost`: connections by service and what became of them. `moved`: flows of
    datagrams that another server has answered. `waits` and `gaps`: the longest of each connection, and of each flow.
    `sent_again`: segments, by either end; a machine that stands still for 200 ms has some without any loss."""

    seconds: float
    connections: int
    lost: dict[str, int]
    messages: int
    waits: Spread
    flows: int
    moved: int
    datagrams: int
    datagrams_lost: int
    gaps: Spread
    newcomers: Newcomers
    sent_again: int

    def __str__(self) -> str:
        lost = ", ".join(f"{count} {why}" for why, count in self.lost.items()) or "none"
        return (
            f"{self.seconds:.1f} s: {self.connections} connections, lost: {lost}; {self.messages} messages, "
            f"{self.sent_again} segments sent again, "
            f"{self.waits}; {self.flows} flows, {self.moved} moved; {self.datagrams_lost} of {self.datagrams} datagrams"
            f" lost, {self.gaps}; newcomers: {self.newcomers.well} well, {self.newcomers.again} when tried again, "
            f"{self.newcomers.failed} failed"
        )
