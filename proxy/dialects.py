"""What an exchange and its two sides say to each other, whatever version of HTTP they speak.

    client ── ClientDialect ──► exchange ──► ServerDialect ──► server        the request
    client ◄── ClientDialect ── exchange ◄── ServerDialect ◄── server        the answer

An exchange (exchange.py) knows heads, payload, trailers and ends: no chunk, no status line, no frame. A dialect knows
nothing of rules, servers or retries: it makes commands of what it is told, and of the bytes that it hears what an
exchange understands. HTTP/1's are in http1.py, whose commands carry the bytes of the wire; those of HTTP/2 give heads,
payload and ends as commands of their own (commands.py), since streams share a connection that writes for all of them.

A request has one client dialect, from its connection, and one server dialect for each connection that it is sent on:
`Exchange.assigned` is given it. What stands between the two (changed heads, an encoded payload) belongs into the
exchange: `_answer` sees each answer's head before the client, `_pass_on` each piece of its payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from proxy.commands import Command
from proxy.errors import Refused
from proxy.message import Outgoing, ResponseHead


class Piece(NamedTuple):
    """A part of an answer's body. `ended`: the last one, behind which the `trailers` stood, whole lines.

    `sound`: nothing that this answer did forbids another request on its connection.
    """

    payload: bytes
    ended: bool = False
    trailers: bytes = b""
    sound: bool = False


# What has come; a refusal is the last.
Heard = ResponseHead | Piece | Refused


class ClientDialect(Protocol):
    """One request of a client: its body as it is heard, and what its client is told."""

    @property
    def done(self) -> bool:
        """Whether the request's body has been heard whole."""

    @property
    def trailers(self) -> bytes:
        """Those of the request, once it is done: whole lines, checked, and not yet chosen from."""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """The payload in `data`, and what is not (yet) consumed. Raises Refused."""

    def interim(self, head: ResponseHead) -> list[Command]:
        """An answer of 1xx, but for 101."""

    def switch(self, head: ResponseHead, upgrade: bytes, lines: bytes, node: bytes, data: bytes) -> list[Command]:
        """A tunnel begins, of which the server has sent `data` already. `lines`: of the head, those that pass."""

    def framing(self, head: ResponseHead) -> bytes:
        """The line of the head that says how long the body is, or nothing. A length of CHUNKED is not known."""

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        """The answer's head, which goes out with the first `send`. Whether the connection can go on after it."""

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        """Payload, which may be empty; `ended`: the last. `trailers`: those that may go on."""

    def reply(self, status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> list[Command]:
        """A whole answer of our own."""


class ServerDialect(Protocol):
    """One request on one connection to a server. `upgrades`: it may become a tunnel."""

    upgrades: bool

    @property
    def partial(self) -> bool:
        """Whether an answer's head is here in part."""

    @property
    def untouched(self) -> bool:
        """Whether nothing has been heard yet."""

    def request(self, request: Outgoing, *, ended: bool) -> list[Command]:
        """The head. `ended`: no body follows, or an empty one."""

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        """Payload of the body, which may be empty; `ended`: the last. `trailers`: whole lines that may go on."""

    def receive(self, data: bytes) -> Sequence[Heard]:
        """What came. A head of 101 stands before the first piece of the tunnel, behind which nothing stands."""

    def close(self) -> Piece | None:
        """The connection has ended in the midst of a body: its last piece, if that was to be its end."""
