"""The PROXY protocol with who invented it, HAProxy, and with nginx."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.model import ProxyProtocol
from proxy.tls import TlsServer
from tests.proxy.support import Backend, Client, free_port, model, proxy, with_options
from tests.proxy.test_https import KEY, https
from tests.proxy.tls_support import LocalKeys, certificate, client_context
from tests.waiting import until

CLIENT = "127.0.0.5"  # told by a proxy at 127.0.0.1
HAPROXY = """\
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  unique-id-format %[uuid]
"""
SERVER = "server s 127.0.0.1:{port} source 127.0.0.1 "
WAYS = {
    "send-proxy": ("", SERVER + "send-proxy"),
    "send-proxy-v2": ("", SERVER + "send-proxy-v2"),
    "with options": (
        "ssl crt {pem}",
        SERVER + "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,authority,crc32c,unique-id",
    ),
}  # fmt: skip


def haproxy_pem(directory: Path) -> Path:
    key = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = directory / "haproxy.pem"
    path.write_text(certificate(KEY, ["web.test"]).chain + key)
    return path


@asynccontextmanager
async def started(*argv: str, port: int) -> AsyncIterator[None]:
    """A program that listens on `port`."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE,
                                                   stderr=asyncio.subprocess.STDOUT)  # fmt: skip

    async def answers() -> bool:
        assert process.returncode is None, (await process.communicate())[0].decode()
        with suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
            return True
        return False

    try:
        while not await answers():
            await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def connect(port: int, tls: ssl.SSLContext | None) -> Client:
    name = "web.test" if tls is not None else None
    return Client(
        *await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name, local_addr=(CLIENT, 0))
    )


@pytest.mark.parametrize("way", WAYS)
async def test_haproxy_in_front(way: str, tmp_path: Path) -> None:
    """Of each kind of header that it makes; and its checks, which are its own."""
    binds, server = WAYS[way]
    ours, front, pem = free_port(), free_port(), haproxy_pem(tmp_path)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        HAPROXY + f"listen in\n  bind 127.0.0.1:{front} {binds.format(pem=pem)}\n"
        f"  {server.format(port=ours)} check check-send-proxy inter 200ms\n"
    )
    async with Backend().running() as backend:
        base = with_options(
            model(ours, [backend.port]), proxy_protocol=ProxyProtocol.REQUIRED, proxy_protocol_from=("127.0.0.1/32",),
            x_forwarded_client_port=True,
        )  # fmt: skip
        async with proxy(base) as l7, started("haproxy", "-db", "-f", str(config), port=front):
            client = await connect(front, client_context() if binds else None)
            port = client.writer.get_extra_info("sockname")[1]
            assert (await client.ask())[0] == 200
            record = await l7.record()
            assert record.client == CLIENT
            assert (record.tls_version, record.sni) == (("TLSv1.3", "web.test") if binds else ("", ""))
            await client.close()
            await until(lambda: l7.hub.counters["connections"] >= 3)  # checks
            assert "introductions_refused" not in l7.hub.counters
    (head,) = backend.heads
    assert b"X-Forwarded-For: 127.0.0.5\r\n" in head
    assert b"X-Forwarded-Client-srcport: %d\r\n" % port in head
    assert b"X-Forwarded-Port: %d\r\n" % front in head
    assert b"X-Forwarded-Proto: %b\r\n" % (b"https" if binds else b"http") in head


async def test_haproxy_in_front_of_tls(tmp_path: Path) -> None:
    """It passes the client's TLS through, behind its header."""
    ours, front = free_port(), free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY + f"listen in\n  bind 127.0.0.1:{front}\n  {SERVER.format(port=ours)} send-proxy-v2\n")
    tls = TlsServer(LocalKeys([KEY]))
    async with Backend().running() as backend:
        base = with_options(
            https(ours, backend.port, certificate(KEY, ["web.test"])), proxy_protocol=ProxyProtocol.REQUIRED,
            proxy_protocol_from=("127.0.0.1/32",),
        )  # fmt: skip
        async with proxy(base, tls) as l7, started("haproxy", "-db", "-f", str(config), port=front):
            client = await connect(front, client_context())
            assert (await client.ask())[0] == 200
            record = await l7.record()
            assert (record.client, record.sni) == (CLIENT, "web.test")
            await client.close()
    await tls.close()
