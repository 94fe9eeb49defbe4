"""Connections that begin with a header of the PROXY protocol: whose they are from then on, and who may say so."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from core.model import AccessList, Acl, Model, ProxyProtocol, Scheduler
from core.proxy_protocol import LOCAL, Header, Tls, write
from proxy.introduction import Introduced
from proxy.tls import TlsServer
from tests.proxy.support import Backend, Client, Proxy, free_port, model, proxy, with_options
from tests.proxy.test_gate import ends
from tests.proxy.test_https import KEY, https
from tests.proxy.tls_support import LOOPS, LocalKeys, certificate, client_context, run
from tests.waiting import until

SOMEBODY, VIP = ("203.0.113.9", 51000), ("192.0.2.10", 8443)
HEADERS = {
    "v1": write(Header(1, SOMEBODY, VIP)),
    "v2": write(Header(2, SOMEBODY, VIP)),
    "v2 with much": write(Header(2, SOMEBODY, VIP, b"h2", "told.test", b"id" * 64, Tls("TLSv1.3", "X", True, True))),
}
REQUEST = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


def introduced(
    base: Model, how: ProxyProtocol = ProxyProtocol.REQUIRED, *by: str, **options: Any
) -> Model:  # fmt: skip
    return with_options(base, proxy_protocol=how, proxy_protocol_from=by or ("127.0.0.0/8",), **options)


async def asks(l7: Proxy, header: bytes, request: bytes = REQUEST) -> tuple[Client, tuple[int, bytes]]:
    client = await l7.connect()
    client.writer.write(header + request)
    return client, await client.answer()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_the_told_address_is_the_clients(name: str, pieces: str, loop: str) -> None:
    """Header and request in one piece, and byte by byte."""

    async def main() -> None:
        data = HEADERS[name] + REQUEST
        async with (
            Backend().running() as backend,
            proxy(introduced(model(free_port(), [backend.port]), x_forwarded_client_port=True,
                             x_forwarded_slb_ip=True)) as l7,
        ):  # fmt: skip
            client = await l7.connect()
            for at in range(0, len(data), 1 if pieces == "bytes" else len(data)):
                client.writer.write(data[at : at + 1] if pieces == "bytes" else data)
                await client.writer.drain()
                await asyncio.sleep(0)
            assert await client.answer() == (200, b"ok")
            assert (await client.ask("/again"))[0] == 200
            record = await l7.record(2)
            assert record.client == SOMEBODY[0]
            (connection,) = l7.worker._sites["web", "http"].connections
            assert (connection.view()["client"], connection.view()["client_port"]) == SOMEBODY
            await client.close()
        for head in backend.heads:
            for line in (b"X-Forwarded-For: 203.0.113.9", b"X-Real-IP: 203.0.113.9", b"X-Forwarded-Port: 8443",
                         b"X-Forwarded-Client-srcport: 51000", b"SLB-IP: 192.0.2.10"):  # fmt: skip
                assert b"\r\n%b\r\n" % line in head

    run(main(), loop)


async def test_what_is_told_of_tls() -> None:
    """By a proxy that has ended the client's TLS: servers hear of https, the log has version and name."""
    async with Backend().running() as backend, proxy(introduced(model(free_port(), [backend.port]))) as l7:
        client, _ = await asks(l7, HEADERS["v2 with much"])
        record = await l7.record()
        assert (record.tls_version, record.sni) == ("TLSv1.3", "told.test")
        await client.close()
        client, _ = await asks(l7, HEADERS["v2"])
        assert (await l7.record(2)).tls_version == ""
        await client.close()
    assert b"X-Forwarded-Proto: https\r\n" in backend.heads[0]
    assert b"X-Forwarded-Proto: http\r\n" in backend.heads[1]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_before_tls(loop: str, pieces: str) -> None:
    """The header comes before the ClientHello, in one piece with it, and byte by byte."""

    async def main() -> None:
        tls = TlsServer(LocalKeys([KEY]))
        async with (
            Backend().running() as backend,
            proxy(introduced(https(free_port(), backend.port, certificate(KEY, ["web.test"]))), tls) as l7,
        ):
            client = await l7.connect()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            secure = client_context().wrap_bio(incoming, outgoing, server_hostname="web.test")
            outgoing.write(HEADERS["v2 with much"])
            while True:
                try:
                    secure.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    data = outgoing.read()
                    for at in range(0, len(data), 1 if pieces == "bytes" else len(data)):
                        client.writer.write(data[at : at + 1] if pieces == "bytes" else data)
                        await asyncio.sleep(0)
                    incoming.write(await client.reader.read(65536))
            secure.write(REQUEST)
            client.writer.write(outgoing.read())
            record = await l7.record()
            assert (record.client, record.sni, record.tls_version) == (SOMEBODY[0], "web.test", "TLSv1.3")
            client.writer.transport.abort()
            await until(lambda: l7.worker.connections == 0)
        assert b"X-Forwarded-For: 203.0.113.9\r\n" in backend.heads[0]
        await tls.close()

    run(main(), loop)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "neither version 1 nor 2 begins so, at byte 0"),
        (b"PROXY TCP4 203.0.113.9 192.0.2.10 1 65536\r\n" + REQUEST, "a port that is none"),
        (HEADERS["v2"][:-1] + b"\0\0", None),
        (HEADERS["v1"] + HEADERS["v1"] + REQUEST, None),
    ],
    ids=["none", "wrong", "broken", "twice"],
)
async def test_a_listed_peer_has_to_send_a_sound_one(
    header: bytes, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with Backend().running() as backend, proxy(introduced(model(free_port(), [backend.port]))) as l7:
        client = await l7.connect()
        client.writer.write(header)
        if said is None:  # what follows the first header is a request, or none
            assert (await client.answer())[0] == 400
            await client.close()
        else:
            assert await ends(client)
            assert l7.hub.counters["introductions_refused"] == 1
            assert f"web: a connection of 127.0.0.1 is cut, PROXY protocol: {said}" in caplog.text
    assert not backend.heads


async def test_others_are_cut_off_unheard(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        Backend().running() as backend,
        proxy(introduced(model(free_port(), [backend.port]), ProxyProtocol.REQUIRED, "10.0.0.0/8")) as l7,
    ):
        for header in (b"", HEADERS["v1"], HEADERS["v2"]):
            client = await l7.connect()
            client.writer.write(header + REQUEST)
            assert await ends(client)
        await until(lambda: l7.hub.counters["introductions_refused"] == 3)
        assert l7.hub.counters["connections"] == 0
    assert not backend.heads
    assert caplog.text.count("it is not in proxy_protocol_from") == 1, "not each of a flood"


@pytest.mark.parametrize("name", HEADERS)
async def test_optional(name: str) -> None:
    """With a header from whom may send it, and without; the header of anybody else is no request."""
    base = model(free_port(), [1])
    async with Backend().running() as backend:
        base = introduced(model(free_port(), [backend.port]), ProxyProtocol.OPTIONAL)
        async with proxy(base) as l7:
            for header, who in ((b"", "127.0.0.1"), (HEADERS[name], SOMEBODY[0]), (write(LOCAL), "127.0.0.1")):
                client, answer = await asks(l7, header)
                assert answer == (200, b"ok")
                assert l7.records[-1].client == who
                await client.close()
            await l7.worker.apply(introduced(base, ProxyProtocol.OPTIONAL, "10.0.0.0/8"))
            client, answer = await asks(l7, b"")
            assert answer == (200, b"ok")
            await client.close()
            client, answer = await asks(l7, HEADERS[name])
            assert answer[0] == 400
            assert l7.records[-1].client == "127.0.0.1"
            await client.close()


async def test_off_is_off() -> None:
    async with proxy(model(free_port(), [1])) as l7:
        client, answer = await asks(l7, HEADERS["v1"])
        assert answer[0] == 400
        await client.close()


@pytest.mark.parametrize(
    ("acl", "entries", "status"),
    [
        (Acl.WHITE, ("203.0.113.0/24",), 200),
        (Acl.WHITE, ("127.0.0.0/8",), 0),
        (Acl.BLACK, ("203.0.113.0/24",), 0),
        (Acl.BLACK, ("127.0.0.0/8",), 200),
    ],
)
async def test_access_lists_are_for_the_told_address(acl: Acl, entries: tuple[str, ...], status: int) -> None:
    async with Backend().running() as backend:
        base = introduced(model(free_port(), [backend.port]), acl=acl, access_list="them")
        async with proxy(replace(base, access_lists={"them": AccessList("them", entries)})) as l7:
            client = await l7.connect()
            client.writer.write(HEADERS["v2"] + REQUEST)
            if status:
                assert (await client.answer())[0] == status
                await client.close()
            else:
                assert await ends(client)
                assert l7.hub.counters["connections_denied"] == 1


async def test_limits_of_a_client_are_the_told_clients() -> None:
    async with Backend().running() as backend:
        base = introduced(model(free_port(), [backend.port]), max_connections_per_client=1)
        async with proxy(base) as l7, AsyncExitStack() as stack:
            for last in (1, 2):
                client, answer = await asks(l7, write(Header(2, (f"203.0.113.{last}", 1), VIP)))
                stack.push_async_callback(client.close)
                assert answer[0] == 200
            client = await l7.connect()
            client.writer.write(write(Header(2, ("203.0.113.1", 2), VIP)) + REQUEST)
            assert await ends(client)


async def test_trust_in_fields_is_trust_in_the_told_address() -> None:
    """The peer may tell addresses; whether X-Forwarded-For is believed is asked of the one that it told."""
    claim = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n"
    async with Backend().running() as backend:
        base = introduced(model(free_port(), [backend.port], trusted=("203.0.113.0/24",)))
        async with proxy(base) as l7:
            for header in (HEADERS["v2"], write(LOCAL)):
                client, _ = await asks(l7, header, claim)
                await client.close()
    assert b"X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n" in backend.heads[0]
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in backend.heads[1]


async def test_hashing_goes_by_the_told_address() -> None:
    async with Backend().running() as one, Backend().running() as other:
        base = introduced(model(free_port(), [one.port, other.port], scheduler=Scheduler.SH))
        async with proxy(base) as l7:
            for last in [*range(1, 33), *range(1, 33)]:
                client, _ = await asks(l7, write(Header(2, (f"203.0.113.{last}", last), VIP)))
                await client.close()
    first, second = (
        {head.partition(b"X-Forwarded-For: ")[2].partition(b"\r\n")[0] for head in each.heads} for each in (one, other)
    )
    assert first
    assert second
    assert not first & second
    assert len(first | second) == 32


async def test_a_header_that_never_ends(caplog: pytest.LogCaptureFixture) -> None:
    """A byte now and then buys no time; who says nothing at all is nobody's fault."""
    async with proxy(introduced(model(free_port(), [1]), head_timeout_s=1)) as l7:
        slow, silent = await l7.connect(), await l7.connect()
        sending = asyncio.create_task(_drip(slow, HEADERS["v2"][:-1]))
        assert await ends(slow)
        assert await ends(silent)
        sending.cancel()
        assert l7.hub.counters["introductions_refused"] == 1
        assert "the header does not come to its end" in caplog.text


async def _drip(client: Client, data: bytes) -> None:
    for at in range(len(data)):
        client.writer.write(data[at : at + 1])
        await asyncio.sleep(0.1)


async def test_a_check_that_only_connects_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with proxy(introduced(model(free_port(), [1]))) as l7:
        client = await l7.connect()
        await until(lambda: l7.worker._sites["web", "http"].newcomers)
        await client.close()
        await until(lambda: not l7.worker._sites["web", "http"].newcomers)
        assert not l7.hub.counters
    assert "cut" not in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_behind_the_limits_of_the_listener(loop: str) -> None:
    """These see bytes, the header's too; the connection begins with them."""

    async def main() -> None:
        async with Backend().running() as backend:
            base = introduced(model(free_port(), [backend.port]), max_connections=1, bandwidth_in_mbit_s=100)
            async with proxy(base) as l7:
                client, answer = await asks(l7, HEADERS["v2"])
                assert answer[0] == 200
                other = await l7.connect()
                other.writer.write(HEADERS["v2"] + REQUEST)
                assert await ends(other)
                assert (await l7.record()).client == SOMEBODY[0]
                await client.close()

    run(main(), loop)


async def test_a_change_of_whom_is_believed() -> None:
    """Who was introduced by somebody who may not do so any more comes again; the others of the worker are not asked."""
    async with Backend().running() as backend:
        base = introduced(model(free_port(), [backend.port]))
        async with proxy(base) as l7:
            client, _ = await asks(l7, HEADERS["v2"])
            waiting = await l7.connect()
            await l7.worker.apply(introduced(base, ProxyProtocol.REQUIRED, "10.0.0.0/8"))
            assert (await client.ask())[0] == 200  # one more answer at most
            assert await client.rest() == b""
            await client.close()
            await l7.worker.apply(with_options(base, proxy_protocol=ProxyProtocol.OFF, proxy_protocol_from=()))
            assert (await l7.get())[0] == 200
            await waiting.close()


async def test_who_has_not_said_who_he_is_holds_up_no_end() -> None:
    async with proxy(introduced(model(free_port(), [1]))) as l7:
        client = await l7.connect()
        await until(lambda: l7.worker._sites["web", "http"].newcomers)
    assert await ends(client)


class Raw(asyncio.Transport):
    """A transport that notes whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.protocol = True, asyncio.BaseProtocol()

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert not self.reads, "loops look at the kind of a protocol when they begin to read"
        self.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def write(self, data: object) -> None: ...

    def abort(self) -> None: ...

    close = write_eof = writelines = can_write_eof = get_write_buffer_size = is_reading = abort  # type: ignore[assignment]
    set_write_buffer_limits = abort  # type: ignore[assignment]


class Pausing(asyncio.Protocol):
    """Has enough after so many bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.got = most, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Introduced)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        if len(self.got) > self.most:
            self.transport.pause_reading()


@pytest.mark.parametrize(("rest", "reads"), [(b"", True), (b"abc", True), (b"abcd", False)])
def test_who_has_enough_of_what_came_with_the_header_is_not_sent_more(rest: bytes, reads: bool) -> None:
    raw, inner = Raw(), Pausing(3)
    told = Introduced(raw, LOCAL)
    told.hand_over(inner, rest)
    assert (inner.got, raw.reads, raw.protocol) == (rest, reads, inner)
    told.resume_reading()
    assert raw.reads
    told.pause_reading()
    assert not raw.reads
