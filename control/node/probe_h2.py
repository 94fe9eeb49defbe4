"""Health checks by HTTP/2: a request like any other, or gRPC's health protocol (grpc.health.v1.Health/Check).

One request on a connection of its own, by the h2 library; what is too much or is no HTTP/2 is an unhealthy answer. The
two messages of gRPC's protocol have one field each, a string of the service's name and a number of its status, so that
they are read and written here by hand (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

READ_BYTES: Final = 65_536
MESSAGE_BYTES: Final = 4096  # a health answer has two
PATH: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = 1
_KIND: Final = 3  # where a frame says what it is; a server's first is SETTINGS (RFC 9113 §3.4)
_SETTINGS: Final = b"\4"
STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
# https://grpc.github.io/grpc/core/md_doc_statuscodes.html; those that health services answer with
CODES: Final = {"5": "NOT_FOUND: it does not know the service", "12": "UNIMPLEMENTED: it has no health service"}

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)  # of the head and the trailers
    body: bytes = b""
    ended: bool = False


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Headers, body: bytes = b"", *,
    whole: bool = False,
) -> Answer | str:  # fmt: skip
    """The answer's head, or all of it (`whole`); else why there is none. Times are the caller's to limit."""
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    answer, seen = Answer(), False
    try:
        connection.send_headers(1, headers, end_stream=not body)
        if body:
            connection.send_data(1, body, end_stream=True)
        while not (answer.ended if whole else answer.status):
            writer.write(connection.data_to_send())
            data = await reader.read(READ_BYTES)
            if not data:
                return "the connection was closed before the answer"
            if not seen and data[_KIND : _KIND + 1] not in (b"", _SETTINGS):
                return "the answer is not HTTP/2"  # the library waits for the rest of such a frame
            seen = True
            for event in connection.receive_data(data):
                if why := _take(event, answer, connection):
                    return why
    except (ProtocolError, UnicodeDecodeError):
        return "the answer is not HTTP/2"
    connection.close_connection()
    writer.write(connection.data_to_send())
    return answer


def _take(event: Event, answer: Answer, connection: H2Connection) -> str:
    """Notes what an event says; why nothing more is to be expected, if that is so."""
    if isinstance(event, ResponseReceived):
        answer.fields = _texts(event.headers)
        answer.status = int(answer.fields.get(":status", "0"))
    elif isinstance(event, TrailersReceived):
        answer.fields |= _texts(event.headers)
    elif isinstance(event, DataReceived):
        answer.body += event.data
        connection.acknowledge_received_data(event.flow_controlled_length, 1)
        if len(answer.body) > MESSAGE_BYTES:
            return "the answer is too long"
    elif isinstance(event, StreamEnded):
        answer.ended = True
    elif isinstance(event, StreamReset):
        return f"the request was reset with error {int(event.error_code)}"
    elif isinstance(event, ConnectionTerminated):
        return f"the server went away with error {int(event.error_code or 0)}"
    return ""


def _texts(headers: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Fields, which the library says to be of bytes or text, as it is configured: here they are text."""
    return {str(name): str(value) for name, value in headers}


def request(method: str, scheme: str, authority: str, path: str) -> Headers:
    """The head of an http check."""
    return [
        (":method", method), (":scheme", scheme), (":path", path), (":authority", authority),
        ("user-agent", "paifang-health"), ("accept", "*/*"),
    ]  # fmt: skip


def check(scheme: str, authority: str, service: str) -> tuple[Headers, bytes]:
    """The head and the body of a HealthCheckRequest."""
    headers = [
        (":method", "POST"), (":scheme", scheme), (":path", PATH), (":authority", authority),
        ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "paifang-health"),
    ]  # fmt: skip
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return headers, b"\0" + len(message).to_bytes(4) + message


def verdict(answer: Answer) -> tuple[bool, str]:
    """Whether a HealthCheckResponse says SERVING, and what it says."""
    if answer.status != 200:
        return False, f"status {answer.status}"
    code = answer.fields.get("grpc-status", "")
    if code != "0":
        return False, f"grpc-status {CODES.get(code) or code or 'missing'}"
    status = _status(answer.body)
    if status is None:
        return False, "the answer is no HealthCheckResponse"
    return status == SERVING, STATUSES.get(status, f"status {status}")


def _status(body: bytes) -> int | None:
    """Field 1 of the one message in the body, 0 if it is not there; None for what is no such message."""
    if len(body) < 5 or body[0] or len(body) - 5 != int.from_bytes(body[1:5]):
        return None
    message, at, status = body[5:], 0, 0
    try:
        while at < len(message):
            key, at = _read_varint(message, at)
            if key & 7 == 0:
                value, at = _read_varint(message, at)
                status = value if key >> 3 == 1 else status
            elif key & 7 == 2:
                length, at = _read_varint(message, at)
                at += length
            elif key & 7 in (1, 5):
                at += 8 if key & 7 == 1 else 4
            else:
                return None
    except IndexError:
        return None
    return status if at == len(message) else None


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Raises IndexError where the message ends within it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise IndexError
