"""Session ageing: walks the session table in batches and deletes what has been idle for its state's time.

Exact: a session goes in the second in which `now - last packet` reaches its timeout, and not before, as long as a sweep
takes no longer than the timeout itself (the shortest is 10 s); beyond that up to a sweep's time later. A session whose
listener or real has been removed goes in the next sweep; one learnt from a peer and not yet used here (generation 0)
stays its time even so, for the peers may know a newer configuration than we do.

A fullnat session takes the entry of its answers along. Such an entry goes by itself only when it has been idle for the
listener's time and its session has gone, which happens where a new connection took the session's place.

A sweep spans several calls, each of which looks at no more than its budget, so that the daemon's loop stays responsive.
The table is read by BPF_MAP_LOOKUP_BATCH, one system call a block, which is most of what a sweep costs. Columns of
numbers are taken out of the block and compared as a whole; single sessions are looked at where something is to be done.
They are deleted by the program `account`, if they still are as they were read: a packet that comes in between saves its
session.
"""

from __future__ import annotations

import ctypes as ct
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import le, not_
from socket import ntohs
from typing import Any, Literal

from core.endpoints import endpoint
from l4fast.addresses import address_bytes, text_of
from l4fast.bpf.syscall import Map
from l4fast.members import counted
from l4fast.sessions import STATES
from l4fast.sweep import KIND_NONE, NOBODY, Block, Kinds, Listener, Mark, Owner, Seen
from l4fast.tables import UNPROVEN_TIMEOUT_S, Tables, other_direction
from l4fast.talkers import Talkers
from l4fast.version_tables import PROTOCOLS

# Linux conntrack's nf_conntrack_tcp_timeout_fin_wait and _close.
FIN_WAIT_TIMEOUT_S = 120
CLOSED_TIMEOUT_S = 10
# Sessions whose listener is not known here: learnt from a peer with a newer configuration.
UNKNOWN_TIMEOUT_S = 120
BATCH = 4096

_ESTABLISHED, _UNPROVEN, _FIN_WAIT, _CLOSED, _UDP, _ANSWER = range(len(STATES))
_COUNTING = (_ESTABLISHED, _UNPROVEN, _UDP)
_WORDS: Mapping[int, Literal["H", "I", "Q"]] = {2: "H", 4: "I", 8: "Q"}


def timeouts(idle_timeout_s: int) -> tuple[int, ...]:
    """Idle seconds after which a session goes, by state; none outlives the listener's own timeout."""
    limits = {
        _ESTABLISHED: idle_timeout_s,
        _UNPROVEN: UNPROVEN_TIMEOUT_S,
        _FIN_WAIT: FIN_WAIT_TIMEOUT_S,
        _CLOSED: CLOSED_TIMEOUT_S,
        _UDP: idle_timeout_s,
        _ANSWER: idle_timeout_s,
    }
    return tuple(min(limits[state], idle_timeout_s) for state in range(len(STATES)))


def expire(tables: Tables, now_s: int, budget: int, talkers: Talkers | None = None) -> int:
    """Goes on with the sweep for about `budget` sessions, and deletes what is due; returns how many it deleted.

    `now_s` is the clock of `Tables.set_epoch`. A sweep that ends publishes the listeners' session counts; the next call
    begins anew. `talkers`, while somebody asks for them, see what the sweep sees.
    """
    if talkers is not None and not talkers.on:
        talkers = None
    sweep = tables.sweep
    configuration = [of_version.services for of_version in tables.versions.values()]
    if not sweep.is_of(configuration):
        sweep.follow(configuration, _listeners(tables))
    deleted = tables.end_sessions(sweep.due.take(now_s, budget))
    seen = 0
    while seen < budget:
        if sweep.blocks is None:
            sweep.begin(tables.session_blocks(min(BATCH, budget)), now_s)
            if talkers is not None:
                talkers.begin()
        assert sweep.blocks is not None
        block = next(sweep.blocks, None)
        if block is None:
            sweep.end()
            if talkers is not None:
                talkers.end()
            break
        seen += block[3]
        gone = _look(tables, block, now_s, talkers)
        sweep.entries[block[0]] += block[3] - len(gone)
        deleted += tables.end_sessions(gone)
    return deleted


def _listeners(tables: Tables) -> dict[bytes, Listener]:
    return {
        address_bytes(vip) + struct.pack("!HB", port, PROTOCOLS[protocol]): Listener(
            service.listener,
            service.stateless,
            counted(service),
            timeouts(service.idle_timeout_s),
            frozenset(address_bytes(real.address) + struct.pack("!H", real.port) for real in service.reals),
        )
        for of_version in tables.versions.values()
        for (vip, port, protocol), service in of_version.services.items()
    }


class _Rows:
    """A block's sessions, as columns of numbers and one by one."""

    def __init__(self, sessions: Map[Any, Any], keys: bytes, values: bytes) -> None:
        self.sessions, self._keys, self._values = sessions, keys, values
        self._key_size, self._value_size = ct.sizeof(sessions.key), ct.sizeof(sessions.value)
        (self.last_s,) = self._of_values("last_s")
        (self.state,) = self._of_values("state")
        (self.generation,) = self._of_values("generation")

    def _of_values(self, *fields: str) -> list[Sequence[int]]:
        return [column for name in fields for column in _columns(self._values, self.sessions.value, name)]

    def _of_keys(self, *fields: str) -> list[Sequence[int]]:
        return [column for name in fields for column in _columns(self._keys, self.sessions.key, name)]

    def used_marks(self) -> Iterable[Mark]:
        """Of sessions that packets have met here: a member's number belongs to it alone within a generation."""
        return zip(*self._of_values("member"), self.generation, *self._of_values("counted"), self.state, strict=True)

    def cold_marks(self, rows: Sequence[bool] = ()) -> Iterable[Mark]:
        """Of the sessions of these rows (or of all), which name their listener only by its address and port."""
        columns = [*self._of_keys("vip", "vip_port", "protocol"), *self._of_values("counted"), self.state]
        return zip(*(compress(column, rows) for column in columns) if rows else columns, strict=True)

    def ports(self) -> Sequence[int]:
        """The clients'."""
        return self._of_keys("client_port")[0]

    def amounts(self) -> list[Sequence[int]]:
        """Bytes and packets from the client."""
        return self._of_values("bytes", "packets")

    def is_cold(self, row: int) -> bool:
        return not self.generation[row]

    def mark(self, row: int) -> Mark:
        value = self._values[row * self._value_size : (row + 1) * self._value_size]
        alone = _Rows(self.sessions, self.key(row), value)
        (mark,) = alone.cold_marks([True]) if self.is_cold(row) else alone.used_marks()
        return mark

    def key(self, row: int) -> bytes:
        return self._keys[row * self._key_size : (row + 1) * self._key_size]

    def session(self, row: int) -> tuple[Any, Any]:
        """Key and value with all fields."""
        return (
            self.sessions.key.from_buffer_copy(self._keys, row * self._key_size),
            self.sessions.value.from_buffer_copy(self._values, row * self._value_size),
        )


def _columns(raw: bytes, layout: Any, name: str) -> list[Sequence[int]]:
    """One field of each entry: one number, or an address in words."""
    field, entry = getattr(layout, name), ct.sizeof(layout)
    if field.size == 1:
        return [raw[field.offset :: entry]]
    word = min(field.size, 8)
    view = memoryview(raw).cast(_WORDS[word])
    return [view[at // word :: entry // word].tolist() for at in range(field.offset, field.offset + field.size, word)]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """`timeout_s`: idle seconds after which the session goes; 0: it goes at once."""

    timeout_s: int
    owner: Owner = NOBODY
    shared: bool = False  # by all that have its mark
    uncounted: bool = False


def _look(tables: Tables, block: Block, now_s: int, talkers: Talkers | None) -> list[Seen]:
    """The sessions of a block that go now. Those that will be due before the sweep comes by again are put down, those
    that their reals do not know of (lc, wlc) are made known to them, those that stay counted for their listener."""
    version, keys, values, _ = block
    sweep, kinds = tables.sweep, tables.sweep.kinds
    rows = _Rows(tables.versions[version].session_map, keys, values)
    of_row = _kinds(kinds, version, rows)
    for kind, n in Counter(of_row).items():
        sweep.counts[kinds.owners[kind]] += n
    if talkers is not None:
        talkers.see(rows.sessions.key, rows.sessions.value, keys, values, rows)
        for (kind, state), n in Counter(zip(of_row, rows.state, strict=True)).items():
            if (listener := kinds.owners[kind][0]) and state != _ANSWER:
                talkers.count({(listener, state): n})
    by_s = now_s + sweep.period_s + 1
    gone: list[Seen] = []
    uncounted: list[bytes] = []
    last_s = sweep.paused.without(rows.last_s)
    for row in compress(range(len(of_row)), map(le, last_s, map(kinds.limits(by_s).__getitem__, of_row))):
        kind = of_row[row]
        seen = Seen(version, rows.key(row), rows.last_s[row], rows.state[row])
        if kind == KIND_NONE:
            verdict = _judge(sweep.listeners, *rows.session(row))
            if verdict.shared:
                kinds.learn((version, rows.is_cold(row)), rows.mark(row), verdict.owner, verdict.timeout_s)
        else:
            verdict = _Verdict(kinds.timeouts[kind], kinds.owners[kind])
        end_s = last_s[row] + verdict.timeout_s
        goes = end_s <= now_s or not verdict.timeout_s
        if seen.state == _ANSWER:
            if goes and _left_alone(rows, row):
                gone.append(seen)
            continue
        if goes:
            gone.append(seen)
        elif end_s <= by_s:
            sweep.due.put(end_s, seen)
        sweep.counts[verdict.owner] += (kind == KIND_NONE) - goes
        if verdict.uncounted and not goes:
            uncounted.append(seen.key)
    if uncounted:
        tables.count_sessions(version, uncounted)
    return gone


def _kinds(kinds: Kinds, version: int, rows: _Rows) -> list[int]:
    of_used, of_cold = (kinds.numbers((version, is_cold)).__getitem__ for is_cold in (False, True))
    if not any(rows.generation):
        return list(map(of_cold, rows.cold_marks()))
    found = list(map(of_used, rows.used_marks()))
    if 0 in rows.generation:
        cold = list(map(not_, rows.generation))
        numbers = map(of_cold, rows.cold_marks(cold))
        for row, number in zip(compress(range(len(cold)), cold), numbers, strict=True):
            found[row] = number
    return found


def _judge(listeners: Mapping[bytes, Listener], key: Any, value: Any) -> _Verdict:
    """By all that the entry says."""
    used = bool(value.generation)
    if value.state == _ANSWER:
        of = listeners.get(_listener_part(other_direction(key, value)))
        return _Verdict(of.timeouts[_ANSWER], shared=used and value.member) if of else _Verdict(UNKNOWN_TIMEOUT_S)
    listener = listeners.get(_listener_part(key))
    if listener is None:
        return _Verdict(0 if used else UNKNOWN_TIMEOUT_S)
    owner = (listener.name, endpoint(text_of(bytes(value.real)), ntohs(value.real_port)) if used else "")
    if listener.stateless or (used and _bytes(value, "real", "real_port") not in listener.reals):
        return _Verdict(0, owner)
    uncounted = listener.counted and not value.counted and value.state in _COUNTING
    shared = not uncounted and (not used or bool(value.member))
    return _Verdict(listener.timeouts[value.state], owner, shared, uncounted)


def _left_alone(rows: _Rows, row: int) -> bool:
    """Whether an entry of answers belongs to no session any more."""
    key, value = rows.session(row)
    of_session = other_direction(key, value)
    session = rows.sessions.get(of_session)
    return session is None or bytes(other_direction(of_session, session)) != rows.key(row)


def _listener_part(key: Any) -> bytes:
    return _bytes(key, "vip", "vip_port", "protocol")


def _bytes(entry: Any, *names: str) -> bytes:
    raw = bytes(entry)
    fields = (getattr(type(entry), name) for name in names)
    return b"".join(raw[field.offset : field.offset + field.size] for field in fields)
