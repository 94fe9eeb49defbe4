"""A small DNS server for tests: what it is told to say, over UDP and TCP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """`records`: {(name, type): (ttl, [text…])}. A name that has no records of any type does not exist.

    `broken`: "silent" answers nothing, "servfail" fails, "truncated" refers to TCP.
    """

    def __init__(self, records: dict[tuple[str, str], tuple[int, list[str]]]) -> None:
        self.records = records
        self.broken = ""
        self.asked: Counter[tuple[str, str]] = Counter()
        self.by_tcp = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[NameServer]:
        server = await asyncio.start_server(self._stream, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", self.port))
        try:
            yield self
        finally:
            transport.close()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.broken != "silent":
            self._transport.sendto(self._answer(data, by_tcp=False), addr)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = self._answer(await reader.readexactly(size), by_tcp=True)
        self.by_tcp += 1
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _answer(self, data: bytes, *, by_tcp: bool) -> bytes:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        alias = self.records.get((name, "CNAME"))
        if alias is not None:
            answer.answer.append(dns.rrset.from_text(question.name, alias[0], "IN", "CNAME", *alias[1]))
            name = alias[1][0].removesuffix(".")
        found = self.records.get((name, kind))
        if self.broken == "servfail":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif self.broken == "truncated" and not by_tcp:
            answer.flags |= dns.flags.TC
        elif found is not None:
            answer.answer.append(dns.rrset.from_text(f"{name}.", found[0], "IN", kind, *found[1]))
        elif name not in {each for each, _ in self.records}:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()
