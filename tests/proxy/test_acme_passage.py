"""An ACME CA's handshake through a listener to the issuer, and what becomes of it where there is none."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.model import BackendProtocol, BackendService, Certificate, Model, Server, ServerGroup
from proxy import acme_passage
from proxy.tls import TlsServer
from proxy.tls_failures import Failure
from tests.proxy.support import Backend, Client, Proxy, free_port, proxy
from tests.proxy.test_https import https
from tests.proxy.test_tls_hello import hello
from tests.proxy.tls_support import LocalKeys, certificate, client_context, get, new_key, s_client, subject
from tests.waiting import until

KEY, CHALLENGE = new_key("P-256"), new_key("P-384")


def ca(version: str = "") -> ssl.SSLContext:
    """As a CA's validator connects (RFC 8737 §3)."""
    context = client_context(version)
    context.set_alpn_protocols(["acme-tls/1"])
    return context


@dataclass
class Issuer:
    """A TLS server with the challenge's certificate; silent: one that accepts, and keeps what it hears."""

    port: int = 0
    heard: bytes = b""
    connections: int = 0
    open: int = 0


@asynccontextmanager
async def issuer(tmp_path: Path, *, silent: bool = False) -> AsyncIterator[Issuer]:
    found = Issuer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "key").write_bytes(CHALLENGE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "chain").write_text(certificate(CHALLENGE, ["challenge.test"]).chain)
    context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    context.set_alpn_protocols(["acme-tls/1"])
    open_now: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        found.open += 1
        open_now.add(writer)
        try:
            while data := await reader.read(65536):
                found.heard += data
        except OSError:
            pass
        writer.close()
        open_now.discard(writer)
        found.open -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if silent else context)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    for writer in [*open_now]:
        writer.transport.abort()
    await until(lambda: not open_now)


def with_issuer(base: Model, *ports: int, **changes: object) -> Model:
    service = BackendService("issuer", BackendProtocol.TCP, "issuer", health_check=None)
    listener = replace(base.listeners["web"], acme_backend_service="issuer", **changes)  # type: ignore[arg-type]
    return replace(
        base,
        server_groups={
            **base.server_groups,
            "issuer": ServerGroup("issuer", tuple(Server("127.0.0.1", p) for p in ports)),
        },
        backend_services={**base.backend_services, "issuer": service},
        listeners={"web": listener},
    )


@dataclass
class Node:
    l7: Proxy
    tls: TlsServer

    async def counted(self) -> dict[str, int]:
        """The counters that are not zero, once no handshake is in flight and no server is in use."""
        await until(lambda: not self.tls.counters()["in_flight"])
        assert all(not service.pool.active for service in self.l7.hub.services.values())
        return {name: value for name, value in self.tls.counters().items() if value}


@asynccontextmanager
async def node(change: Callable[[Model], Model]) -> AsyncIterator[Node]:
    async with Backend().running() as backend:
        tls = TlsServer(LocalKeys([KEY]))
        configuration = change(https(free_port(), backend.port, certificate(KEY, ["web.test"])))
        async with proxy(configuration, tls) as l7:
            yield Node(l7, tls)
            await tls.close()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_the_ca_sees_the_issuers_certificate_and_others_ours(
    version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with issuer(tmp_path) as found, node(lambda base: with_issuer(base, found.port)) as it:
        assert await asyncio.to_thread(subject, it.l7.port, "shop.test", ca(version)) == "challenge.test"
        assert await asyncio.to_thread(subject, it.l7.port, "shop.test", client_context(version)) == "web.test"
        assert await it.counted() == {"acme_led": 1, "ok": 1}
    (line,) = [text for text in caplog.messages if "asked for" in text]
    assert line.startswith(f"web: the CA at 127.0.0.1 asked for 'shop.test' and was led to 127.0.0.1:{found.port}: ")


async def test_a_hello_byte_by_byte(tmp_path: Path) -> None:
    async with issuer(tmp_path, silent=True) as found, node(lambda base: with_issuer(base, found.port)) as it:
        client = await it.l7.connect()
        sent = hello("acme-tls/1")
        for byte in sent:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: found.heard == sent)
        client.writer.write(b"more")
        await until(lambda: found.heard == sent + b"more")
        await client.close()
        assert await it.counted() == {"acme_led": 1}


NO_PROTOCOL, INTERNAL_ERROR = 120, 80


async def refused(it: Node) -> int:
    """The alert that a CA gets, before the connection is closed."""
    client = await it.l7.connect()
    client.writer.write(hello("acme-tls/1"))
    record = await client.rest()
    await client.close()
    assert record[:-1] == b"\x15\x03\x03\x00\x02\x02"  # one alert, fatal
    return record[-1]


async def test_without_an_issuer_a_ca_is_refused_with_the_alert_for_it(tmp_path: Path) -> None:
    async with issuer(tmp_path) as found, node(lambda base: base) as it:
        assert await refused(it) == NO_PROTOCOL
        assert await it.counted() == {"failed_no_protocol": 1}
        assert "alert no application protocol" in await s_client(it.l7.port, "-alpn", "acme-tls/1")
        base = https(it.l7.port, 1, certificate(KEY, ["web.test"]))
        await it.l7.worker.apply(with_issuer(base, found.port))
        assert await asyncio.to_thread(subject, it.l7.port, "shop.test", ca()) == "challenge.test"
        await it.l7.worker.apply(base)
        assert await refused(it) == NO_PROTOCOL
        # whoever offers other protocols too is any other client
        both = client_context()
        both.set_alpn_protocols(["acme-tls/1", "http/1.1"])
        assert await asyncio.to_thread(subject, it.l7.port, "shop.test", both) == "web.test"


async def test_a_listener_needs_no_certificate_to_lead_a_ca(tmp_path: Path) -> None:
    """The first certificate is got through the listener that waits for it."""
    async with issuer(tmp_path) as found, node(lambda base: with_issuer(base, found.port)) as it:
        base = with_issuer(https(it.l7.port, 1, Certificate("new", domains=("new.test",))), found.port)
        problems = await it.l7.worker.apply(base)
        assert "listener 'web': no certificate can be served" in problems
        assert await asyncio.to_thread(subject, it.l7.port, "new.test", ca()) == "challenge.test"


async def test_an_issuer_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        async with node(lambda base: with_issuer(base, port)) as it:
            assert await refused(it) == INTERNAL_ERROR
            assert await it.counted() == {"failed_acme": 1}
            assert it.l7.hub.counters["connect_failures"] == 1
            assert "ok" in await asyncio.to_thread(get, it.l7.port)
    assert f"was not led on: 127.0.0.1:{port}: Connection refused" in caplog.text


async def test_another_server_of_the_issuers_is_asked_and_none_that_is_down(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = nobody.getsockname()[1]
        async with issuer(tmp_path) as found, node(lambda base: with_issuer(base, away, found.port)) as it:
            for _ in range(2):
                assert await asyncio.to_thread(subject, it.l7.port, "shop.test", ca()) == "challenge.test"
            failures = it.l7.hub.counters["connect_failures"]
            assert failures > 0
            it.l7.worker.set_down({"issuer": [("127.0.0.1", away)]})
            for _ in range(2):
                assert await asyncio.to_thread(subject, it.l7.port, "shop.test", ca()) == "challenge.test"
            assert it.l7.hub.counters["connect_failures"] == failures
            it.l7.worker.set_down({"issuer": [("127.0.0.1", away), ("127.0.0.1", found.port)]})
            assert await refused(it) == INTERNAL_ERROR
            assert await it.counted() == {"acme_led": 4, "failed_acme": 1}


async def cut(client: Client) -> None:
    """Waits for the end of a connection on which nothing but an alert comes."""
    with suppress(ConnectionResetError):
        assert len(await client.rest()) in (0, 7)


async def test_a_passage_ends_with_the_time_of_a_handshake(tmp_path: Path) -> None:
    async with (
        issuer(tmp_path, silent=True) as found,
        node(lambda base: with_issuer(base, found.port, handshake_timeout_s=1)) as it,
    ):
        client = await it.l7.connect()
        client.writer.write(hello("acme-tls/1"))
        await until(lambda: found.connections == 1)
        await cut(client)
        assert await it.counted() == {"failed_timeout": 1}
        await client.close()


async def test_a_passage_takes_so_many_bytes(tmp_path: Path) -> None:
    async with issuer(tmp_path, silent=True) as found, node(lambda base: with_issuer(base, found.port)) as it:
        client = await it.l7.connect()
        client.writer.write(hello("acme-tls/1"))
        await until(lambda: found.connections == 1)
        client.writer.write(bytes(2 * acme_passage.LIMIT_BYTES))
        await cut(client)
        assert await it.counted() == {"failed_acme": 1}
        assert len(found.heard) <= acme_passage.LIMIT_BYTES
        await client.close()


async def test_so_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with issuer(tmp_path, silent=True) as found, node(lambda base: with_issuer(base, found.port)) as it:
        it.l7.worker._passages._most = 1
        first = await it.l7.connect()
        first.writer.write(hello("acme-tls/1"))
        await until(lambda: found.connections == 1)
        assert await refused(it) == INTERNAL_ERROR
        await first.close()
        assert await it.counted() == {"acme_led": 1, "failed_acme": 1}
        second = await it.l7.connect()
        second.writer.write(hello("acme-tls/1"))
        await until(lambda: found.connections == 2)
        await second.close()


async def test_the_end_of_the_process_ends_passages(tmp_path: Path) -> None:
    async with issuer(tmp_path, silent=True) as found:
        async with node(lambda base: with_issuer(base, found.port)) as it:
            client = await it.l7.connect()
            client.writer.write(hello("acme-tls/1"))
            await until(lambda: found.connections == 1)
        assert it.tls.counters()["failed_closed"] == 1
        await cut(client)
        await client.close()


async def test_a_ca_that_goes_away_before_the_issuer_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to the issuer comes up and is closed again."""
    async with issuer(tmp_path, silent=True) as found, node(lambda base: with_issuer(base, found.port)) as it:
        connect, go_on, waiting = it.l7.hub.loop.create_connection, asyncio.Event(), asyncio.Event()

        async def slowly(*arguments: object) -> object:
            waiting.set()
            await go_on.wait()
            return await connect(*arguments)  # type: ignore[arg-type]

        client = await it.l7.connect()
        with monkeypatch.context() as patched:
            patched.setattr(it.l7.hub.loop, "create_connection", slowly)
            client.writer.write(hello("acme-tls/1"))
            await waiting.wait()
        it.tls.gate._in_flight.all()[0].expire(Failure.TIMEOUT)
        go_on.set()
        await until(lambda: found.connections == 1)
        assert await it.counted() == {"failed_timeout": 1}
        await until(lambda: found.open == 0)
        assert found.heard == b""
        await client.close()
