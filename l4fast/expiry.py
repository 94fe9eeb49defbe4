"""Session ageing: walks the session table in batches and deletes what has been idle for its state's time.

Exact: a session goes in the first sweep that finds `now - last packet` at or above its timeout, not before. A session
whose listener or real has been removed goes at once; one learnt from a peer and not yet used here (generation 0) stays
its time even so, for the peers may know a newer configuration than we do.

A fullnat session takes the entry of its answers along. Such an entry goes by itself only when it has been idle for the
listener's time and its session has gone, which happens where a new connection took the session's place.

A sweep spans several calls, each of which looks at no more than its budget, so that the daemon's loop stays responsive.
The table is read by BPF_MAP_LOOKUP_BATCH and cleaned by BPF_MAP_DELETE_BATCH, one system call a block. A packet that
arrives between the two, after the whole idle time, loses its session and makes a new one like any first packet.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.model import Mode
from l4fast.addresses import address_bytes
from l4fast.bpf.syscall import Map
from l4fast.members import counted
from l4fast.sessions import ANSWER, STATES
from l4fast.tables import UNPROVEN_TIMEOUT_S, Tables, other_direction
from l4fast.version_tables import MODES, PROTOCOLS

# Linux conntrack's nf_conntrack_tcp_timeout_fin_wait and _close.
FIN_WAIT_TIMEOUT_S = 120
CLOSED_TIMEOUT_S = 10
# Sessions whose listener is not known here: learnt from a peer with a newer configuration.
UNKNOWN_TIMEOUT_S = 120
BATCH = 2048

_ESTABLISHED, _UNPROVEN, _FIN_WAIT, _CLOSED, _UDP, _ANSWER = range(len(STATES))
_FULLNAT = MODES[Mode.FULLNAT]
_COUNTING = (_ESTABLISHED, _UNPROVEN, _UDP)
_COLD = _NOT_COUNTED = bytes(2)


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


@dataclass(frozen=True, slots=True)
class _Listener:
    name: str
    stateless: bool  # its sessions are of the time before it became so
    counted: bool  # its reals' connections are
    timeouts: tuple[int, ...]
    reals: frozenset[bytes]  # address and port, as a session has them


def _listeners(tables: Tables) -> dict[bytes, _Listener]:
    """By the listener's part of a session key: VIP, then port and protocol."""
    return {
        address_bytes(vip) + struct.pack("!HB", port, PROTOCOLS[protocol]): _Listener(
            service.listener,
            service.stateless,
            counted(service),
            timeouts(service.idle_timeout_s),
            frozenset(address_bytes(real.address) + struct.pack("!H", real.port) for real in service.reals),
        )
        for of_version in tables.versions.values()
        for (vip, port, protocol), service in of_version.services.items()
    }


def expire(tables: Tables, now_s: int, budget: int) -> int:
    """Goes on with the sweep for about `budget` sessions; returns how many it deleted.

    `now_s` is the clock of `Tables.set_epoch`. Call it often enough that budget times calls exceeds the table in the
    shortest timeout. A sweep that ends publishes the listeners' session counts; the next call begins anew.
    """
    sweep = tables.sweep
    listeners = _listeners(tables)
    deleted = seen = 0
    while seen < budget:
        if sweep.blocks is None:
            sweep.blocks = tables.session_blocks(min(BATCH, budget))
        block = next(sweep.blocks, None)
        if block is None:
            sweep.last_counts, sweep.blocks = dict(sweep.counts), None
            sweep.counts.clear()
            break
        version, keys, values, count = block
        seen += count
        gone, uncounted = _expired(tables, listeners, version, keys, values, now_s)
        if uncounted:
            tables.count_sessions(version, uncounted)
        if gone:
            deleted += tables.delete_sessions(version, gone)
    return deleted


def _expired(
    tables: Tables, listeners: Mapping[bytes, _Listener], version: int, keys: bytes, values: bytes, now_s: int
) -> tuple[list[bytes], list[bytes]]:
    """The keys that go, and those whose reals do not know of them yet (lc, wlc). Offsets are those of BCC's layouts.

    Those that stay are counted for their listener.
    """
    of_version = tables.versions[version]
    key_type, value_type = of_version.session_map.key, of_version.session_map.value
    key_size, value_size, address_size = of_version.key_size, of_version.value_size, key_type.vip.size
    vip_at, port_at = key_type.vip.offset, key_type.vip_port.offset
    real_at, port_of_real_at, last_at, generation_at = (
        value_type.real.offset,
        value_type.real_port.offset,
        value_type.last_s.offset,
        value_type.generation.offset,
    )
    state_at, counted_at = value_type.state.offset, value_type.counted.offset
    word = struct.Struct("=I").unpack_from
    mode_at = value_type.mode.offset
    counts = tables.sweep.counts
    gone: list[bytes] = []
    uncounted: list[bytes] = []
    at = 0
    for key_at in range(0, len(keys), key_size):
        listener = listeners.get(
            keys[key_at + vip_at : key_at + vip_at + address_size] + keys[key_at + port_at : key_at + port_at + 3]
        )
        idle_s = now_s - word(values, at + last_at)[0]
        if values[at + mode_at] == _FULLNAT:
            key = keys[key_at : key_at + key_size]
            value = value_type.from_buffer_copy(values, at)
            if value.state == ANSWER:
                if _left_alone(of_version.session_map, listeners, key, value, idle_s):
                    gone.append(key)
                at += value_size
                continue
        learnt = values[at + generation_at : at + generation_at + 2] == _COLD
        if listener is None:
            goes = not learnt or idle_s >= UNKNOWN_TIMEOUT_S
        else:
            known = (
                learnt
                or values[at + real_at : at + real_at + address_size]
                + values[at + port_of_real_at : at + port_of_real_at + 2]
                in listener.reals
            )
            goes = listener.stateless or not known or idle_s >= listener.timeouts[values[at + state_at]]
        if goes:
            gone.append(keys[key_at : key_at + key_size])
            if values[at + mode_at] == _FULLNAT:
                gone.append(bytes(other_direction(key_type.from_buffer_copy(gone[-1]), value)))
        elif listener is not None:
            counts[listener.name] += 1
            if (
                listener.counted
                and values[at + counted_at : at + counted_at + 2] == _NOT_COUNTED
                and values[at + state_at] in _COUNTING
            ):
                uncounted.append(keys[key_at : key_at + key_size])
        at += value_size
    return gone, uncounted


def _left_alone(
    sessions: Map[Any, Any], listeners: Mapping[bytes, _Listener], key: bytes, value: Any, idle_s: int
) -> bool:
    """Whether an entry of answers, idle long enough, belongs to no session any more."""
    of_session = other_direction(sessions.key.from_buffer_copy(key), value)
    fields = type(of_session)
    raw = bytes(of_session)
    vip = raw[fields.vip.offset : fields.vip.offset + fields.vip.size]
    listener = listeners.get(vip + raw[fields.vip_port.offset : fields.vip_port.offset + 3])
    if idle_s < (listener.timeouts[_ANSWER] if listener else UNKNOWN_TIMEOUT_S):
        return False
    session = sessions.get(of_session)
    return session is None or bytes(other_direction(of_session, session)) != key
