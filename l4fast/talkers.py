"""Which clients, servers and sessions send most through a node, found by the sweep that ages sessions.

While somebody asks, each block that the sweep reads is looked at here as well. What a session has sent is how far its
counters have moved since the sweep before: nothing is known before the second sweep, and what is told is of a whole
one, a second in a small table, twelve in one of a million sessions. Only sessions that packets have met on this node
are counted, so that nodes add up.

Bounded: LOOKED_MOST sessions are followed. Beyond that one in 2, 4 … SHARE_MOST is, chosen by bits of the client's
port, and stands for the others: amounts of clients and servers are then estimates, and of sessions some are not seen.
"""

from __future__ import annotations

import ctypes as ct
import heapq
import struct
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from socket import ntohs
from typing import Any, Final

from core.endpoints import endpoint
from core.talkers import ASKED_S, TOLD_MOST
from l4fast.addresses import text_of
from l4fast.sessions import ANSWER, STATES
from l4fast.version_tables import PROTOCOLS

LOOKED_MOST: Final = 1 << 14  # some 6 MB, and 4 % of a core where a sweep takes a second
SHARE_MOST: Final = 64
BY: Final = ("client", "server", "flow")
_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_PACKETS: Final = (1 << 32) - 1  # a session's bytes and packets as one number: bytes << 32 | packets


class Talkers:
    """`clock` is monotonic. Keys tell IP versions apart by their length."""

    def __init__(self, clock: Callable[[], float], looked_most: int = LOOKED_MOST) -> None:
        self.on = False
        self._clock = clock
        self._looked_most = looked_most
        self._until = float("-inf")
        self._key_types: dict[int, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self.on, self._share, self._begun = False, 1, 0.0
        self._whole = False  # the sweep under way has been seen from its beginning
        self._before: dict[bytes, int] | None = None
        self._told: dict[str, Any] = {}
        self._start()

    def _start(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._flows: dict[bytes, tuple[int, int, bytes]] = {}  # bytes, packets, server
        self._clients: dict[bytes, list[int]] = {}  # bytes, packets, sessions
        self._servers: dict[bytes, list[int]] = {}
        self._states: Counter[tuple[str, int]] = Counter()

    def ask(self, arguments: Mapping[str, object]) -> object:
        """A question: `by` client, server or flow. The last whole sweep's; before there is one, `ready` is false."""
        by = arguments.get("by", BY[0])
        if by not in BY:
            raise ValueError(f"by is one of {', '.join(BY)}")
        self._until = self._clock() + ASKED_S
        self.on = True
        if not self._told:
            return {"ready": False}
        common = {name: self._told[name] for name in ("window_s", "share", "sessions")}
        return {"ready": True, **common, "talkers": self._told[str(by)]}

    # The sweep

    def begin(self) -> None:
        """A sweep begins."""
        if self._clock() >= self._until:
            self._reset()
        self._whole = self.on

    def see(self, key_type: Any, value_type: Any, keys: bytes, values: bytes, rows: Any) -> None:
        """A block. `rows` has the columns `state` and `generation`, and gives `ports` and `amounts`."""
        if not self._whole:
            return
        wanted: list[bool] = [
            bool(met) and state != ANSWER for met, state in zip(rows.generation, rows.state, strict=True)
        ]
        if mask := self._share - 1:
            wanted = [each and not (port >> 10) & mask for each, port in zip(wanted, rows.ports(), strict=True)]
        key_size, value_size, parts = ct.sizeof(key_type), ct.sizeof(value_type), _Parts(key_type, value_type)
        self._key_types[key_size] = key_type
        while len(self._seen) > 2 * self._looked_most and self._share < SHARE_MOST:
            self._halve()
        before, sums = self._before, rows.amounts()
        for row in compress(range(len(wanted)), wanted):
            key, amount = keys[row * key_size : (row + 1) * key_size], sums[0][row] << 32 | sums[1][row]
            self._seen[key] = amount
            if before is None:
                continue
            was = before.get(key, 0)
            moved, packets = max(0, (amount >> 32) - (was >> 32)), (amount - was) & _PACKETS
            server = parts.server(values, row * value_size)
            _add(self._clients, parts.client(key), moved, packets)
            _add(self._servers, server, moved, packets)
            if packets:
                self._flows[key] = moved, packets, server

    def _halve(self) -> None:
        """There are more sessions than had been thought: follow half of them, from now on."""
        self._share *= 2
        seen = self._seen
        self._before, states = None, self._states
        self._start()
        self._states = states
        for key, amount in seen.items():
            port = self._key_types[len(key)].client_port.offset
            if not (int.from_bytes(key[port : port + 2], sys.byteorder) >> 10) & (self._share - 1):
                self._seen[key] = amount

    def count(self, counts: Mapping[tuple[str, int], int]) -> None:
        """Sessions of a block by listener and state."""
        if self._whole:
            self._states.update(counts)

    def end(self) -> None:
        """The sweep is over: publish it, and choose how many are followed from now on."""
        if not self._whole:
            return
        now = self._clock()
        if self._before is not None:
            self._told = self._published(max(now - self._begun, 0.001))
        share, looked = self._share, len(self._seen)
        while looked > self._looked_most and share < SHARE_MOST:
            share, looked = share * 2, looked // 2
        while share > 1 and looked < self._looked_most // 4:
            share, looked = share // 2, looked * 2
        self._before = self._seen if share == self._share else None
        self._share, self._begun, self._whole = share, now, False
        self._start()

    def _published(self, seconds: float) -> dict[str, Any]:
        def rates(moved: int, packets: int, of: int) -> dict[str, float]:
            names = {"bytes_in_per_s": moved, "packets_in_per_s": packets}
            return {name: round(of * amount / seconds, 3) for name, amount in names.items()}

        def rows(
            name: str, found: Mapping[bytes, Sequence[int]], shown: Callable[[bytes], str]
        ) -> list[dict[str, Any]]:
            return [
                {name: shown(raw), **rates(moved, packets, self._share), "sessions": sessions * self._share}
                for raw, (moved, packets, sessions) in _top(found)
            ]

        return {
            "window_s": round(seconds, 3),
            "share": self._share,
            "sessions": [
                {"listener": listener, "state": STATES[state], "sessions": count}
                for (listener, state), count in sorted(self._states.items())
            ],
            "client": rows("client", self._clients, text_of),
            "server": rows("server", self._servers, _server),
            "flow": [
                {**self._flow(raw), "server": _server(server), **rates(moved, packets, 1)}
                for raw, (moved, packets, server) in _top(self._flows)
            ],
        }

    def _flow(self, raw: bytes) -> dict[str, str]:
        key = self._key_types[len(raw)].from_buffer_copy(raw)
        return {
            "client": endpoint(text_of(bytes(key.client)), ntohs(key.client_port)),
            "vip": endpoint(text_of(bytes(key.vip)), ntohs(key.vip_port)),
            "protocol": _NAMES[key.protocol],
        }


class _Parts:
    """Where client and server stand."""

    def __init__(self, key_type: Any, value_type: Any) -> None:
        self._client = _slice(key_type.client)
        self._real, self._port = value_type.real, value_type.real_port

    def client(self, key: bytes) -> bytes:
        return key[self._client]

    def server(self, values: bytes, at: int) -> bytes:
        """Address and port, in wire order."""
        real, port = at + self._real.offset, at + self._port.offset
        return values[real : real + self._real.size] + values[port : port + self._port.size]


def _slice(field: Any) -> slice:
    return slice(field.offset, field.offset + field.size)


def _add(rows: dict[bytes, list[int]], name: bytes, moved: int, packets: int) -> None:
    row = rows.get(name)
    if row is None:
        rows[name] = [moved, packets, 1]
    else:
        row[0] += moved
        row[1] += packets
        row[2] += 1


def _top(rows: Mapping[bytes, Any]) -> list[tuple[bytes, Any]]:
    return heapq.nlargest(TOLD_MOST, rows.items(), key=lambda row: row[1][:2])


def _server(raw: bytes) -> str:
    return endpoint(text_of(raw[:-2]), struct.unpack("!H", raw[-2:])[0])
