"""The snapshot of a node's session table on its way to a peer: frames ⇄ bytes of a TLS stream (pure; `sync.md` draws
them).

    who takes it                          who gives it
    ASK (layouts, clusters)  ──────────►
                             ◄──────────  BEGIN (who, whose sessions it knows), or REFUSED (why)
                             ◄──────────  RECORDS …, blocks of keys and values as the map holds them
                             ◄──────────  ENDED …, sessions that were ended lately
                             ◄──────────  END (how many records there were)

A snapshot counts only if its END is there and the number is right. Its records are merged like any others, each when it
comes, so that one that breaks off has done no harm and some good.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from l4fast.sync_ends import Ended
from l4fast.sync_records import Layout

MAGIC: Final = b"PFSN"
VERSION: Final = 1
# 4,096 records of IPv6 are 458,752 bytes.
FRAME_MOST: Final = 1 << 20
NODES_MOST: Final = 1024
_LENGTH: Final = struct.Struct("!IB")
_ASK: Final = struct.Struct("!4sBBI")
_BEGIN: Final = struct.Struct("!QQI")
_RECORDS: Final = struct.Struct("!BBBxI")
_ENDED: Final = struct.Struct("!BBxxII")
_END: Final = struct.Struct("!Q")
_CLUSTER: Final = struct.Struct("!I")
_NODE: Final = struct.Struct("!Q")


class Kind(IntEnum):
    """Of a frame."""

    ASK = 1
    BEGIN = 2
    RECORDS = 3
    ENDED = 4
    END = 5
    REFUSED = 6


class SnapshotError(Exception):
    """What the other side sent is no snapshot, or it gives none; the text says why."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`layout`: the checksum of both versions' records. `clusters`: ids of the keys that the asker has."""

    layout: int
    clusters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """`in_step`: the nodes whose sessions the giver knows; `sessions`: about how many will come."""

    node: int
    boot: int
    sessions: int
    in_step: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Sessions of one IP version: their keys, then their values."""

    ip: int
    key_size: int
    value_size: int
    body: bytes
    count: int


@dataclass(frozen=True, slots=True)
class End:
    records: int


Frame = Ask | Begin | Block | Ended | End


def _frame(kind: Kind, *parts: bytes) -> bytes:
    return b"".join((_LENGTH.pack(sum(map(len, parts)), kind), *parts))


def pack_ask(ask: Ask) -> bytes:
    clusters = b"".join(map(_CLUSTER.pack, ask.clusters))
    return _frame(Kind.ASK, _ASK.pack(MAGIC, VERSION, len(ask.clusters), ask.layout), clusters)


def pack_begin(node: int, boot: int, sessions: int, in_step: Sequence[int]) -> bytes:
    return _frame(Kind.BEGIN, _BEGIN.pack(node, boot, sessions), b"".join(map(_NODE.pack, in_step[:NODES_MOST])))


def pack_block(ip: int, keys: bytes, values: bytes, count: int) -> bytes:
    return _frame(Kind.RECORDS, _RECORDS.pack(ip, len(keys) // count, len(values) // count, count), keys, values)


def pack_ended(ended: Ended) -> Iterable[bytes]:
    """In frames of the size that is allowed."""
    key_size = len(ended.keys) // ended.count
    step = (FRAME_MOST - _ENDED.size) // key_size
    for at in range(0, ended.count, step):
        keys = ended.keys[at * key_size : (at + step) * key_size]
        yield _frame(Kind.ENDED, _ENDED.pack(ended.ip, key_size, len(keys) // key_size, ended.until_s), keys)


def pack_end(records: int) -> bytes:
    return _frame(Kind.END, _END.pack(records))


def pack_refused(why: str) -> bytes:
    return _frame(Kind.REFUSED, why.encode()[:200])


class Frames:
    """Takes a stream apart, whatever its pieces."""

    def __init__(self, most: int = FRAME_MOST) -> None:
        self._most = most
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. Raises SnapshotError; what came before the fault is lost."""
        self._buffer += data
        frames: list[Frame] = []
        at = 0
        with memoryview(self._buffer) as view:
            while len(view) - at >= _LENGTH.size:
                size, kind = _LENGTH.unpack_from(view, at)
                if size > self._most:
                    raise SnapshotError(f"a frame of {size} bytes")
                if len(view) - at < _LENGTH.size + size:
                    break
                frames.append(_parse(kind, bytes(view[at + _LENGTH.size : at + _LENGTH.size + size])))
                at += _LENGTH.size + size
        del self._buffer[:at]
        return frames


def _parse(kind: int, body: bytes) -> Frame:
    try:
        match kind:
            case Kind.ASK:
                return _parse_ask(body)
            case Kind.BEGIN:
                nodes: tuple[int, ...] = tuple(node for (node,) in _NODE.iter_unpack(body[_BEGIN.size :]))
                node, boot, sessions = _BEGIN.unpack_from(body)
                return Begin(node, boot, sessions, nodes)
            case Kind.RECORDS:
                ip, key_size, value_size, count = _RECORDS.unpack_from(body)
                if not count or len(body) != _RECORDS.size + count * (key_size + value_size):
                    raise SnapshotError(f"{count} records in {len(body)} bytes")
                return Block(ip, key_size, value_size, body[_RECORDS.size :], count)
            case Kind.ENDED:
                ip, key_size, count, until_s = _ENDED.unpack_from(body)
                if not count or len(body) != _ENDED.size + count * key_size:
                    raise SnapshotError(f"{count} ends in {len(body)} bytes")
                return Ended(ip, body[_ENDED.size :], count, until_s)
            case Kind.END:
                return End(*_END.unpack(body))
            case Kind.REFUSED:
                raise SnapshotError(f"it refuses: {body[:200].decode(errors='replace')}")
    except struct.error:
        raise SnapshotError(f"a frame of kind {kind} of {len(body)} bytes") from None
    raise SnapshotError(f"a frame of kind {kind}")


def _parse_ask(body: bytes) -> Ask:
    magic, version, clusters, layout = _ASK.unpack_from(body)
    if magic != MAGIC:
        raise SnapshotError("not a request for a snapshot")
    if version != VERSION:
        raise SnapshotError(f"version {version}, this node speaks {VERSION}")
    if len(body) != _ASK.size + clusters * _CLUSTER.size:
        raise SnapshotError(f"{clusters} clusters in {len(body)} bytes")
    return Ask(layout, tuple(cluster for (cluster,) in _CLUSTER.iter_unpack(body[_ASK.size :])))


def checksum(layouts: Mapping[int, Layout]) -> int:
    """Of the layouts of both IP versions, which have it in common."""
    (checksum,) = {layout.checksum for layout in layouts.values()}
    return checksum


def refusal(ask: Ask, layouts: Mapping[int, Layout], clusters: Collection[int]) -> str:
    """Why an asker gets no snapshot; empty: it does."""
    if not set(ask.clusters) & set(clusters):
        return "another cluster key"
    if ask.layout != checksum(layouts):
        return "another release, whose sessions are laid out differently"
    return ""


class Taking:
    """One snapshot as it comes: says what is to be merged, and in the end that it is whole."""

    def __init__(self, node: int, layouts: Mapping[int, Layout]) -> None:
        """`node`: who is expected to give it."""
        self._node = node
        self._layouts = layouts
        self._frames = Frames()
        self.begin: Begin | None = None
        self.records = 0
        self.whole = False

    def receive_data(self, data: bytes) -> list[Block | Ended]:
        """What is to be merged now, in order. Raises SnapshotError for anything that is no snapshot of that node."""
        wanted: list[Block | Ended] = []
        for frame in self._frames.receive_data(data):
            if self.whole:
                raise SnapshotError("more after its end")
            if isinstance(frame, Begin) and self.begin is None:
                if frame.node != self._node:
                    raise SnapshotError(f"of node {frame.node:016x} instead of {self._node:016x}")
                self.begin = frame
            elif self.begin is None or isinstance(frame, Begin | Ask):
                raise SnapshotError(f"{type(frame).__name__} out of its turn")
            elif isinstance(frame, End):
                if frame.records != self.records:
                    raise SnapshotError(f"{self.records} records came, {frame.records} were sent")
                self.whole = True
            else:
                self._check(frame)
                self.records += frame.count if isinstance(frame, Block) else 0
                wanted.append(frame)
        return wanted

    def _check(self, frame: Block | Ended) -> None:
        layout = self._layouts.get(frame.ip)
        if layout is None or (
            (frame.key_size, frame.value_size) != (layout.key_size, layout.value_size)
            if isinstance(frame, Block)
            else len(frame.keys) != frame.count * layout.key_size
        ):
            raise SnapshotError("records of another layout")
