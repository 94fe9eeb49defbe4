"""What a key server and its clients say to each other (protocol.md), as values.

Messages are named tuples, because one SIGN and one SIGNED pass for every handshake of the cluster: making a frozen
dataclass costs three times as much.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from certs.report import ChainReport, Staple
from keyserver.errors import ErrorCode

MAGIC = b"PFKS"
LOWEST_VERSION = HIGHEST_VERSION = 1
KEY_ID_BYTES = 32  # SHA-256 of the SubjectPublicKeyInfo
MAX_CHAIN_BYTES = 1 << 18  # as core.model.Certificate.chain
MAX_FRAME_BYTES = 1 << 19  # a chain, or the report on one, whose every field is at its limit
SECRET_BYTES = 32  # of a period's tickets
MAX_NAME_BYTES = 253  # of a DNS name (RFC 1035, section 2.3.4)
MAX_REQUEST_ID = 0xFFFF_FFFF


class Tag(IntEnum):
    """What a frame is. Replies have the high bit set."""

    HELLO = 0x01
    SIGN = 0x02
    CHECK_CHAIN = 0x03
    PING = 0x04
    FIND = 0x05
    GET_STAPLE = 0x06
    TICKETS = 0x07
    WELCOME = 0x81
    SIGNED = 0x82
    CHAIN_CHECKED = 0x83
    PONG = 0x84
    FOUND = 0x85
    STAPLE_GIVEN = 0x86
    TICKET_SECRETS = 0x87
    GOODBYE = 0xFE
    FAILED = 0xFF


class Hello(NamedTuple):
    """The client's first frame: the versions that it speaks."""

    lowest: int = LOWEST_VERSION
    highest: int = HIGHEST_VERSION


class Welcome(NamedTuple):
    """The server's first frame: the version of all that follows, and how many requests it queues for one connection."""

    version: int
    max_in_flight: int


class Sign(NamedTuple):
    """Asks for the signature of `content` by key `key_id` with a TLS SignatureScheme. `sni` is for the audit log."""

    request_id: int
    key_id: bytes
    scheme: int
    sni: str
    content: bytes


class Signed(NamedTuple):
    request_id: int
    signature: bytes


class CheckChain(NamedTuple):
    """Asks whether a PEM chain, leaf first, may be served."""

    request_id: int
    pem: str


class ChainChecked(NamedTuple):
    request_id: int
    report: ChainReport


class Find(NamedTuple):
    """Asks for the keys of a server name, with their chains."""

    request_id: int
    name: str


class Found(NamedTuple):
    """`chains`: (key id, PEM text) of each key whose chain has the name, and that the client may use."""

    request_id: int
    chains: tuple[tuple[bytes, str], ...]


class GetStaple(NamedTuple):
    """Asks for the OCSP answer to be stapled with a PEM chain, leaf first."""

    request_id: int
    pem: str


class StapleGiven(NamedTuple):
    request_id: int
    staple: Staple


class Tickets(NamedTuple):
    """Asks for the secrets that session tickets are made with."""

    request_id: int


class TicketSecrets(NamedTuple):
    """`secrets`: (when its period begins, in seconds since 1970; 32 bytes), oldest first."""

    request_id: int
    secrets: tuple[tuple[int, bytes], ...]

    def __repr__(self) -> str:
        return f"TicketSecrets({self.request_id}, …)"


class Ping(NamedTuple):
    request_id: int


class Pong(NamedTuple):
    request_id: int


class Failed(NamedTuple):
    """The request was not served. Id 0: the connection as a whole; the sender closes it."""

    request_id: int
    code: ErrorCode


class Goodbye(NamedTuple):
    """The server is about to end: it answers what it has been asked, and wants no more."""


class Malformed(NamedTuple):
    """Seen, not sent: a frame whose body contradicts itself. The connection is sound."""

    request_id: int
    why: str


class Unknown(NamedTuple):
    """Seen, not sent: a frame whose tag means nothing here. The connection is sound."""

    request_id: int
    tag: int


class Broken(NamedTuple):
    """Seen, not sent: the connection can no longer be understood. What comes after it is ignored.

    A server says `Failed(0, code)` and closes; a client closes.
    """

    why: str
    code: ErrorCode = ErrorCode.MALFORMED


Message = (
    Hello
    | Welcome
    | Sign
    | Signed
    | CheckChain
    | ChainChecked
    | Find
    | Found
    | GetStaple
    | StapleGiven
    | Tickets
    | TicketSecrets
    | Ping
    | Pong
    | Failed
    | Goodbye
)
Event = Message | Malformed | Unknown | Broken
