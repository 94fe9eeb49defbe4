"""A client that sends what it is told, byte by byte if need be, to see what the server makes of it."""

import asyncio
import ssl
from pathlib import Path

from keyserver.protocol import Event, Hello, Message, Welcome, client_side, encode


class RawClient:
    """A connection without manners: it greets only if asked to, and sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.wire = client_side()
        self.wire.data_to_send()
        self.seen: list[Event] = []

    @classmethod
    async def unix(cls, path: Path, *, greet: bool = True) -> "RawClient":
        return await cls._greeted(cls(*await asyncio.open_unix_connection(path)), greet)

    @classmethod
    async def tcp(cls, port: int, context: ssl.SSLContext, *, greet: bool = True) -> "RawClient":
        return await cls._greeted(cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context)), greet)

    @staticmethod
    async def _greeted(client: "RawClient", greet: bool) -> "RawClient":
        if greet:
            await client.send(Hello())
            assert isinstance(await client.receive(), Welcome)
        return client

    async def send(self, *messages: Message | bytes) -> None:
        self.writer.write(b"".join(m if isinstance(m, bytes) else encode(m) for m in messages))
        await self.writer.drain()

    async def receive(self) -> Event | None:
        """The next event, or None at the connection's end."""
        while not self.seen:
            try:
                data = await asyncio.wait_for(self.reader.read(65536), 10)
            except ConnectionError:
                return None
            if not data:
                return None
            self.wire.receive_data(data)
            self.seen += self.wire.events()
        return self.seen.pop(0)

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
