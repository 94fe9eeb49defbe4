"""What a message's head says, once it was read and checked: the types, and the words for where a body ends.

A `Block` is all of a head but its first line; it is shared by every message that has the same one, and never changed.
Fields come in two kinds. Those that somebody here acts on (ACTED_ON, see headers.py for what is done) are kept apart;
all others pass as they are, in their order and with their case.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

# Framings that are not a length.
NO_BODY: Final = -1
CHUNKED: Final = -2
UNTIL_CLOSE: Final = -3

# Fields that somebody here acts on. All others pass as they are; see also `is_acted_on`.
ACTED_ON: Final = frozenset(
    (
        b"client-cert", b"client-cert-chain", b"connection", b"content-length", b"date", b"expect", b"forwarded",
        b"host", b"keep-alive", b"proxy-connection", b"slb-id", b"slb-ip", b"strict-transport-security", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"via", b"x-real-ip", b"x-request-id",
    )
)  # fmt: skip


class Field(NamedTuple):
    """A field line: name in lower case and as it came, value without outer white space, the line as we write it."""

    lower: bytes
    name: bytes
    value: bytes
    line: bytes
    acted_on: bool


class Fields(Protocol):
    """A message's fields, for whoever asks for some of them."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field called `name` (lower case), in order."""


class Asked(Fields, Protocol):
    """What rules, keys and cookies ask of a request: a `RequestHead`, or what the fast lane has in its place."""

    @property
    def method(self) -> bytes: ...

    @property
    def host(self) -> bytes: ...


class Block(NamedTuple):
    """Version and field lines, checked. `length` is a Content-Length, NO_BODY, CHUNKED or UNTIL_CLOSE.

    `acted_on` are the fields that somebody acts on, `passed` the lines of the others, each with its CRLF.
    """

    minor: int
    fields: tuple[Field, ...]
    acted_on: tuple[Field, ...]
    passed: bytes
    length: int
    keep_alive: bool
    connection: frozenset[bytes]
    host: bytes
    expects_continue: bool
    upgrade: bytes
    trailers: bool = False  # who sent it reads them (RFC 9110 §10.1.4)
    underscored: bool = False  # there are fields that do not pass, since their names have an underscore
    version: bytes = b"1.1"  # as Via and the log say it; `minor` is that of HTTP/1, 1 in any later version

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field called `name` (lower case), in order."""
        return [field.value for field in self.fields if field.lower == name]


class RequestHead(NamedTuple):
    """`target` is in origin form or `*`; `host` is that of the target where it had one; `size` counts bytes read.

    `path_at` is where the path stands among them.
    """

    method: bytes
    target: bytes
    host: bytes
    block: Block
    size: int
    path_at: int = 0

    def values(self, name: bytes) -> list[bytes]:
        return self.block.values(name)


class ResponseHead(NamedTuple):
    """`length` already knows the method it answers (RFC 9112 §6.3); `size` counts bytes read."""

    status: int
    reason: bytes
    length: int
    block: Block
    size: int

    def values(self, name: bytes) -> list[bytes]:
        return self.block.values(name)


class Outgoing(NamedTuple):
    """A request as it goes to a server, whatever that is spoken to in.

    `fields` and `ours` are whole lines: those that pass, and those that say where it comes from. How long the body is,
    which protocol is asked for (as `Block.upgrade` has it) and whether trailers are read (`te`) is not among them.
    """

    method: bytes
    target: bytes
    host: bytes
    fields: bytes
    ours: bytes
    length: int
    upgrade: bytes = b""
    trailers: bool = False


def field_of(name: bytes, value: bytes) -> Field:
    """The field of this name and value, as we write it."""
    lower = name.lower()
    return Field(lower, name, value, b"%b: %b\r\n" % (name, value), is_acted_on(lower))


def is_acted_on(lower: bytes) -> bool:
    """Whether somebody here acts on fields of this name (lower case)."""
    return lower in ACTED_ON or lower.startswith((b"x-forwarded-", b"x-ssl-client")) or b"_" in lower
