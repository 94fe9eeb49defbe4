"""What can go wrong between a TLS node and the key server.

    KeyServerError(code)          a request that was not served; the code is all that its caller learns
      WireError                   bytes that break the protocol; `str()` says what, for the log of the side that saw it
    KeyFilesError(files)          key files that cannot be used; the set loaded before stays in force
    StartError                    the process cannot begin: a socket, an identity, a flag

Codes below 0x80 travel on the wire (protocol.md). Those from 0x80 on are made by the client, of what it saw itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ErrorCode(IntEnum):
    """Why a request was not served. The detail stands in the server's log and is never sent."""

    MALFORMED = 0x01  # the frame's lengths or fields contradict each other
    UNSUPPORTED_VERSION = 0x02  # no version of the protocol in common
    UNKNOWN_REQUEST = 0x03  # a tag that this version does not have
    UNKNOWN_KEY = 0x04  # no private key with this id is held
    REFUSED_SCHEME = 0x05  # the signature scheme is not allowed, or not for this type of key
    REFUSED_SHAPE = 0x06  # the content is not what a TLS server signs in a handshake
    REFUSED_CLIENT = 0x07  # this client may not use the key server, or not this key
    RATE_LIMITED = 0x08  # the client has used up its rate, or the key's is used up
    BUSY = 0x09  # a queue of the server is full, or the request waited in it too long
    INTERNAL = 0x0A  # the server failed; its log says how

    DEADLINE = 0x80  # no endpoint answered in time
    UNAVAILABLE = 0x81  # no endpoint could be reached, or each one that could be lost the connection
    OVERLOADED = 0x82  # too many requests of this client are outstanding
    CLOSED = 0x83  # the client was closed


class KeyServerError(Exception):
    """A request that was not served."""

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        name = self.code.name.lower().replace("_", " ")
        return f"{name}: {self.detail}" if self.detail else name


class WireError(KeyServerError):
    """Bytes that break the protocol."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorCode.MALFORMED, detail)


@dataclass(frozen=True, slots=True)
class BadFile:
    """A key file that cannot be used, why, and what to do about it."""

    path: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}; {self.remedy}"


class KeyFilesError(Exception):
    """One or more key files that cannot be used. The set loaded before stays in force."""

    def __init__(self, files: Sequence[BadFile]) -> None:
        super().__init__(*files)
        self.files = tuple(files)

    def __str__(self) -> str:
        return "\n".join(map(str, self.files))


class StartError(Exception):
    """The process cannot begin; the text says why and what would help."""
