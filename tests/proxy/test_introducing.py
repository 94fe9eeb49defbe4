"""Servers are told whose a connection is by the PROXY protocol; a connection that says so is never another client's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from core.model import BackendService, Model, ProxyHeader, ProxyProtocol, Server, ServerGroup
from core.proxy_protocol import LOCAL, Header, Tls, read, write
from proxy.errand import Answer, Errand
from proxy.explain import Wanted, request
from proxy.origin import Origin
from proxy.tls import TlsServer
from proxy.upstream import UpstreamConnection
from tests.proxy.h2_support import h2
from tests.proxy.support import ANSWER, Client, free_port, model, proxy, with_options, with_service
from tests.proxy.test_https import KEY, connect, https
from tests.proxy.tls_support import LOOPS, LocalKeys, certificate, run
from tests.waiting import until


@dataclass
class Told:
    """A server that is told: for each connection its header, and the heads of the requests that came on it."""

    port: int = 0
    path: str = ""
    holds: bool = False  # answers when it is told to go on
    came: list[tuple[Header, list[bytes]]] = field(default_factory=list)
    ended: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Told]:
        self._writers: list[asyncio.StreamWriter] = []
        self.go_on = asyncio.Event()
        if self.path:
            server = await asyncio.start_unix_server(self._serve, self.path)
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            for writer in self._writers:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        data = b""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while (found := read(data)) is None:
                data += await reader.readexactly(1)
            header, heads = found[0], []
            self.came.append((header, heads))
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                if self.holds:
                    await self.go_on.wait()
                writer.write(ANSWER)
        self.ended += 1
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def telling(base: Model, how: ProxyHeader) -> Model:
    return with_service(with_options(base, x_forwarded_client_port=True), proxy_protocol=how)


def own_end(client: Client) -> tuple[str, int]:
    address, port = client.writer.get_extra_info("sockname")
    return address, port


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", [ProxyHeader.V1, ProxyHeader.V2])
def test_no_connection_is_another_clients(how: ProxyHeader, loop: str) -> None:
    """Many clients at once, each with requests one after the other: each of their connections has its own address."""

    async def main() -> None:
        async with Told().running() as server, proxy(telling(model(free_port(), [server.port]), how)) as l7:
            ends: list[tuple[str, int]] = []

            async def visit() -> None:
                client = await l7.connect()
                ends.append(own_end(client))
                for number in range(10):
                    assert (await client.ask(f"/{number}"))[0] == 200
                await client.close()

            await asyncio.gather(*(visit() for _ in range(20)))
            here = ("127.0.0.1", l7.port)
            assert sorted(header.source for header, _ in server.came if header.source) == sorted(ends)
            for header, heads in server.came:
                assert (header.version, header.destination) == (how.version, here)
                assert len(heads) == 10, "one connection for all requests of a client"
                assert header.source is not None
                port = b"X-Forwarded-Client-srcport: %d\r\n" % header.source[1]
                assert all(port in head for head in heads)
            assert len(l7.records) == 200

    run(main(), loop)


async def test_a_clients_connections_end_with_it() -> None:
    async with Told().running() as server, proxy(telling(model(free_port(), [server.port]), ProxyHeader.V2)) as l7:
        stays, goes = await l7.connect(), await l7.connect()
        for client in (stays, goes):
            await client.ask()
        await goes.close()
        await until(lambda: l7.worker.connections == 1)
        l7.worker._next_expiry = 0  # as some seconds later
        await until(lambda: server.ended == 1)
        assert (await stays.ask())[0] == 200
        assert len(server.came) == 2
        await stays.close()


async def test_what_began_otherwise_is_not_used_again() -> None:
    """A connection without a header, or with one of another version, is not used when that has changed."""
    async with Told().running() as server:
        base = telling(model(free_port(), [server.port]), ProxyHeader.V1)
        async with proxy(base) as l7:
            client = await l7.connect()
            for how in (ProxyHeader.V1, ProxyHeader.V2, ProxyHeader.V1):
                await l7.worker.apply(telling(base, how))
                for _ in range(2):
                    assert (await client.ask())[0] == 200
            await client.close()
    assert [(header.version, len(heads)) for header, heads in server.came] == [(1, 2), (2, 2), (1, 2)]


async def test_what_is_in_use_at_a_change_is_not_used_again_either() -> None:
    """Nor by requests that tell nobody anything, which take any connection."""
    async with Told(holds=True).running() as server:
        base = telling(model(free_port(), [server.port]), ProxyHeader.V1)
        async with proxy(base) as l7:
            client = await l7.connect()
            asked = asyncio.create_task(client.ask())
            await until(lambda: server.came and server.came[0][1])
            await l7.worker.apply(telling(base, ProxyHeader.OFF))
            server.go_on.set()
            assert (await asked)[0] == 200
            assert not [each for member in l7.hub.services["app"].pool._members for each in member.idle]
            await client.close()


async def test_tls_and_name_of_the_client_are_told() -> None:
    tls = TlsServer(LocalKeys([KEY]))
    async with Told().running() as server:
        base = telling(https(free_port(), server.port, certificate(KEY, ["web.test"])), ProxyHeader.V2)
        async with proxy(base, tls) as l7:
            client = await connect(l7)
            assert (await client.ask())[0] == 200
            await client.close()
    await tls.close()
    (header, _), *_ = server.came
    assert header.authority == "web.test"
    assert header.tls is not None
    assert re.fullmatch(r"TLS_\w+", header.tls.cipher)
    assert header.tls == Tls("TLSv1.3", header.tls.cipher)


async def test_what_a_proxy_in_front_of_us_has_told_is_told_on() -> None:
    told = Header(2, ("2001:db8::9", 51000), ("192.0.2.10", 443), b"h2", "told.test", b"\0id", Tls("TLSv1.2", "X"))
    async with Told().running() as server:
        base = telling(model(free_port(), [server.port]), ProxyHeader.V2)
        base = with_options(base, proxy_protocol=ProxyProtocol.REQUIRED, proxy_protocol_from=("127.0.0.0/8",))
        async with proxy(base) as l7:
            client = await l7.connect()
            client.writer.write(write(told))
            assert (await client.ask())[0] == 200
            await client.close()
    # Not the ALPN: it is what the client speaks to the proxy, not what we speak to the server.
    assert [header for header, _ in server.came] == [replace(told, alpn=b"")]


async def test_streams_of_http2_share_what_is_their_clients() -> None:
    """A header before the preface; a connection of the client's for as many streams as there are at a time."""
    told = Header(2, ("203.0.113.9", 51000), ("192.0.2.10", 80))
    async with Told().running() as server:
        base = telling(model(free_port(), [server.port]), ProxyHeader.V2)
        base = with_options(
            base,
            proxy_protocol=ProxyProtocol.REQUIRED,
            proxy_protocol_from=("127.0.0.0/8",),
            http2_prior_knowledge=True,
        )
        async with proxy(base) as l7, h2(l7, greeted=False) as client:
            client.writer.write(write(told))
            client.greet()
            for number in (3, 1, 1):
                for stream in [client.ask() for _ in range(number)]:
                    assert (await client.answer(stream)).status == 200
            assert {record.client for record in l7.records} == {"203.0.113.9"}
    assert {header for header, _ in server.came} == {told}
    assert len(server.came) <= 3
    assert sum(len(heads) for _, heads in server.came) == 5


async def test_what_we_ask_ourselves_is_ours() -> None:
    """Who finds out about a client for us is told of no client, and one connection does for all."""
    async with Told().running() as server, proxy(telling(model(free_port(), [server.port]), ProxyHeader.V2)) as l7:
        origin = Origin(b"203.0.113.9", b"http", b"80", False, b"l7-1")
        for _ in range(2):
            answer = await Errand(l7.hub, "app", origin, 1000).ask("app", b"a", b"/", (), b"", 20)
            assert isinstance(answer, Answer)
            assert answer.status == 200
    assert [(header, len(heads)) for header, heads in server.came] == [(LOCAL, 2)]


async def test_a_server_at_a_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path(f"/tmp/pf-{free_port()}.sock")
    try:
        async with Told(path=str(path)).running() as server:
            base = telling(model(free_port(), [1]), ProxyHeader.V1)
            group = ServerGroup("app", (Server(f"unix:{path}"),))
            async with proxy(replace(base, server_groups={"app": group})) as l7:
                client = await l7.connect()
                assert (await client.ask())[0] == 200
                source = own_end(client)
                await client.close()
        assert [header.source for header, _ in server.came] == [source]
    finally:
        path.unlink(missing_ok=True)


async def test_a_fallback_has_its_own_way_of_being_told() -> None:
    async with Told().running() as server, AsyncExitStack() as stack:
        base = telling(model(free_port(), [server.port]), ProxyHeader.V2)
        empty = replace(base.server_groups["app"], name="none", servers=())
        base = replace(base, server_groups={**base.server_groups, "none": empty})
        base = with_service(base, "main", server_group="none", fallback="app", proxy_protocol=ProxyHeader.OFF)
        base = with_options(base, backend_service="main")
        l7 = await stack.enter_async_context(proxy(base))
        client = await l7.connect()
        assert (await client.ask())[0] == 200
        assert (await client.ask())[0] == 200
        ends = [own_end(client)]
        await client.close()
    assert [header.source for header, _ in server.came] == ends


async def test_nobody_gets_a_connection_that_has_come_too_late() -> None:
    """A client that goes while we connect for it leaves no connection that says it is his."""
    async with Told().running() as server, proxy(telling(model(free_port(), [server.port]), ProxyHeader.V2)) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.writer.transport.abort()
        await until(lambda: l7.hub.counters["connections"] == 1 and not l7.worker.connections)
        other = await l7.connect()
        assert (await other.ask())[0] == 200
        used = [header.source for header, heads in server.came if heads]
        assert own_end(other) in used
        await other.close()


def test_explained() -> None:
    told = request(telling(model(80, [9000]), ProxyHeader.V2), Wanted("http://a.test/", client=("203.0.113.9", 1)))
    (text,) = [step.text for step in told.steps if step.what == "PROXY header"]
    assert text == (
        "the connection begins with a header of version 2, which tells the client's address, 203.0.113.9; no other "
        "client's requests use it"
    )
    told = request(model(80, [9000]), Wanted("http://a.test/"))
    assert "PROXY header" not in [step.what for step in told.steps]


def test_orphans_have_an_owner_that_has_gone() -> None:
    class Transport(asyncio.Transport):
        closing = False

        def is_closing(self) -> bool:
            return self.closing

    upstream = UpstreamConnection(None, ("127.0.0.1", 1), bytearray())  # type: ignore[arg-type]
    assert not upstream.is_orphan()
    upstream.owner = owner = Transport()
    assert not upstream.is_orphan()
    owner.closing = True
    assert upstream.is_orphan()


def test_the_default_tells_nothing() -> None:
    assert BackendService("", "http").proxy_protocol.version == 0  # type: ignore[arg-type]
