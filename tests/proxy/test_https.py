"""HTTPS listeners end to end: a worker, keyless TLS with the key held by the test, a real client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.model import (
    CaCertificate,
    Certificate,
    CertificateFields,
    ClientCertificate,
    Listener,
    Model,
    Protocol,
    TlsPolicy,
)
from proxy.head import read_request
from proxy.tls import TlsServer
from tests.proxy.client_certs import Authority
from tests.proxy.support import ANSWER, Backend, Client, Proxy, Request, free_port, model, proxy
from tests.proxy.tls_support import LocalKeys, certificate, client_context, get, new_key
from tests.waiting import until

KEY, OTHER = new_key("P-256"), new_key("P-384")


def https(port: int, server: int, *certificates: Certificate) -> Model:
    base = model(port, [server])
    names = tuple(each.name for each in certificates)
    listener = replace(base.listeners["web"], protocol=Protocol.HTTPS, certificates=names)
    return replace(base, listeners={"web": listener}, certificates={each.name: each for each in certificates})


@asynccontextmanager
async def serving(server: int, *certificates: Certificate) -> AsyncIterator[Proxy]:
    tls = TlsServer(LocalKeys([KEY, OTHER]))
    async with proxy(https(free_port(), server, *certificates), tls) as l7:
        yield l7
    await tls.close()


async def connect(l7: Proxy, name: str = "web.test", context: ssl.SSLContext | None = None) -> Client:
    address = ("127.0.0.1", l7.port)
    return Client(*await asyncio.open_connection(*address, ssl=context or client_context(), server_hostname=name))


async def test_a_request_over_tls() -> None:
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        client = await connect(l7)
        for _ in range(2):
            assert await client.ask("/x", b"", b"body", "POST") == (200, b"ok")
        record = await l7.record(2)
        assert (record.tls_version, record.sni, record.client) == ("TLSv1.3", "web.test", "127.0.0.1")
        await client.close()
    assert b"\r\nX-Forwarded-Proto: https\r\n" in backend.heads[0]
    assert backend.connections == 1


async def test_certificates_change_in_place() -> None:
    """A connection goes on; new ones are shown the new certificate."""
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["old.test"])) as l7:
        old = await connect(l7)
        assert (await old.ask())[0] == 200
        await l7.worker.apply(https(l7.port, backend.port, certificate(OTHER, ["new.test"])))
        new = await connect(l7)
        subject = new.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert b"new.test" in subject
        assert (await new.ask())[0] == 200
        assert (await old.ask())[0] == 200
        await old.close()
        await new.close()


async def test_the_policy_is_the_listeners() -> None:
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        listener = replace(base.listeners["web"], tls_policy=TlsPolicy.TLS_1_2)
        await l7.worker.apply(replace(base, listeners={"web": listener}))
        client = await connect(l7)
        assert (await client.ask())[0] == 200
        assert (await l7.record()).tls_version == "TLSv1.2"
        await client.close()


async def test_limits_of_handshakes_are_the_listeners() -> None:
    """Silence for a second is all that a client's only place buys; networks that are trusted have no such limit."""
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        listener = replace(base.listeners["web"], handshake_timeout_s=1, max_handshakes_per_client=1)
        await l7.worker.apply(replace(base, listeners={"web": listener}))
        silent = await l7.connect()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.to_thread(get, l7.port)
        assert await silent.rest() == b""
        await silent.close()
        trusting = replace(listener, trusted_proxies=("127.0.0.0/8",))
        await l7.worker.apply(replace(base, listeners={"web": trusting}))
        silent = await l7.connect()
        client = await connect(l7)
        assert (await client.ask())[0] == 200
        for each in (silent, client):
            await each.close()


async def test_strict_transport_security_is_in_every_answer() -> None:
    """The server's, refusals, and what has no server; a change holds for connections that are there already."""
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        client = await connect(l7)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"Strict-Transport" not in (await client.whole_answer())[1]
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        listener = replace(base.listeners["web"], hsts_max_age_s=600)
        await l7.worker.apply(replace(base, listeners={"web": listener}))
        for request, status in [
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            (b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ]:
            client.writer.write(request)
            got, head, _ = await client.whole_answer()
            assert got == status
            assert head.count(b"\r\nStrict-Transport-Security: max-age=600\r\n") == 1
        await client.close()


async def test_http_leads_to_https() -> None:
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        http = Listener("plain", "main", Protocol.HTTP, free_port(), https_redirect_port=l7.port)
        await l7.worker.apply(replace(base, listeners={**base.listeners, "plain": http}))
        client = await l7.connect(http.port)
        for method, status in [("GET", 301), ("POST", 308)]:
            client.writer.write(f"{method} /x?y HTTP/1.1\r\nHost: web.test:{http.port}\r\n\r\n".encode())
            got, head, _ = await client.whole_answer()
            assert got == status
            assert f"\r\nLocation: https://web.test:{l7.port}/x?y\r\n".encode() in head
            assert (await l7.record(1)).status == status
        await client.close()
        assert not backend.heads


def asking(base: Model, authorities: CaCertificate, demand: str = "required") -> Model:
    listener = replace(base.listeners["web"], ca_certificate="partners", client_certificate=ClientCertificate(demand))
    return replace(base, listeners={"web": listener}, ca_certificates={"partners": authorities})


async def test_the_server_is_told_who_the_client_is(tmp_path: Path) -> None:
    """And by us alone; a client without a certificate, where it is optional, is nobody."""
    ours, forged = Authority(), b"Client-Cert: :AAAA:\r\nX-Forwarded-Client-Cert-Subject: CN=root\r\n"
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        assert await l7.worker.apply(asking(base, ours.admits(), "optional")) == []
        named = await connect(l7, context=ours.issue("alice").context(tmp_path))
        nobody = await connect(l7)
        for client, subjects in [(named, [b"CN=alice"]), (nobody, []), (named, [b"CN=alice"])]:
            assert await client.ask("/", forged) == (200, b"ok")
            head = read_request(backend.heads[-1])
            assert head is not None
            assert head.block.values(b"x-forwarded-client-cert-subject") == subjects
            assert len(head.block.values(b"client-cert")) == len(subjects)
        await named.close()
        await nobody.close()


async def test_the_server_is_told_by_other_names_as_soon_as_they_are_wanted(tmp_path: Path) -> None:
    ours, forged = Authority(), b"X-SSL-Client-Verify: SUCCESS\r\nX-SSL-Client-DN: CN=root\r\n"
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        base = asking(https(l7.port, backend.port, certificate(KEY, ["web.test"])), ours.admits(), "optional")
        await l7.worker.apply(base)
        before = await connect(l7, context=ours.issue("alice").context(tmp_path))
        assert await before.ask("/", forged) == (200, b"ok")
        assert b"SSL-Client" not in backend.heads[-1]
        names = replace(base.listeners["web"], client_certificate_fields=CertificateFields.SSL_CLIENT)
        await l7.worker.apply(replace(base, listeners={"web": names}))
        before.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in (await before.whole_answer())[1]
        named = await connect(l7, context=ours.issue("alice").context(tmp_path))
        nobody = await connect(l7)
        for client, verdict, subjects in [(named, b"SUCCESS", [b"CN=alice"]), (nobody, b"NONE", [])]:
            assert await client.ask("/", forged) == (200, b"ok")
            head = read_request(backend.heads[-1])
            assert head is not None
            assert head.block.values(b"x-ssl-client-verify") == [verdict]
            assert head.block.values(b"x-ssl-client-dn") == subjects
            assert not head.block.values(b"client-cert")
        for each in (before, named, nobody):
            await each.close()


async def test_whoever_is_not_admitted_any_more_has_one_more_answer(tmp_path: Path) -> None:
    ours = Authority()
    alice, bob = ours.issue("alice"), ours.issue("bob")
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        await l7.worker.apply(asking(base, ours.admits()))
        client, idle = [await connect(l7, context=alice.context(tmp_path)) for _ in range(2)]
        assert (await client.ask())[0] == (await idle.ask())[0] == 200
        await l7.worker.apply(asking(base, ours.admits()))
        assert (await client.ask())[0] == 200  # nothing has changed: it stays
        await l7.worker.apply(asking(base, ours.admits(ours.revoke(alice))))
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in (await client.whole_answer())[1]
        assert await client.rest() == await idle.rest() == b""
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(get, l7.port, "web.test", alice.context(tmp_path))
        other = await connect(l7, context=bob.context(tmp_path))
        assert (await other.ask())[0] == 200
        for each in (client, idle, other):
            await each.close()


@pytest.mark.parametrize("demand", ["required", "optional"])
async def test_a_handshake_that_began_before_clients_were_asked(demand: str) -> None:
    """Its client has shown nothing: it is cut where a certificate is required, and nobody where it is optional."""
    keys = LocalKeys([KEY], silent=True)
    web = certificate(KEY, ["web.test"])
    tls = TlsServer(keys)
    async with Backend().running() as backend, proxy(https(free_port(), backend.port, web), tls) as l7:
        connecting = asyncio.create_task(connect(l7))
        await until(lambda: bool(keys.asked))
        await l7.worker.apply(asking(https(l7.port, backend.port, web), Authority().admits(), demand))
        keys.asked.pop()()
        client = await connecting
        if demand == "optional":
            assert (await client.ask("/", b"Client-Cert: :AAAA:\r\n"))[0] == 200
            assert b"Client-Cert" not in backend.heads[0]
        else:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.ask()
            assert l7.hub.counters["client_certificates_refused"] == 1
            assert not backend.heads
        await client.close()
    await tls.close()


async def test_a_slow_reader_over_tls_costs_little_memory() -> None:
    size, written = 50 << 20, 0

    async def answer(request: Request) -> None:
        nonlocal written
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 18):
            request.writer.write(bytes(1 << 18))
            await request.writer.drain()
            written += 1 << 18

    async with Backend(answer).running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        client = await connect(l7)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.2)
        assert 0 < written < size // 2
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        while got < size:
            got += len(await client.reader.read(1 << 20))
        assert got == size
        await client.close()


async def test_draining_over_tls() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(0.2)
        request.writer.write(ANSWER)

    async with Backend(answer).running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        client = await connect(l7)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(backend.heads))
        draining = asyncio.create_task(l7.worker.drain(10, 0))
        status, head, _ = await client.whole_answer()
        assert status == 200
        assert b"\r\nConnection: close\r\n" in head
        assert await client.rest() == b""
        await draining
        await client.close()


async def test_a_refusal_over_tls_lingers_and_closes() -> None:
    async with Backend().running() as backend, serving(backend.port, certificate(KEY, ["web.test"])) as l7:
        client = await connect(l7)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n")
        assert (await client.answer())[0] == 400
        assert await client.rest() == b""
        record = await l7.record()
        assert (record.error_code, record.sni) == ("space_before_colon", "web.test")
        await client.close()
