"""Frames of HTTP/2: their layout, what their numbers are called, and what is wrong with one (RFC 9113 §4, §6, §7)."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES: Final = 16_384  # of payload; SETTINGS_MAX_FRAME_SIZE, which we leave as it is
MOST_WINDOW: Final = 0x7FFF_FFFF
HEAD: Final = 9  # bytes before a frame's payload

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

FRAME_HEAD = Struct(">HBBBL")  # length (16 and 8 bits), type, flags, stream
NUMBER = Struct(">L")
TWO_NUMBERS = Struct(">LL")
SETTING = Struct(">HL")


class Error(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


class Breach(Exception):
    """A connection error (§5.4.1)."""

    def __init__(self, code: Error, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A whole one."""
    return FRAME_HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def stripped(payload: bytes, flags: int) -> bytes:
    """Without padding, and without a priority."""
    at, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Breach(Error.FRAME_SIZE_ERROR, "padding of no length")
        at, end = 1, end - payload[0]
    if flags & PRIORITISED:
        at += 5
    if at > end:
        raise Breach(Error.PROTOCOL_ERROR, "more padding than frame")
    return payload[at:end]
