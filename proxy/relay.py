"""The body of an answer on its way down, from the framing that the server chose to the one that the client can read.

A length stays a length. A body whose end nobody knew beforehand, chunked or ended by the connection's end, is chunked
for HTTP/1.1 and ended by the connection's end for HTTP/1.0. Chunks are made anew, so that no extension passes, and
trailers go only to who reads them (RFC 9110 §6.5.1).
"""

from __future__ import annotations

from proxy import headers
from proxy.body import LAST_CHUNK, BodyReader, ChunkedReader, chunk, last_chunk, reader
from proxy.message import CHUNKED, UNTIL_CLOSE


class Relay:
    """One body, which is `length` long (see `message.Block`), for a client of HTTP/1.`minor`.

    `trailers`: the client reads them. `ends_connection`: the client can see its end only by that of the connection.
    """

    __slots__ = ("_chunks", "_length", "_reader", "ends_connection")

    def __init__(self, length: int, minor: int, *, trailers: bool) -> None:
        endless = length in (CHUNKED, UNTIL_CLOSE)
        self._length = length
        self._chunks = endless and minor == 1
        self.ends_connection = endless and minor == 0
        kept = self._chunks and trailers and length == CHUNKED
        self._reader: BodyReader = ChunkedReader(keep_trailers=True) if kept else reader(length)

    def receive(self, data: bytes) -> tuple[bytes, bytes | None]:
        """What goes to the client, and what came behind the body's end; None before that. Raises Refused."""
        payload, surplus = self._reader.receive(data)
        done = self._reader.done
        if self._chunks:
            payload = chunk(payload) if payload else b""
            if done:
                payload += self._last_chunk()
        return payload, surplus if done else None

    def close(self) -> bytes | None:
        """The server has closed the connection: what goes to the client; None if that was not to be the end."""
        if self._length != UNTIL_CLOSE:
            return None
        return LAST_CHUNK if self._chunks else b""

    def _last_chunk(self) -> bytes:
        """With the trailers for a client that asked for them."""
        kept = self._reader.trailers if isinstance(self._reader, ChunkedReader) else b""
        return last_chunk(headers.trailer_lines(bytes(kept))) if kept else LAST_CHUNK
