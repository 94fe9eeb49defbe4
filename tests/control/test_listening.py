"""Listening with TLS: versions and suites, certificates that change, files that cannot be, and too many at once."""

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from control.listening import Files, ListenError, Listening, ServerTls, TlsError
from tests.control.conftest import Authority

Server = Callable[..., Awaitable[Listening]]


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.fixture
async def serve() -> AsyncIterator[Server]:
    running: list[Listening] = []

    async def start(context: ssl.SSLContext | None, **more: int) -> Listening:
        app = web.Application()
        app.router.add_get("/", hello)
        running.append(await Listening.start(app, ("127.0.0.1", 0), context, **more))
        return running[-1]

    yield start
    for each in running:
        await each.close()


@pytest.fixture
def files(authority: Authority) -> Files:
    directory = authority.issue("control", "first")
    return Files(directory / "cert.pem", directory / "key.pem")


def put(files: Files, directory: Path) -> None:
    """What a renewal does: first one file, then the other."""
    for name, path in (("cert.pem", files.certificate), ("key.pem", files.key)):
        shutil.copy(directory / name, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)


async def subject(listening: Listening, ca: Path, name: str | None = None, **more: object) -> str:
    """The first name in the certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    for attribute, value in more.items():
        setattr(context, attribute, value)
    _, writer = await asyncio.open_connection(*listening.address, ssl=context, server_hostname=name or "")
    shown = writer.get_extra_info("peercert")
    writer.close()
    await writer.wait_closed()
    return str(shown["subjectAltName"][0][1])


async def test_a_certificate_that_changes_is_served_from_then_on(
    serve: Server, files: Files, authority: Authority
) -> None:
    tls = ServerTls(files)
    listening = await serve(tls.context)
    ca = files.certificate.parent / "ca.pem"
    assert await subject(listening, ca) == "first"
    put(files, authority.issue("control", "second"))
    watching = asyncio.create_task(tls.watch(0.01))
    async with asyncio.timeout(20):
        while await subject(listening, ca) != "second":
            await asyncio.sleep(0.01)
    assert await subject(listening, ca, "lb.example") == "second", "whether a client names a host or not"
    watching.cancel()


async def test_one_that_cannot_be_served_leaves_the_one_before(
    serve: Server, files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ServerTls(files)
    listening = await serve(tls.context)
    ca = files.certificate.parent / "ca.pem"
    shutil.copy(authority.issue("control", "second") / "cert.pem", files.certificate)
    assert not tls.reload()
    assert "do not fit" in caplog.text
    assert "the certificate before stays, until 20" in caplog.text
    assert await subject(listening, ca) == "first"
    files.certificate.unlink()
    assert not tls.reload()
    assert await subject(listening, ca) == "first"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_the_versions_that_are_spoken(serve: Server, files: Files, version: str) -> None:
    listening = await serve(ServerTls(files).context)
    ca = files.certificate.parent / "ca.pem"
    wanted = ssl.TLSVersion[version]
    assert await subject(listening, ca, minimum_version=wanted, maximum_version=wanted) == "first"


async def test_what_is_not_spoken(serve: Server, files: Files) -> None:
    listening = await serve(ServerTls(files).context)
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{listening.address[1]}"]
    for words, cipher in [
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], b"(NONE)"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"], b"(NONE)"),  # CBC
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], b"ECDHE-ECDSA-AES128-GCM-SHA256"),
    ]:
        done = await asyncio.to_thread(subprocess.run, [*argv, *words], input=b"", capture_output=True, timeout=30)
        assert b"Cipher is " + cipher in done.stdout


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_tickets_are_not_given(serve: Server, files: Files, version: str) -> None:
    listening = await serve(ServerTls(files).context)
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{listening.address[1]}", "-quiet", "-msg", version]
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    done = await asyncio.to_thread(subprocess.run, argv, input=request, capture_output=True, timeout=30)
    assert b"hello" in done.stdout
    assert b"NewSessionTicket" not in done.stdout


def test_files_that_cannot_be(files: Files, authority: Authority, tmp_path: Path) -> None:
    other = authority.issue("control", "other")
    text = tmp_path / "text"
    text.write_text("text")
    text.chmod(0o600)
    encrypted = tmp_path / "encrypted.pem"
    subprocess.run(
        ["openssl", "ec", "-in", str(files.key), "-aes256", "-passout", "pass:x", "-out", str(encrypted)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    encrypted.chmod(0o600)
    for wrong, told in [
        (Files(tmp_path / "none", files.key), "none: No such file or directory; give PEM files by --api-tls-cert"),
        (Files(files.certificate, tmp_path / "none"), "none: No such file"),
        (Files(text, files.key), "is no certificate in PEM"),
        (Files(files.certificate, text), "do not fit"),
        (Files(files.certificate, other / "key.pem"), "do not fit"),
        (Files(files.certificate, encrypted), "is encrypted; `openssl pkey -in"),
    ]:
        with pytest.raises(TlsError, match=told):
            ServerTls(wrong)
    os.chmod(files.key, 0o644)
    with pytest.raises(TlsError, match="every user of this machine may read it; chmod 600 it"):
        ServerTls(files)


def test_its_end_is_told_once_a_day(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    tls, now = ServerTls(files), datetime.now(UTC)
    for hours in (0, 1, 23, 25):
        tls.warn(now + timedelta(hours=hours))
    assert [message.count("ends on") for message in caplog.messages] == [1, 0]
    assert "ended on" in caplog.messages[1]
    caplog.clear()
    tls.end = now + timedelta(days=8)
    tls.warn(now)
    assert caplog.messages == []


async def test_connections_are_bounded(serve: Server) -> None:
    listening = await serve(None, connections=2)
    held = [await asyncio.open_connection(*listening.address) for _ in range(2)]
    for _, writer in held:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for reader, _ in held:
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    reader, writer = await asyncio.open_connection(*listening.address)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    held[0][1].close()
    await held[0][1].wait_closed()

    async def is_served() -> bool:
        reader, writer = await asyncio.open_connection(*listening.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        except ConnectionResetError:
            return False
        finally:
            writer.close()

    async with asyncio.timeout(20):
        while not await is_served():
            await asyncio.sleep(0.01)
    held[1][1].close()


async def test_a_port_that_is_taken(serve: Server) -> None:
    listening = await serve(None)
    with pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.1"):
        await Listening.start(web.Application(), listening.address, None)
