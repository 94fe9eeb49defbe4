"""A client whose answer is encoded on its way: a dialect around the client's own (proxy/dialects.py)."""

from __future__ import annotations

from proxy.changes import Changes
from proxy.commands import Command, FlushSoon
from proxy.compression import DIGESTS, Case, Compressing, with_fate
from proxy.dialects import ClientDialect
from proxy.encoders import Encoder, encoder
from proxy.headers import without
from proxy.message import CHUNKED, NO_BODY, ResponseHead

_SOON = FlushSoon()


class EncodedClient:
    """Encodes the payload of the answer that `client` is told. See ClientDialect."""

    __slots__ = ("_client", "_flushes", "encoder")

    def __init__(self, client: ClientDialect, encoder: Encoder) -> None:
        self._client, self.encoder = client, encoder
        self._flushes = False  # somebody asks for what is held back in a moment

    @property
    def done(self) -> bool:
        return self._client.done

    @property
    def trailers(self) -> bytes:
        return self._client.trailers

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        return self._client.receive(data)

    def interim(self, head: ResponseHead) -> list[Command]:
        return self._client.interim(head)

    def switch(self, head: ResponseHead, upgrade: bytes, lines: bytes, node: bytes, data: bytes) -> list[Command]:
        return self._client.switch(head, upgrade, lines, node, data)

    def framing(self, head: ResponseHead) -> bytes:
        return self._client.framing(head)

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        return self._client.begin(head, lines, keep_alive=keep_alive)

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        encoder = self.encoder
        kept = without(trailers, DIGESTS) if trailers else b""
        sent = self._client.send(encoder.encode(payload, ended=ended), ended=ended, trailers=kept)
        if encoder.holds and not self._flushes:
            self._flushes = True
            sent.append(_SOON)
        return sent

    def flush(self) -> list[Command]:
        """The moment of `FlushSoon` is over."""
        self._flushes = False
        return self._client.send(self.encoder.flush(), ended=False)

    def reply(self, status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> list[Command]:
        return self._client.reply(status, lines, body, hsts, close=close)


def encoded(
    client: ClientDialect, compressing: Compressing, case: Case, head: ResponseHead, changes: Changes | None
) -> tuple[ClientDialect, ResponseHead, Changes | None]:
    """Whom to tell of an answer, its head, and what changes in that, with its fate. `changes`: without."""
    fate = compressing.fate(case, head.status, head.block.length, head)
    if fate is None:
        return client, head, changes
    if fate.coding is not None:
        made = encoder(fate.coding, compressing.settings, prompt=fate.prompt)
        if made is None:
            return client, head, with_fate(changes, fate.plain())
        length = head.length
        if length != NO_BODY:  # as after HEAD, whose head is as for GET
            client, length = EncodedClient(client, made), CHUNKED
        head = head._replace(length=length, block=head.block._replace(length=CHUNKED))
    return client, head, with_fate(changes, fate)
