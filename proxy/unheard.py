"""A client that is none: what an exchange has in its place where nobody is told how a request went."""

from __future__ import annotations

from proxy.commands import Command
from proxy.message import ResponseHead


class Unheard:
    """Takes whatever it is told, and has nothing more to say. See ClientDialect."""

    done = True
    trailers = b""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        return b"", data

    def interim(self, head: ResponseHead) -> list[Command]:
        return []

    def switch(self, head: ResponseHead, upgrade: bytes, lines: bytes, node: bytes, data: bytes) -> list[Command]:
        return []

    def framing(self, head: ResponseHead) -> bytes:
        return b""

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        return False

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        return []

    def reply(self, status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> list[Command]:
        return []
