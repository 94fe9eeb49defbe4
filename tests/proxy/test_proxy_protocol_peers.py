"""The PROXY protocol with who invented it, HAProxy, and with nginx."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control.node.probe import Target, probe
from core.model import CheckType, HealthCheck, ProxyHeader, ProxyProtocol
from core.resolve import upstream_tls
from proxy.tls import TlsServer
from tests.proxy.support import Backend, Client, free_port, model, proxy, with_options, with_service
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
    process = await asyncio.create_subprocess_exec(*argv)

    async def answers() -> bool:
        assert process.returncode is None, "its output says why"
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
        await process.wait()


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


NGINX = """\
master_process off; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 1000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{
    listen 127.0.0.1:{port} {tls} proxy_protocol;
    ssl_certificate {pem}; ssl_certificate_key {pem};
    location / {{
      return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port $connection";
    }}
  }}
}}
"""  # noqa: E501


@pytest.mark.parametrize("how", [ProxyHeader.V1, ProxyHeader.V2])
@pytest.mark.parametrize("secure", ["", "ssl"])
async def test_nginx_behind(how: ProxyHeader, secure: str, tmp_path: Path) -> None:
    """Without and with TLS, which comes after the header; and our checks."""
    port, pem = free_port(), haproxy_pem(tmp_path)
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(dir=tmp_path, port=port, tls=secure, pem=pem))
    base = with_service(model(free_port(), [port]), proxy_protocol=how, tls=bool(secure), tls_verify=False)
    async with started("nginx", "-c", str(config), port=port), proxy(base) as l7:
        numbers = set()
        for _ in range(2):
            client = await connect(l7.port, None)
            here = f"{CLIENT} {client.writer.get_extra_info('sockname')[1]} 127.0.0.1 {l7.port}"
            for _ in range(3):
                status, body = await client.ask()
                told, _, number = body.decode().rpartition(" ")
                assert (status, told) == (200, here)
                numbers.add(number)
            await client.close()
        assert len(numbers) == 2, "one connection for each client"
        tls = upstream_tls(base, base.backend_services["app"])
        for kind in (CheckType.TCP, CheckType.HTTP):
            check = HealthCheck(type=kind, timeout_s=20, codes="200")
            assert (await probe(Target("k", "127.0.0.1", port, check, tls, introduces=how.version)))[0]
    errors = (tmp_path / "nginx.err").read_text().replace('broken header: ""', "")  # of who looks whether it is there
    assert "broken header" not in errors


@pytest.mark.parametrize("how", [ProxyHeader.V1, ProxyHeader.V2])
async def test_haproxy_behind(how: ProxyHeader, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    said = "%ci %cp %fi %fp %[fc_pp_authority] %[fc_rcvd_proxy]"
    config.write_text(
        HAPROXY.replace("mode tcp", "mode http") + f"frontend in\n  bind 127.0.0.1:{port} accept-proxy\n"
        f'  http-request return status 200 content-type text/plain lf-string "{said}"\n'
    )
    tls = TlsServer(LocalKeys([KEY]))
    base = with_service(https(free_port(), port, certificate(KEY, ["web.test"])), proxy_protocol=how)
    async with started("haproxy", "-db", "-f", str(config), port=port), proxy(base, tls) as l7:
        client = await connect(l7.port, client_context())
        own = client.writer.get_extra_info("sockname")[1]
        authority = "web.test" if how is ProxyHeader.V2 else ""
        for _ in range(2):
            status, body = await client.ask()
            assert (status, body.decode()) == (200, f"{CLIENT} {own} 127.0.0.1 {l7.port} {authority} 1")
        await client.close()
        check = HealthCheck(type=CheckType.HTTP, timeout_s=20, codes="200")
        assert (await probe(Target("k", "127.0.0.1", port, check, introduces=how.version)))[0]
    await tls.close()
