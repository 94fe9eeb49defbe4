"""Session-sync datagrams: sealed bytes ⇄ header and body. Pure; `sync.md` draws every byte.

A datagram is a header in the clear, a body sealed with AES-256-GCM, and the tag. The header is the additional data, so
no byte of a datagram can be changed. The body of a SESSIONS datagram is the keys of all records and then their values,
because that is how BPF_MAP_UPDATE_BATCH takes them: neither side ever touches a single session. All are of one IP
version, which the header names.

A pair of key and nonce is never used twice:
  - each boot of each node seals under a key of its own, HKDF-SHA256(cluster key, node id, boot epoch, boot salt). The
    salt is 64 random bits, so this holds even where a clock runs backwards and the state directory is lost;
  - within a boot, the nonce is the sequence number, which only ever counts up (`Sealer` is its only source).
What would break it is one running process copied with its memory (a virtual machine's snapshot resumed twice).

The cluster id names the cluster key and is derived from it. A datagram under a key that is not in the key file is
therefore *foreign*, whether it comes from another cluster or from a node that has not been given the new key.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC: Final = b"PF"
VERSION: Final = 2
# 1,500 bytes of Ethernet payload less the IPv6 and UDP headers: no datagram is ever fragmented, over either version.
MAX_DATAGRAM: Final = 1452
TAG_SIZE: Final = 16
KEY_BYTES: Final = 32
SEED_WORD: Final = "seed"  # begins the seed's line in the key file

_HEADER: Final = struct.Struct("!2sBBIQQQQQBBBBI")
HEADER_SIZE: Final = _HEADER.size
MAX_BODY: Final = MAX_DATAGRAM - HEADER_SIZE - TAG_SIZE
MAX_COUNT: Final = 255  # what its field holds
_HELLO: Final = struct.Struct("!II")
MAX_NAME: Final = 80


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


class KeyFileError(Exception):
    """A cluster key file whose text is not a key."""


class Type(IntEnum):
    """What the body holds. A receiver ignores and counts types that it does not know."""

    SESSIONS = 1
    HELLO = 2
    RESEND = 3


@dataclass(frozen=True, slots=True)
class Header:
    """The clear part. `boot` orders the lives of one node; `sent_us` is the sender's wall clock in microseconds.

    `ip` is the IP version of the records, 4 or 6; `layout` that of the records of both versions.
    """

    type: int
    cluster: int
    node: int
    boot: int
    salt: int
    sequence: int
    sent_us: int
    ip: int = 0
    count: int = 0
    key_size: int = 0
    value_size: int = 0
    layout: int = 0

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC, VERSION, self.type, self.cluster, self.node, self.boot, self.salt, self.sequence, self.sent_us,
            self.ip, self.count, self.key_size, self.value_size, self.layout,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hello:
    """Sent every second: the sender is there, how many sessions it holds, how many of its datagrams it had to drop."""

    name: str
    sessions: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Resend:
    """Asks `node` to send its datagrams `first` to `last` (inclusive) of `boot` again."""

    node: int
    boot: int
    first: int
    last: int


_RESEND: Final = struct.Struct("!QQQQ")


def parse_header(datagram: bytes) -> Header:
    """Reads the header and checks that the sealed body is as long as it says. Raises DatagramError.

    The length rule: a SESSIONS body is count × (key_size + value_size) bytes; other types have no records.
    """
    if not HEADER_SIZE + TAG_SIZE <= len(datagram) <= MAX_DATAGRAM:
        raise DatagramError(Fault.MALFORMED, f"{len(datagram)} bytes")
    magic, version, *fields = _HEADER.unpack_from(datagram)
    if magic != MAGIC:
        raise DatagramError(Fault.MALFORMED, "not a session-sync datagram")
    if version != VERSION:
        raise DatagramError(Fault.VERSION, f"version {version}, this node speaks {VERSION}")
    header = Header(*fields)
    body_size = len(datagram) - HEADER_SIZE - TAG_SIZE
    if header.type == Type.SESSIONS:
        if header.count == 0 or body_size != header.count * (header.key_size + header.value_size):
            raise DatagramError(Fault.MALFORMED, f"{header.count} records do not make {body_size} bytes")
    elif header.ip or header.count or header.key_size or header.value_size:
        raise DatagramError(Fault.MALFORMED, f"type {header.type} has no records")
    return header


def records_per_datagram(key_size: int, value_size: int) -> int:
    """How many records of these sizes one datagram holds."""
    return min(MAX_COUNT, MAX_BODY // (key_size + value_size))


def split_records(header: Header, body: bytes) -> tuple[bytes, bytes]:
    """The keys block and the values block of a SESSIONS body."""
    end = header.count * header.key_size
    return body[:end], body[end:]


def pack_hello(hello: Hello) -> bytes:
    return _HELLO.pack(hello.sessions & 0xFFFFFFFF, hello.dropped & 0xFFFFFFFF) + hello.name.encode()[:MAX_NAME]


def parse_hello(body: bytes) -> Hello:
    """Raises DatagramError."""
    if not _HELLO.size <= len(body) <= _HELLO.size + MAX_NAME:
        raise DatagramError(Fault.MALFORMED, f"hello of {len(body)} bytes")
    sessions, dropped = _HELLO.unpack_from(body)
    return Hello(body[_HELLO.size :].decode(errors="replace"), sessions, dropped)


def pack_resend(resend: Resend) -> bytes:
    return _RESEND.pack(resend.node, resend.boot, resend.first, resend.last)


def parse_resend(body: bytes) -> Resend:
    """Raises DatagramError."""
    if len(body) != _RESEND.size:
        raise DatagramError(Fault.MALFORMED, f"resend of {len(body)} bytes")
    resend = Resend(*_RESEND.unpack(body))
    if resend.first > resend.last:
        raise DatagramError(Fault.MALFORMED, "resend of an empty range")
    return resend


def node_id(name: str) -> int:
    """64 bits of SHA-256: two of a cluster's node names do not meet by chance."""
    digest = Hash(SHA256())
    digest.update(name.encode())
    return int.from_bytes(digest.finalize()[:8], "big")


class ClusterKey:
    """One secret of the cluster: its public id, and the key that each boot of each node seals under."""

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"a cluster key has {KEY_BYTES} bytes, this one has {len(secret)}")
        self._secret = secret
        self.id = int.from_bytes(self._derive(b"paifang sync 2 cluster id", 4), "big")

    def _derive(self, info: bytes, size: int) -> bytes:
        return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(self._secret)

    def cipher(self, node: int, boot: int, salt: int) -> AESGCM:
        """The cipher of one boot of one node. About 10 µs: keep it."""
        return AESGCM(self._derive(b"paifang sync 2 boot" + struct.pack("!QQQ", node, boot, salt), KEY_BYTES))


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the L4 nodes of a cluster share."""

    keys: tuple[ClusterKey, ...]
    seed: int | None  # of the flows' hash, 64 bits


def parse_secrets(text: str) -> Secrets:
    """Reads a key file: one key a line, in hex or base64, and once `seed` and a key; `#` starts a comment. Raises
    KeyFileError.

    The first key seals; every key opens. So a key is changed without a gap: append the new one on every node, then
    move it to the top on every node, then remove the old one. The seed stays: with another one, flows that have no
    session go to other servers.
    """
    keys: list[ClusterKey] = []
    seeds: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            if words[0] == SEED_WORD:
                seeds.append(flow_seed(_decode("".join(words[1:]))))
            else:
                keys.append(ClusterKey(_decode("".join(words))))
        except KeyFileError as error:
            raise KeyFileError(f"line {number}: {error}") from None
    if not keys:
        raise KeyFileError("it holds no key")
    if len(seeds) > 1:
        raise KeyFileError("it holds two seeds")
    return Secrets(tuple(keys), seeds[0] if seeds else None)


def flow_seed(secret: bytes) -> int:
    """What the flows' hash begins with (select.h): of a secret that no key is derived from. Raises KeyFileError."""
    if len(secret) != KEY_BYTES:
        raise KeyFileError(f"a seed has {KEY_BYTES} bytes, this one has {len(secret)}")
    made = HKDF(algorithm=SHA256(), length=8, salt=None, info=b"paifang flow hash").derive(secret)
    return int.from_bytes(made, "big")


def _decode(line: str) -> bytes:
    """Hex first: 64 hex digits are also valid base64, but of 48 bytes."""
    for read in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            return read(line)
        except (ValueError, binascii.Error):
            continue
    raise KeyFileError("neither hex nor base64")


def seal(cipher: AESGCM, header: Header, body: bytes) -> bytes:
    """The datagram. The caller never passes the same sequence number twice for one cipher: use `Sealer`."""
    clear = header.pack()
    return clear + cipher.encrypt(_nonce(header.sequence), body, clear)


def open_body(cipher: AESGCM, header: Header, datagram: bytes) -> bytes:
    """The body of a datagram whose header is `header`. Raises DatagramError if anything in it is not the sender's."""
    try:
        return cipher.decrypt(_nonce(header.sequence), datagram[HEADER_SIZE:], datagram[:HEADER_SIZE])
    except InvalidTag:
        raise DatagramError(Fault.FORGED, f"from node {header.node:016x}") from None


def _nonce(sequence: int) -> bytes:
    return struct.pack("!IQ", 0, sequence)


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
        self, type_: Type, body: bytes, sent_us: int, *, ip: int = 0, count: int = 0, key_size: int = 0,
        value_size: int = 0, layout: int = 0,
    ) -> bytes:  # fmt: skip
        """The next datagram."""
        self.sequence += 1
        header = Header(
            type_, self._key_id, self.node, self.boot, self._salt, self.sequence, sent_us, ip, count, key_size,
            value_size, layout,
        )  # fmt: skip
        return seal(self._cipher, header, body)

    def sessions(self, ip: int, keys: bytes, values: bytes, count: int, layout: int, sent_us: int) -> list[bytes]:
        """The records, of this IP version, as datagrams: one, unless a page is larger than a datagram."""
        key_size, value_size = len(keys) // count, len(values) // count
        step = records_per_datagram(key_size, value_size)
        return [
            self.seal(
                Type.SESSIONS,
                keys[at * key_size : (at + step) * key_size] + values[at * value_size : (at + step) * value_size],
                sent_us,
                ip=ip,
                count=min(step, count - at),
                key_size=key_size,
                value_size=value_size,
                layout=layout,
            )
            for at in range(0, count, step)
        ]


def key_by_id(keys: Sequence[ClusterKey], cluster: int) -> ClusterKey:
    """Raises DatagramError for a cluster that is not ours."""
    for key in keys:
        if key.id == cluster:
            return key
    raise DatagramError(Fault.FOREIGN_CLUSTER, f"cluster {cluster:08x}")
