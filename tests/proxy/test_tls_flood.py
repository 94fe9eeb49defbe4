"""Floods of handshakes against a real TlsServer: others are served, and the flood buys little work."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from proxy.tls_admission import Terms
from proxy.tls_gatekeeper import A_TURN, MOST_WAITING
from proxy.tls_handshake import Handshake
from tests.proxy.tls_support import WAYS, LocalKeys, certificate, client_context, get, new_key, run, serving

KEY = new_key("P-256")
WEB = certificate(KEY, ["web.test"])
thread = asyncio.to_thread
ME, OTHER = "127.0.0.1", "127.0.0.2"


def hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_context().wrap_bio(incoming, outgoing, server_hostname="web.test").do_handshake()
    return outgoing.read()


def from_other(port: int) -> str:
    """One whole exchange from another address than the flood's."""
    raw = socket.create_connection(("127.0.0.1", port), 10, source_address=(OTHER, 0))
    with client_context().wrap_socket(raw, server_hostname="web.test") as tls:
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        data = b""
        while part := tls.recv(65536):
            data += part
    return data.decode()


def begin(port: int, stack: ExitStack, sent: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10, source_address=(ME, 0)))
    sock.sendall(sent)
    return sock


@pytest.mark.parametrize("way", WAYS)
def test_a_client_has_so_many_at_a_time(way: str) -> None:
    async def main() -> None:
        keys = LocalKeys([KEY], silent=True)
        async with serving(keys, [WEB], way, terms=Terms(10, 3)) as served:
            clients = [asyncio.create_task(thread(get, served.port)) for _ in range(3)]
            while len(keys.asked) < 3:
                await asyncio.sleep(0.005)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await thread(get, served.port)
            other = asyncio.create_task(thread(from_other, served.port))
            while len(keys.asked) < 4:
                await asyncio.sleep(0.005)
            keys.silent = False
            for answer in keys.asked:
                answer()
            assert len(await asyncio.gather(*clients, other)) == 4
            assert "TLSv1.3" in await thread(get, served.port)
            assert await served.settled() == {"ok": 5, "failed_refused_client": 1}

    run(main())


@pytest.mark.parametrize("sent", [b"", hello(), b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "a hello", "http"])
def test_dropped_handshakes_keep_their_places(sent: bytes) -> None:
    """Until they would have timed out: whoever drops them at once begins no more than who waits."""

    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], terms=Terms(0.5, 3)) as served:
            since = asyncio.get_running_loop().time()
            for _ in range(3):
                with ExitStack() as stack:
                    begin(served.port, stack, sent)
                    await asyncio.sleep(0.02)
            assert sum((await served.settled()).values()) == 3
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await thread(get, served.port)
            assert "TLSv1.3" in await thread(from_other, served.port)
            while asyncio.get_running_loop().time() < since + 0.7:
                await asyncio.sleep(0.05)
            assert "TLSv1.3" in await thread(get, served.port)

    run(main())


def test_a_key_server_that_hangs_or_is_gone_is_not_the_clients_fault() -> None:
    async def main() -> None:
        keys = LocalKeys([KEY], silent=True)
        async with serving(keys, [WEB], terms=Terms(0.3, 2)) as served:
            for _ in range(2):
                with pytest.raises((ConnectionError, ssl.SSLError)):
                    await thread(get, served.port)
            keys.silent, keys.fails = False, True
            for _ in range(3):
                with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
                    await thread(get, served.port)
            keys.fails = False
            assert "TLSv1.3" in await thread(get, served.port)
            assert await served.settled() == {"ok": 1, "failed_timeout": 2, "failed_keyserver": 3}

    run(main())


@pytest.mark.parametrize("sent", [b"", hello()[:100], hello()], ids=["nothing", "half a hello", "half a handshake"])
def test_when_all_places_are_taken_the_oldest_give_way(sent: bytes) -> None:
    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], max_handshakes=8, terms=Terms(60, 0)) as served:
            with ExitStack() as stack:
                for number in range(40):
                    begin(served.port, stack, sent)
                    if number % 10 == 9:
                        assert "TLSv1.3" in await thread(from_other, served.port)
                        counters = served.tls.counters()
                        assert counters["in_flight"] <= 8
            counters = await served.settled()
            assert counters["ok"] == 4
            assert counters["failed_crowded_out"] >= 28

    run(main())


def test_a_flood_of_half_handshakes_buys_a_clients_places_and_no_more() -> None:
    """300 in 1.5 s, half of them dropped at once; meanwhile another client is served each time."""

    async def main() -> None:
        keys = LocalKeys([KEY])
        async with serving(keys, [WEB], terms=Terms(60, 16)) as served:
            stop = False

            async def flood() -> int:
                sent, first = 0, hello()
                with ExitStack() as stack:
                    while not stop or sent < 300:
                        with suppress(OSError):
                            sock = begin(served.port, stack, first)
                            if sent % 2:
                                sock.close()
                        sent += 1
                        await asyncio.sleep(0.005)
                return sent

            flooding = asyncio.create_task(flood())
            for _ in range(30):
                assert "TLSv1.3" in await thread(from_other, served.port)
            stop = True
            sent = await flooding
            counters = await served.settled()
            assert counters["ok"] == 30
            assert len(keys.schemes) <= 30 + 16
            assert counters["failed_refused_client"] == sent - 16

    run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_hellos_that_come_at_once_take_turns(loop: str) -> None:
    """So that what else the process serves gets its turn in between."""

    async def main() -> None:
        keys = LocalKeys([KEY])
        async with serving(keys, [WEB], terms=Terms(60, 0)) as served:
            with ExitStack() as stack:
                socks = [begin(served.port, stack) for _ in range(40)]
                while served.tls.counters()["in_flight"] < 40:
                    await asyncio.sleep(0.005)
                first = hello()
                for sock in socks:
                    sock.sendall(first)
                begun = [0]
                while begun[-1] < 40:
                    await asyncio.sleep(0)
                    begun.append(len(keys.schemes))
                assert max(after - before for before, after in itertools.pairwise(begun)) <= 2 * A_TURN

    run(main(), loop)


def test_a_line_that_is_too_long_loses_its_first() -> None:
    """All that come in one turn: a turn's worth begins, so many wait, the others leave."""
    sent = MOST_WAITING + 3 * A_TURN

    async def main() -> None:
        async with serving(LocalKeys([KEY]), [WEB], terms=Terms(60, 0)) as served:
            gate = served.tls.gate
            clients, protocols = [], []
            for _ in range(sent):
                protocol = served.tls.protocol("web", asyncio.Protocol())
                assert isinstance(protocol, Handshake)
                protocols.append(protocol)
                ours, theirs = socket.socketpair()
                clients.append(ours)
                await asyncio.get_running_loop().connect_accepted_socket(partial(lambda each: each, protocol), theirs)
            first = hello()
            for protocol in protocols:
                protocol.get_buffer(0)[: len(first)] = first
                protocol.buffer_updated(len(first))
            assert gate.counters()["failed_crowded_out"] == 2 * A_TURN
            for each in clients:
                each.close()
            assert (await served.settled())["failed_closed"] == sent - 2 * A_TURN

    run(main())
