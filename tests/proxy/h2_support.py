"""A client of HTTP/2 for tests: frames by hand, so that it can be as wrong as it likes."""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import hpack as library

from proxy import hpack
from proxy.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Setting,
    frame,
)
from tests.proxy.support import Proxy
from tests.waiting import until

Pair = tuple[bytes, bytes]
PLAIN: list[Pair] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
WEBSOCKET: list[Pair] = [
    (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":authority", b"a"),
    (b":path", b"/ws"), (b"sec-websocket-version", b"13"),
]  # fmt: skip


def with_fields(*fields: Pair) -> list[Pair]:
    """PLAIN with these in the place of those of the same name, and others behind it."""
    names = [name for name, _ in fields]
    pseudo = dict(fields)
    kept = [(name, pseudo.pop(name, value)) for name, value in PLAIN]
    return kept + [pair for pair in fields if pair[0] not in dict(PLAIN) or names.count(pair[0]) > 1]


@dataclass
class Answer:
    """What has come on a stream. `reset`: by this code; `interim`: the statuses before."""

    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    trailers: list[Pair] = field(default_factory=list)
    interim: list[bytes] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.fields.get(b":status", b"0"))

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Raw:
    """One connection. `credits`: what comes is acknowledged, so that more may."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, credits: bool = True) -> None:
        self.reader, self.writer = reader, writer
        self.credits = credits
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.kinds: list[int] = []
        self.goaways: list[tuple[int, int, bytes]] = []  # last stream, code, what is said
        self.settings: dict[int, int] = {}
        self.credited: dict[int, int] = defaultdict(int)
        self.closed = False
        self._next = 1
        self._decoder = library.Decoder()
        self._block = b""
        self._task = asyncio.create_task(self._read())

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def greet(self, **settings: int) -> None:
        payload = b"".join(struct.pack(">HL", Setting[name], value) for name, value in settings.items())
        self.send(PREFACE, frame(SETTINGS, 0, 0, payload))

    def ask(self, fields: Sequence[Pair] = PLAIN, body: bytes | None = None, *, ended: bool = True) -> int:
        """A request; its stream. With `body`, or not `ended`, data follows its head."""
        stream, self._next = self._next, self._next + 2
        last = ended and body is None
        self.head(stream, hpack.encode(fields), ended=last)
        if body is not None:
            self.data(stream, body, ended=ended)
        return stream

    def head(self, stream: int, block: bytes, *, ended: bool) -> None:
        parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        for number, part in enumerate(parts, 1):
            flags = (END_HEADERS if number == len(parts) else 0) | (END_STREAM if ended and number == 1 else 0)
            self.send(frame(HEADERS if number == 1 else CONTINUATION, flags, stream, part))

    def data(self, stream: int, body: bytes, *, ended: bool = False) -> None:
        parts = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
        for part in parts[:-1]:
            self.send(frame(DATA, 0, stream, part))
        self.send(frame(DATA, END_STREAM if ended else 0, stream, parts[-1]))

    def trailers(self, stream: int, fields: Sequence[Pair]) -> None:
        self.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, hpack.encode(fields)))

    def reset(self, stream: int, code: int = 8) -> None:
        self.send(frame(RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    def credit(self, stream: int, size: int) -> None:
        self.send(frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")))

    async def room(self, stream: int, sent: int) -> None:
        """Until another 64 KiB may be sent on a stream."""
        await until(lambda: self.credited[stream] >= sent, f"room behind {sent} bytes", limit_s=20)

    async def answer(self, stream: int) -> Answer:
        """That of a stream, once it is over."""
        answer = self.answers[stream]
        await until(lambda: answer.over or self.closed, f"stream {stream}", limit_s=20, said=lambda: repr(answer))
        return answer

    async def get(self, *fields: Pair, body: bytes | None = None) -> Answer:
        return await self.answer(self.ask(with_fields(*fields), body))

    async def ended(self) -> None:
        await until(lambda: self.closed, "the connection's end", limit_s=20)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self._hear(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        self.closed = True

    def _hear(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.kinds.append(kind)
        answer = self.answers[stream]
        if kind in (HEADERS, CONTINUATION):
            self._block += payload
            answer.ended = answer.ended or bool(kind == HEADERS and flags & END_STREAM)
            if flags & END_HEADERS:
                self._fields(answer)
        elif kind == DATA:
            answer.body += payload
            answer.ended = bool(flags & END_STREAM)
            if self.credits and payload:
                self.credit(0, len(payload))
                if not answer.ended:
                    self.credit(stream, len(payload))
        elif kind == RST_STREAM:
            answer.reset = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"), payload[8:]))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.settings |= {int(name): value for name, value in struct.iter_unpack(">HL", payload)}
            self.send(frame(SETTINGS, ACK))
        elif kind == WINDOW_UPDATE:
            self.credited[stream] += int.from_bytes(payload, "big")

    def _fields(self, answer: Answer) -> None:
        block, self._block = self._block, b""
        fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        if answer.fields:
            answer.trailers = fields
        elif fields[0][1].startswith(b"1"):
            answer.interim.append(fields[0][1])
        else:
            answer.fields = dict(fields)


@asynccontextmanager
async def h2(l7: Proxy, *, greeted: bool = True, credits: bool = True, **settings: int) -> AsyncIterator[Raw]:
    """A connection to the proxy with prior knowledge."""
    reader, writer = await asyncio.open_connection("127.0.0.1", l7.port)
    client = Raw(reader, writer, credits=credits)
    if greeted:
        client.greet(**settings)
    try:
        yield client
    finally:
        await client.close()
