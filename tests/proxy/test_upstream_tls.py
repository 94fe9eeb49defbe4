"""Servers behind TLS and behind unix sockets: who is believed, what is reused, what is said of failures."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certs.authority import Authority, private_pem
from control.node import backend_tls
from control.node.probe import Target, probe
from core.model import CaCertificate, CheckType, HealthCheck, Model, Server, ServerGroup
from core.resolve import UpstreamTls
from proxy.errors import ApplyError
from tests.proxy.support import ANSWER, Backend, Request, answer_ok, free_port, model, proxy, with_service
from tests.proxy.tls_support import LOOPS, run


@dataclass
class Site:
    """A CA with a leaf for backend.test and 127.0.0.1."""

    directory: Path
    authority: Authority
    leaf: x509.Certificate

    @classmethod
    def make(cls, directory: Path, names: tuple[str, ...] = ("backend.test", "127.0.0.1")) -> Site:
        directory.mkdir(exist_ok=True)
        authority = Authority.init(directory / "ca")
        key = ec.generate_private_key(ec.SECP256R1())
        pem = authority.issue_leaf(key.public_key(), names)
        (directory / "leaf.pem").write_bytes(pem + private_pem(key))
        return cls(directory, authority, x509.load_pem_x509_certificate(pem))

    @property
    def bundle(self) -> str:
        return self.authority.ca_pem.decode()

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "leaf.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def revoked(self, *serials: int) -> str:
        """A list of what this CA has revoked, PEM."""
        now = datetime.now(UTC)
        key = load_pem_private_key((self.directory / "ca" / "ca-key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.load_pem_x509_certificate(self.authority.ca_pem).subject)
            .last_update(now - timedelta(hours=1))
            .next_update(now + timedelta(days=1))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(hours=1))
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path / "site")


def secured(base: Model, bundle: str = "", crl: str = "", **changes: Any) -> Model:
    """The model with TLS towards its servers."""
    authorities = {"ca": CaCertificate("ca", bundle=bundle, crl=crl)} if bundle else {}
    base = replace(base, ca_certificates=authorities)
    return with_service(base, **{"tls": True, "tls_ca_certificate": "ca" if bundle else "", **changes})


def at_socket(base: Model, path: str) -> Model:
    return replace(base, server_groups={"app": ServerGroup("app", (Server(f"unix:{path}"),))})


@asynccontextmanager
async def backend(site: Site, **options: Any) -> AsyncIterator[Backend]:
    async with Backend(tls=site.server(), **options).running() as made:
        yield made


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_is_spoken_to_by_tls_and_its_connection_kept(site: Site, loop: str) -> None:
    big = bytes(range(256)) * 4096

    async def echo(request: Request) -> None:
        body = await request.body()
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def main() -> None:
        async with (
            backend(site, answer=echo) as server,
            proxy(secured(model(free_port(), [server.port]), site.bundle)) as l7,
        ):
            assert await l7.get() == (200, b"")
            client = await l7.connect()
            assert await client.ask("/", body=big, method="POST") == (200, big)
            assert await client.ask("/", body=b"small", method="PUT") == (200, b"small")
            assert server.connections == 1
            await client.close()

    run(main(), loop)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # what, the service, said in the log
    ("unknown authority", {"bundle": ""}, "unable to get local issuer certificate"),
    ("other name", {"tls_server_name": "other.test"}, "Hostname mismatch, certificate is not valid for 'other.test'."),
]


@pytest.mark.parametrize(("changes", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_who_is_not_believed_gets_no_request(
    site: Site, changes: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"bundle": site.bundle, **changes}
    async with backend(site) as server, proxy(secured(model(free_port(), [server.port]), **changes)) as l7:
        assert [(await l7.get())[0] for _ in range(2)] == [502, 502]
        assert (await l7.record()).error_code == "upstream_tls"
        assert server.heads == []
    warnings = [each.message for each in caplog.records if each.name == "proxy.service"]
    assert warnings == [f"app: 127.0.0.1:{server.port}: the server's certificate is not accepted: {said}"]


async def test_without_a_name_the_address_has_to_be_in_the_certificate(tmp_path: Path) -> None:
    site = Site.make(tmp_path / "named", ("backend.test",))
    async with backend(site) as server, proxy(secured(model(free_port(), [server.port]), site.bundle)) as l7:
        assert (await l7.get())[0] == 502
        assert (await l7.record()).error_code == "upstream_tls"


async def test_a_name_is_sent_and_verified(site: Site) -> None:
    asked: list[str | None] = []
    server_context = site.server()
    server_context.sni_callback = lambda _, name, __: asked.append(name)
    base = secured(model(free_port(), []), site.bundle, tls_server_name="backend.test")
    async with Backend(tls=server_context).running() as server:
        group = ServerGroup("app", (Server("127.0.0.1", server.port),))
        async with proxy(replace(base, server_groups={"app": group})) as l7:
            assert await l7.get() == (200, b"ok")
    assert asked == ["backend.test"]


async def test_unverified_is_what_it_says(site: Site) -> None:
    base = secured(model(free_port(), []), tls_verify=False, tls_server_name="whatever.test")
    async with backend(site) as server:
        group = ServerGroup("app", (Server("127.0.0.1", server.port),))
        async with proxy(replace(base, server_groups={"app": group})) as l7:
            assert await l7.get() == (200, b"ok")


async def test_a_revoked_certificate_is_refused(site: Site) -> None:
    async with backend(site) as server:
        base = model(free_port(), [server.port])
        async with proxy(secured(base, site.bundle, site.revoked(1))) as l7:
            assert await l7.get() == (200, b"ok")
            await l7.worker.apply(secured(base, site.bundle, site.revoked(site.leaf.serial_number)))
            assert (await l7.get())[0] == 502
            assert (await l7.record(2)).error_code == "upstream_tls"


async def test_a_server_without_tls_is_no_server(site: Site) -> None:
    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
    async with server:
        base = model(free_port(), [server.sockets[0].getsockname()[1]])
        async with proxy(secured(base, site.bundle)) as l7:
            assert (await l7.get())[0] == 502
            assert (await l7.record()).error_code == "upstream_tls"


async def test_a_handshake_that_hangs_is_a_connection_that_does_not_come(site: Site) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        base = model(free_port(), [server.sockets[0].getsockname()[1]], connect_timeout_s=0.2)
        async with proxy(secured(base, site.bundle)) as l7:
            assert (await l7.get())[0] == 504
            assert (await l7.record()).error_code == "connect_timeout"


async def test_connections_made_otherwise_are_not_used_again(site: Site, tmp_path: Path) -> None:
    """Neither idle ones nor those in flight when the configuration changes."""
    go_on, other = asyncio.Event(), Site.make(tmp_path / "other")

    async def answer(request: Request) -> None:
        if request.path == "/slow":
            await go_on.wait()
        request.writer.write(ANSWER)

    async with backend(site, answer=answer) as server:
        base = model(free_port(), [server.port])
        first = secured(base, site.bundle)
        async with proxy(first) as l7:
            assert await l7.get() == (200, b"ok")
            client = await l7.connect()
            slow = asyncio.create_task(client.ask("/slow"))
            while len(server.heads) < 2:
                await asyncio.sleep(0.005)
            assert await l7.get() == (200, b"ok")
            assert server.connections == 2  # one in flight, one idle
            await l7.worker.apply(secured(base, site.bundle + other.bundle))
            assert await l7.get() == (200, b"ok")
            assert server.connections == 3
            go_on.set()
            assert await slow == (200, b"ok")
            assert await l7.get() == (200, b"ok")
            await l7.worker.apply(secured(base, site.bundle + other.bundle))
            assert await l7.get() == (200, b"ok")
            assert server.connections == 3
            (idle,) = l7.hub.services["app"].pool._members[0].idle
            assert idle.secured is l7.hub.services["app"].secured
            await client.close()


async def test_a_bundle_that_cannot_be_read_changes_nothing(site: Site) -> None:
    async with backend(site) as server:
        base = model(free_port(), [server.port])
        async with proxy(secured(base, site.bundle)) as l7:
            with pytest.raises(ApplyError, match="backend service 'app': ca_certificate 'ca':"):
                await l7.worker.apply(secured(base, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
            assert await l7.get() == (200, b"ok")


def test_without_a_bundle_the_machines_authorities_are_trusted() -> None:
    assert backend_tls.context(UpstreamTls(True)).cert_store_stats()["x509_ca"] >= 0
    assert backend_tls.context(UpstreamTls(True)).verify_mode is ssl.CERT_REQUIRED


# -- unix sockets


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_behind_a_socket(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        path = str(tmp_path / "app.sock")
        async with Backend(path=path).running() as server, proxy(at_socket(model(free_port(), []), path)) as l7:
            assert [await l7.get() for _ in range(2)] == [(200, b"ok")] * 2
            record = await l7.record(2)
            assert record.upstream == f"unix:{path}"
            assert server.connections == 1

    run(main(), loop)


async def test_a_socket_that_is_not_there_is_a_failure_to_connect(tmp_path: Path) -> None:
    async with proxy(at_socket(model(free_port(), []), str(tmp_path / "none.sock"))) as l7:
        assert (await l7.get())[0] == 502
        assert (await l7.record()).error_code == "connect_failed"


async def test_an_unhealthy_socket_is_not_asked_for_its_retransmissions(tmp_path: Path) -> None:
    """A socket has none; whoever listens there may answer late."""
    path, go_on = str(tmp_path / "app.sock"), asyncio.Event()

    async def answer(request: Request) -> None:
        await go_on.wait()
        await answer_ok(request)

    async with Backend(answer, path=path).running() as server, proxy(at_socket(model(free_port(), []), path)) as l7:
        client = await l7.connect()
        asked = asyncio.create_task(client.ask("/"))
        while not server.heads:
            await asyncio.sleep(0.005)
        l7.worker.set_down({"app": [(f"unix:{path}", 0)]})
        await asyncio.sleep(0.6)  # two sweeps
        go_on.set()
        assert await asked == (200, b"ok")
        await client.close()


async def test_tls_behind_a_socket(site: Site, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    base = secured(at_socket(model(free_port(), []), path), site.bundle, tls_server_name="backend.test")
    async with backend(site, path=path), proxy(base) as l7:
        assert await l7.get() == (200, b"ok")


# -- health checks

CHECK = HealthCheck(type=CheckType.HTTP, timeout_s=2)


async def test_checks_speak_tls_and_verify(site: Site) -> None:
    async with backend(site) as server:
        good, bad = UpstreamTls(True, "", site.bundle), UpstreamTls(True, "other.test", site.bundle)
        assert await probe(Target("t", "127.0.0.1", server.port, CHECK, good)) == (True, "status 200")
        healthy, why = await probe(Target("t", "127.0.0.1", server.port, CHECK, bad))
        assert not healthy
        assert why.startswith("the server's certificate is not accepted: Hostname mismatch")
        assert await probe(Target("t", "127.0.0.1", server.port, HealthCheck(), bad)) == (True, "connected")


async def test_checks_of_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    async with Backend(path=path).running() as server:
        assert await probe(Target("t", f"unix:{path}", 0, CHECK)) == (True, "status 200")
        assert await probe(Target("t", f"unix:{path}", 0, HealthCheck())) == (True, "connected")
        assert b"\r\nHost: localhost\r\n" in server.heads[0]
    assert await probe(Target("t", f"unix:{path}.none", 0, CHECK)) == (False, "No such file or directory")
