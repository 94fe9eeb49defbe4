"""Access lists at the proxy: who is turned away, and what happens to those who are here when a list changes."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace

import pytest

from core.model import AccessList, Acl, Model
from proxy.tls import TlsServer
from tests.proxy.support import Backend, Client, free_port, model, proxy
from tests.proxy.test_https import KEY, connect, https
from tests.proxy.tls_support import LOOPS, LocalKeys, certificate, client_context, run
from tests.waiting import until


def guarded(base: Model, acl: Acl, *entries: str) -> Model:
    listener = replace(base.listeners["web"], acl=acl, access_list="them" if acl is not Acl.OFF else "")
    return replace(base, listeners={"web": listener}, access_lists={"them": AccessList("them", entries)})


@pytest.mark.parametrize(
    ("acl", "entries", "admitted"),
    [
        (Acl.WHITE, ["127.0.0.0/8"], True),
        (Acl.WHITE, ["10.0.0.0/8"], False),
        (Acl.WHITE, [], False),
        (Acl.BLACK, ["127.0.0.1"], False),
        (Acl.BLACK, ["127.0.0.2"], True),
        (Acl.BLACK, [], True),
    ],
)
async def test_who_is_admitted(acl: Acl, entries: list[str], admitted: bool) -> None:
    async with Backend().running() as backend, proxy(guarded(model(free_port(), [backend.port]), acl, *entries)) as l7:
        if admitted:
            assert (await l7.get())[0] == 200
            assert "connections_denied" not in l7.hub.counters
        else:
            assert await ends(await l7.connect())
            await until(lambda: l7.hub.counters["connections_denied"] == 1)
            assert l7.hub.counters["connections"] == 0


async def ends(client: Client) -> bool:
    """Whether the proxy closes or resets the connection without a byte."""
    try:
        return await client.rest() == b""
    except ConnectionResetError:
        return True
    finally:
        await client.close()


async def test_a_list_that_changes_cuts_those_it_denies() -> None:
    async with Backend().running() as backend:
        base = model(free_port(), [backend.port])
        async with proxy(base) as l7:
            client = await l7.connect()
            assert (await client.ask())[0] == 200
            await l7.worker.apply(guarded(base, Acl.BLACK, "10.0.0.0/8"))
            assert (await client.ask())[0] == 200
            await l7.worker.apply(guarded(base, Acl.BLACK, "127.0.0.0/8"))
            assert await ends(client)
            assert l7.hub.counters["connections_denied"] == 1
            await l7.worker.apply(base)
            assert (await l7.get())[0] == 200


async def test_a_flood_of_denied_clients_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy.gate")
    async with proxy(guarded(model(free_port(), [1]), Acl.BLACK, "127.0.0.0/8")) as l7:
        for _ in range(5):
            assert await ends(await l7.connect())
        await until(lambda: l7.hub.counters["connections_denied"] == 5)
    assert len([each for each in caplog.records if "web: 127.0.0.1 is denied" in each.getMessage()]) == 1


async def test_a_denied_client_gets_no_handshake() -> None:
    tls = TlsServer(LocalKeys([KEY]))
    chain = certificate(KEY, ["web.test"])
    async with Backend().running() as backend:
        base = https(free_port(), backend.port, chain)
        async with proxy(guarded(base, Acl.BLACK, "127.0.0.0/8"), tls) as l7:
            with pytest.raises(ConnectionError):
                await connect(l7)
            assert sum(tls.counters().values()) == 0
            await l7.worker.apply(guarded(base, Acl.WHITE, "127.0.0.0/8"))
            client = await connect(l7)
            assert (await client.ask())[0] == 200
            await client.close()
    await tls.close()


async def test_a_list_that_changes_during_the_handshake() -> None:
    tls = TlsServer(LocalKeys([KEY]))
    async with Backend().running() as backend:
        base = https(free_port(), backend.port, certificate(KEY, ["web.test"]))
        open_to_all = guarded(base, Acl.BLACK, "10.0.0.0/8")
        async with proxy(open_to_all, tls) as l7:
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", l7.port))
            await until(lambda: tls.counters()["in_flight"] == 1)
            await l7.worker.apply(guarded(base, Acl.BLACK, "127.0.0.0/8"))
            client = Client(*await asyncio.open_connection(sock=sock, ssl=client_context(), server_hostname="web.test"))
            assert await ends(client)
            assert l7.hub.counters["connections_denied"] == 1
    await tls.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_both_loops_hand_the_transport_over(loop: str) -> None:
    """For http and for https, whose protocol takes its bytes by buffer."""

    async def main() -> None:
        tls = TlsServer(LocalKeys([KEY]))
        async with Backend().running() as backend:
            plain = guarded(model(free_port(), [backend.port]), Acl.WHITE, "127.0.0.0/8")
            async with proxy(plain) as l7:
                assert (await l7.get())[0] == 200
            async with proxy(
                guarded(https(free_port(), backend.port, certificate(KEY, ["web.test"])), Acl.WHITE, "127.0.0.0/8"), tls
            ) as l7:
                client = await connect(l7)
                assert (await client.ask())[0] == 200
                await client.close()
        await tls.close()

    run(main(), loop)
