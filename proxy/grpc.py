"""Calls of gRPC: which requests are calls, until when, and how a call is told what went wrong.

A call is a POST by HTTP/2 whose type is application/grpc; what became of it stands in the trailers `grpc-status` and
`grpc-message`, and the status of HTTP is 200 (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). So a reply of
ours is such an answer, without a body: clients would make INTERNAL or UNKNOWN of the page that browsers get. Where an
answer has begun, its end says it.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import Code
from proxy.h2_message import VERSION
from proxy.message import Block, Fields, RequestHead

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15
UNAUTHENTICATED: Final = 16
# By number.
NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
COUNTED: Final = "grpc_calls_"  # and one of them, or NO_STATUS: the names of counters
NO_STATUS: Final = "none"  # that a call was told, or one that there is not
# What a server says of itself, as 5xx does; see Outcome.ERROR.
FAULTS: Final = frozenset((UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS))

_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.IGNORECASE)  # and not application/grpc-web
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_STATUS = re.compile(rb"(?i:(?:^|\r\n)grpc-status:)[ \t]*([0-9]{1,2})[ \t]*\r\n")
_NOT_PLAIN = re.compile(rb"[^ -$&-~]")
# Beside the table that clients use themselves (doc/http-grpc-status-mapping.md): they cannot tell whose limit or whose
# time was over.
_OF_CODES: Final = {
    Code.UPSTREAM_TIMEOUT: DEADLINE_EXCEEDED,
    Code.TOTAL_TIMEOUT: DEADLINE_EXCEEDED,
    Code.BODY_TIMEOUT: DEADLINE_EXCEEDED,
    Code.QUEUE_FULL: RESOURCE_EXHAUSTED,
    Code.QUEUE_TIMEOUT: RESOURCE_EXHAUSTED,
    Code.OVERLOADED: RESOURCE_EXHAUSTED,
    Code.REQUESTS_FULL: RESOURCE_EXHAUSTED,
}
_OF_STATUSES: Final = {
    400: INTERNAL, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: UNIMPLEMENTED, 405: UNIMPLEMENTED,
    408: DEADLINE_EXCEEDED, 413: RESOURCE_EXHAUSTED, 429: RESOURCE_EXHAUSTED, 431: RESOURCE_EXHAUSTED,
    499: CANCELLED, 501: UNIMPLEMENTED, 502: UNAVAILABLE, 503: UNAVAILABLE, 504: UNAVAILABLE,
}  # fmt: skip


def is_call(head: RequestHead) -> bool:
    """Whether a request is one of gRPC."""
    block = head.block
    if head.method != b"POST" or block.version != VERSION:
        return False
    types = block.values(b"content-type")
    return len(types) == 1 and _TYPE.fullmatch(types[0]) is not None


def timeout_s(fields: Fields) -> float:
    """How long the client waits for a call; 0: it does not say, or what it says is not to be understood."""
    said = fields.values(b"grpc-timeout")
    found = _TIMEOUT.fullmatch(said[0]) if len(said) == 1 else None
    return int(found[1]) * _UNITS_S[found[2]] if found is not None else 0.0


def status_of(code: Code, status: int) -> int:
    """What a call is told for an error of ours, which would have this status of HTTP."""
    return _OF_CODES.get(code) if code in _OF_CODES else _OF_STATUSES.get(status, UNKNOWN)  # type: ignore[return-value]


def said(block: Block) -> int | None:
    """The status of a call whose answer is a head alone."""
    values = block.values(b"grpc-status")
    return int(values[0]) if len(values) == 1 and values[0].isdigit() and len(values[0]) < 3 else None


def said_in(trailers: bytes) -> int | None:
    """The status of a call in these lines."""
    found = _STATUS.search(trailers)
    return int(found[1]) if found is not None else None


def counted(status: int | None) -> str:
    """The counter of calls that were told this."""
    return COUNTED + (NAMES[status] if status is not None and status < len(NAMES) else NO_STATUS)


def lines(status: int, message: str) -> bytes:
    """The lines that say what became of a call."""
    text = _NOT_PLAIN.sub(lambda byte: b"%%%02X" % byte[0][0], message.encode())
    return b"grpc-status: %d\r\ngrpc-message: %b\r\n" % (status, text)


def reply_lines(status: int, message: str, identifier: bytes, node: bytes, date: bytes, more: bytes) -> bytes:
    """The lines of a whole answer that says so; `more`: what belongs to it besides."""
    return b"Date: %b\r\nContent-Type: application/grpc\r\n%bVia: 1.1 %b\r\nX-Request-Id: %b\r\n%b" % (
        date, lines(status, message), node, identifier, more,
    )  # fmt: skip
