"""Session-sync datagrams: sealed bytes ⇄ header and body. Pure; `sync.md` draws every byte.

A datagram is a header in the clear, a body sealed with AES-256-GCM, and the tag. The header is the additional data, so
no byte of a datagram can be changed. The body of a SESSIONS datagram is what the sender's XDP program has staged: a
second, ends, and records that have places of ends. The receiver hands it to its program as it is, and neither side ever
touches a single session here. All are of one IP version, which the header names.

Each boot of each node has a key of its own (`sync_keys`), under which the nonce is the sequence number. That only ever
counts up: `Sealer` is its only source.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from l4fast.sync_keys import ClusterKey

MAGIC: Final = b"PF"
VERSION: Final = 4
# 1,500 bytes of Ethernet payload less the IPv6 and UDP headers: no datagram is ever fragmented, over either version.
MAX_DATAGRAM: Final = 1452
TAG_SIZE: Final = 16

_HEADER: Final = struct.Struct("!2sBBIQQQQQBBBBI")
_NONCE: Final = struct.Struct("!IQ")  # its first word is zero
HEADER_SIZE: Final = _HEADER.size
MAX_BODY: Final = MAX_DATAGRAM - HEADER_SIZE - TAG_SIZE
MAX_COUNT: Final = 255  # what its field holds
SECOND_SIZE: Final = 4  # of the second that begins the body of a SESSIONS datagram
_HELLO: Final = struct.Struct("!IIIIH")
MAX_NAME: Final = 80
_RESEND: Final = struct.Struct("!QQ")
_RANGE: Final = struct.Struct("!QQ")
MAX_RANGES: Final = 64


class Fault(StrEnum):
    """Why a datagram was refused; the value is the counter's name."""

    MALFORMED = "malformed"
    VERSION = "version"
    FOREIGN_CLUSTER = "foreign_cluster"
    FORGED = "forged"


class DatagramError(Exception):
    """A datagram that is refused, with the reason to count."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


class Type(IntEnum):
    """What the body holds. A receiver ignores and counts types that it does not know."""

    SESSIONS = 1
    HELLO = 2
    RESEND = 3
    ENDED = 4


WITH_RECORDS: Final = (Type.SESSIONS, Type.ENDED)


class Header(NamedTuple):
    """The clear part. `boot` orders the lives of one node; `sent_us` is the sender's wall clock in microseconds. A
    tuple, for there is one to each datagram, and a dataclass takes eight times as long to make.

    `ip` is the IP version of the records, 4 or 6; `size` the bytes of one, or of one key; `ends` how many ends there
    are; `layout` that of the records of both versions.
    """

    type: int
    cluster: int
    node: int
    boot: int
    salt: int
    sequence: int
    sent_us: int
    ip: int = 0
    count: int = 0  # type: ignore[assignment]  # a tuple's own `count` is nobody's here
    size: int = 0
    ends: int = 0
    layout: int = 0

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC, VERSION, self.type, self.cluster, self.node, self.boot, self.salt, self.sequence, self.sent_us,
            self.ip, self.count, self.size, self.ends, self.layout,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hello:
    """Sent every second: the sender is there.

    How many sessions it holds; how many of its datagrams it had to drop, which it can send again; how many records it
    has lost before they were in a datagram; the digest of its seed; where it gives snapshots (TCP), 0: nowhere.
    """

    name: str
    sessions: int
    dropped: int
    lost: int = 0
    seed: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Resend:
    """Asks `node` to send datagrams of `boot` again: ranges of sequence numbers, inclusive, at most MAX_RANGES."""

    node: int
    boot: int
    ranges: tuple[tuple[int, int], ...]


def parse_header(datagram: bytes) -> Header:
    """Reads the header and checks that the sealed body is as long as it says. Raises DatagramError.

    The length rule: the body of ENDED is count × size bytes; that of SESSIONS the second, ends of one size, which the
    layout says, and count × size bytes. Other types have no records.
    """
    if not HEADER_SIZE + TAG_SIZE <= len(datagram) <= MAX_DATAGRAM:
        raise DatagramError(Fault.MALFORMED, f"{len(datagram)} bytes")
    magic, version, *fields = _HEADER.unpack_from(datagram)
    if magic != MAGIC:
        raise DatagramError(Fault.MALFORMED, "not a session-sync datagram")
    if version != VERSION:
        raise DatagramError(Fault.VERSION, f"version {version}, this node speaks {VERSION}")
    header = Header._make(fields)
    body_size = len(datagram) - HEADER_SIZE - TAG_SIZE
    if header.type in WITH_RECORDS:
        rest = body_size - header.count * header.size - SECOND_SIZE * (header.type == Type.SESSIONS)
        if header.count == 0 or header.size == 0 or rest < 0 or (rest % header.ends if header.ends else rest):
            raise DatagramError(Fault.MALFORMED, f"{header.count} records do not make {body_size} bytes")
        if header.type == Type.ENDED and header.ends:
            raise DatagramError(Fault.MALFORMED, "keys with ends")
    elif header.ip or header.count or header.size or header.ends:
        raise DatagramError(Fault.MALFORMED, f"type {header.type} has no records")
    return header


def keys_per_datagram(key_size: int) -> int:
    """How many keys of this size an ENDED datagram holds."""
    return min(MAX_COUNT, MAX_BODY // key_size)


def pack_hello(hello: Hello) -> bytes:
    numbers = (number & 0xFFFFFFFF for number in (hello.sessions, hello.dropped, hello.lost, hello.seed))
    return _HELLO.pack(*numbers, hello.port) + hello.name.encode()[:MAX_NAME]


def parse_hello(body: bytes) -> Hello:
    """Raises DatagramError."""
    if not _HELLO.size <= len(body) <= _HELLO.size + MAX_NAME:
        raise DatagramError(Fault.MALFORMED, f"hello of {len(body)} bytes")
    return Hello(body[_HELLO.size :].decode(errors="replace"), *_HELLO.unpack_from(body))


def pack_resend(resend: Resend) -> bytes:
    assert 0 < len(resend.ranges) <= MAX_RANGES, "the caller's ranges"
    return _RESEND.pack(resend.node, resend.boot) + b"".join(_RANGE.pack(*each) for each in resend.ranges)


def parse_resend(body: bytes) -> Resend:
    """Raises DatagramError."""
    size = len(body) - _RESEND.size
    if not _RANGE.size <= size <= MAX_RANGES * _RANGE.size or size % _RANGE.size:
        raise DatagramError(Fault.MALFORMED, f"resend of {len(body)} bytes")
    ranges: tuple[tuple[int, int], ...] = tuple(_RANGE.iter_unpack(body[_RESEND.size :]))
    if any(first > last for first, last in ranges):
        raise DatagramError(Fault.MALFORMED, "resend of an empty range")
    node, boot = _RESEND.unpack_from(body)
    return Resend(node, boot, ranges)


def seal(cipher: AESGCM, header: Header, body: bytes) -> bytes:
    """The datagram. The caller never passes the same sequence number twice for one cipher: use `Sealer`."""
    clear = header.pack()
    return clear + cipher.encrypt(_NONCE.pack(0, header.sequence), body, clear)


def open_body(cipher: AESGCM, header: Header, datagram: bytes) -> bytes:
    """The body of a datagram whose header is `header`. Raises DatagramError if anything in it is not the sender's."""
    try:
        return cipher.decrypt(_NONCE.pack(0, header.sequence), datagram[HEADER_SIZE:], datagram[:HEADER_SIZE])
    except InvalidTag:
        raise DatagramError(Fault.FORGED, f"from node {header.node:016x}") from None


class Sealer:
    """One boot of one node as a sender: the only giver of its sequence numbers, from 1."""

    def __init__(self, key: ClusterKey, *, node: int, boot: int, salt: int) -> None:
        self.node = node
        self.boot = boot
        self.sequence = 0
        self._salt = salt
        self._key_id = key.id
        self._cipher = key.cipher(node, boot, salt)

    def rekey(self, key: ClusterKey) -> None:
        """Seals under another cluster key from now on; sequence numbers go on."""
        self._key_id = key.id
        self._cipher = key.cipher(self.node, self.boot, self._salt)

    def seal(
        self, type_: Type, body: bytes, sent_us: int, *, ip: int = 0, count: int = 0, size: int = 0, ends: int = 0,
        layout: int = 0,
    ) -> bytes:  # fmt: skip
        """The next datagram."""
        self.sequence += 1
        clear = _HEADER.pack(
            MAGIC, VERSION, type_, self._key_id, self.node, self.boot, self._salt, self.sequence, sent_us, ip, count,
            size, ends, layout,
        )  # fmt: skip
        return clear + self._cipher.encrypt(_NONCE.pack(0, self.sequence), body, clear)

    def ended(self, ip: int, keys: bytes, count: int, layout: int, sent_us: int) -> list[bytes]:
        """The keys of sessions that have ended, as datagrams."""
        size = len(keys) // count
        step = keys_per_datagram(size)
        return [
            self.seal(
                Type.ENDED, keys[at * size : (at + step) * size], sent_us, ip=ip, count=min(step, count - at),
                size=size, layout=layout,
            )
            for at in range(0, count, step)
        ]  # fmt: skip
