"""Sessions that one node made and another resumes, and those that none may."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from core.model import TlsPolicy
from keyserver.client import KeyClient
from proxy import tls_native
from proxy.meters import Meters
from proxy.tls_profile import Profile
from proxy.tls_tickets import Domain, TicketKey, Tickets
from tests.keyserver.conftest import Serving, events
from tests.proxy.test_tls import P256, RSA
from tests.proxy.tls_support import LocalKeys, Served, certificate, client_context, serving

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
LONG_AGO, FAR = 0, 1 << 40
SECRETS = ((LONG_AGO, A), (LONG_AGO + 1, B), (FAR, C))  # B is of now
VERSIONS = ["1.2", "1.3"]


def visit(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bool, ssl.SSLSession]:
    """Whether the session was resumed, and the session to resume next."""

    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname="web.test", session=session) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
        while tls.recv(65536):  # tickets of TLS 1.3 come before the answer
            pass
        assert tls.session is not None
        return bool(tls.session_reused), tls.session


async def start(stack: AsyncExitStack, secrets: Sequence[tuple[int, bytes]], profile: Profile | None = None) -> Served:
    """A node that has these secrets."""
    keys = LocalKeys([P256, RSA], secrets=secrets)
    served = await stack.enter_async_context(serving(keys, [certificate(P256, ["web.test"])]))
    if profile is not None:
        await served.tls.configure({"web": [certificate(P256, ["web.test"])]}, {"web": profile})
    if secrets:
        await served.tls.refresh_tickets()
    return served


@pytest.mark.parametrize("version", VERSIONS)
async def test_any_node_resumes_any_others_sessions(version: str) -> None:
    async with AsyncExitStack() as stack:
        nodes = [await start(stack, SECRETS) for _ in range(3)]
        context = client_context(version)
        resumed, session = await asyncio.to_thread(visit, nodes[0].port, context)
        assert not resumed
        for node in (*nodes[1:], *nodes):
            resumed, session = await asyncio.to_thread(visit, node.port, context, session)
            assert resumed
        assert sum(len(node.keys.schemes) for node in nodes) == 1, "one signature for all of them"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("other", "resumes"),
    [
        pytest.param(((LONG_AGO, A), (LONG_AGO + 1, B)), True, id="the same"),
        pytest.param(((LONG_AGO, B), (LONG_AGO + 1, C), (FAR, A)), True, id="a period later"),
        pytest.param(((LONG_AGO, A), (FAR, B)), True, id="a period earlier"),
        pytest.param(((LONG_AGO, C), (LONG_AGO + 1, A)), False, id="a period that is over"),
        pytest.param((), False, id="none yet"),
    ],
)
async def test_periods(version: str, other: Sequence[tuple[int, bytes]], resumes: bool) -> None:
    async with AsyncExitStack() as stack:
        first, second = await start(stack, SECRETS), await start(stack, other)
        context = client_context(version)
        _, session = await asyncio.to_thread(visit, first.port, context)
        resumed, session = await asyncio.to_thread(visit, second.port, context, session)
        assert resumed is resumes
        again, _ = await asyncio.to_thread(visit, second.port, context, session)
        assert again, "the ticket that it gave is one that it takes"
        assert (await second.settled())["ok"] == 2, "a ticket that is not taken costs nothing but its handshake"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_ticket_of_the_period_before_is_renewed(version: str) -> None:
    async with AsyncExitStack() as stack:
        served = await start(stack, SECRETS)
        context = client_context(version)
        _, session = await asyncio.to_thread(visit, served.port, context)
        served.keys.secrets = ((LONG_AGO, B), (LONG_AGO + 1, C))
        await served.tls.refresh_tickets()
        resumed, session = await asyncio.to_thread(visit, served.port, context, session)
        assert resumed
        served.keys.secrets = ((LONG_AGO, C),)
        await served.tls.refresh_tickets()
        resumed, _ = await asyncio.to_thread(visit, served.port, context, session)
        assert resumed, "it is of the period in which it was renewed"


@pytest.mark.parametrize("version", VERSIONS)
async def test_handshakes_are_counted_by_their_kind(version: str) -> None:
    """And what key servers took for them, and what became of tickets."""
    async with AsyncExitStack() as stack:
        served, meters = await start(stack, SECRETS), Meters()
        served.tls.gate.on_end, served.tls.gate.on_signature = meters.handshake, meters.signature
        context = client_context(version)
        _, session = await asyncio.to_thread(visit, served.port, context)
        await asyncio.to_thread(visit, served.port, context, session)
        served.keys.secrets = ((LONG_AGO, C),)
        await served.tls.refresh_tickets()
        await asyncio.to_thread(visit, served.port, context, session)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        await served.settled()
        row = meters.news()["listeners"]["web"]
        name = f"TLSv{version}"
        assert row["tls"] == {f"{name} new": 2, f"{name} resumed": 1, "failed plain_http": 1}
        assert sum(row["signatures"]) == 2, "a resumed session needs none"
        assert 0 < row["signature_seconds"] < 60
        tickets = served.tls.tickets()
        assert (tickets["taken"], tickets["unknown"]) == (1, 1)
        assert tickets["given"] >= 2
        served.keys.fails = True
        with suppress(OSError):
            await asyncio.to_thread(visit, served.port, context)
        await served.settled()
        row = meters.news()["listeners"]["web"]
        assert (row["tls"]["failed keyserver"], sum(row["signatures"])) == (1, 3)


async def test_no_session_goes_to_what_demands_something_else() -> None:
    """Another listener, or the same with another policy."""
    async with AsyncExitStack() as stack:
        first = await start(stack, SECRETS)
        strict = await start(stack, SECRETS, Profile(TlsPolicy.TLS_1_3))
        context = client_context("1.3")
        _, session = await asyncio.to_thread(visit, first.port, context)
        resumed, _ = await asyncio.to_thread(visit, strict.port, context, session)
        assert not resumed
    one, two = (Domain(name, SECRETS, time.time) for name in ("web profile", "api profile"))
    assert one.current() == Domain("web profile", SECRETS, time.time).current()
    assert two.find(one.current().name) is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_with_a_real_key_server(version: str, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    key_server = await Serving.begin(tmp_path / "keys", tmp_path / "audit", 1e6, frozenset({os.getuid()}))
    await key_server.server.listen_unix(tmp_path / "sock")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(key_server.end)
        nodes = []
        for _ in range(2):
            client = KeyClient([f"unix:{tmp_path / 'sock'}"])
            await client.start()
            stack.push_async_callback(client.close)
            nodes.append(await start(stack, await client.ticket_secrets()))
        context = client_context(version)
        _, session = await asyncio.to_thread(visit, nodes[0].port, context)
        resumed, _ = await asyncio.to_thread(visit, nodes[1].port, context, session)
        assert resumed
    assert len(events(tmp_path / "audit")) == 2


@pytest.mark.parametrize("now", [-1, 0, 5, 9, 10, 19, 20, 1000])
def test_which_key_seals(now: int) -> None:
    domain = Domain("web", ((0, A), (10, B), (20, C)), lambda: now)
    expected = C if now >= 20 else B if now >= 10 else A
    assert domain.current() == TicketKey.derive(expected, "web")


def test_keys_show_nothing_of_themselves() -> None:
    key = TicketKey.derive(A, "web")
    assert (len(key.name), len(key.cipher), len(key.mac)) == (16, 32, 32)
    assert len({key.name, key.cipher[:16], key.cipher[16:], key.mac[:16], key.mac[16:]}) == 5
    assert repr(key) == f"<TicketKey {key.name.hex()}>"


def test_a_layout_that_is_not_as_expected(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Another context's SSL_CTX stands in for whatever else may lie there; reading what is none would be fatal."""
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    real = tls_native._behind_header(other)
    assert real
    tls_native._prove.cache_clear()
    monkeypatch.setattr(tls_native, "_behind_header", lambda context: real)
    tickets = Tickets(time.time)
    assert not tickets.shared
    assert "the process alone that made them: contexts of this Python are laid out differently" in caplog.text
    before = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tickets.install(before, "web")
    tickets.replace(SECRETS)


def test_without_libssl(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tls_native.libssl.cache_clear()
    tls_native._prove.cache_clear()
    monkeypatch.setattr(tls_native, "LIBSSL", "libnone.so.3")
    assert not Tickets(time.time).shared
    assert "libnone.so.3" in caplog.text


def test_giving_a_context_keys_changes_no_option() -> None:
    tickets, context = Tickets(time.time), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert tickets.shared
    for options in (
        context.options | ssl.OP_CIPHER_SERVER_PREFERENCE,
        context.options & ~ssl.OP_CIPHER_SERVER_PREFERENCE,
    ):
        context.options = options
        tickets.install(context, "web")
        assert context.options == options
