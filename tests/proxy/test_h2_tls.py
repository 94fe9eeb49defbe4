"""HTTP/2 as clients ask for it: by ALPN, from curl, nghttp, h2load and Chromium, with certificates, over a handover."""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from core.model import Certificate, ClientCertificate, Model, Protocol
from proxy.h2_conn import Http2Connection
from proxy.head import read_request
from proxy.tls import TlsServer
from tests.e2e.console_site import CHROMIUM, OPTIONS
from tests.proxy.client_certs import Authority
from tests.proxy.h2_support import Raw, with_fields
from tests.proxy.support import Backend, Proxy, Request, answer_ok, free_port, model, proxy
from tests.proxy.test_h2_conn import echo
from tests.proxy.tls_support import LocalKeys, certificate, client_context, new_key
from tests.waiting import until

KEY = new_key("P-256")
Say = Callable[[Request], Awaitable[None]]


def https(port: int, server: int, *certificates: Certificate, **options: Any) -> Model:
    base = model(port, [server])
    names = tuple(each.name for each in certificates)
    listener = replace(base.listeners["web"], protocol=Protocol.HTTPS, certificates=names, **options)
    return replace(base, listeners={"web": listener}, certificates={each.name: each for each in certificates})


@asynccontextmanager
async def serving(answer: Say = answer_ok, **options: Any) -> AsyncIterator[tuple[Proxy, Backend]]:
    tls = TlsServer(LocalKeys([KEY]))
    async with Backend(answer).running() as backend:
        made = https(free_port(), backend.port, certificate(KEY, ["web.test"]), **options)
        async with proxy(made, tls) as l7:
            yield l7, backend
        await tls.close()


def offering(*protocols: str, context: ssl.SSLContext | None = None) -> ssl.SSLContext:
    context = context or client_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def connected(l7: Proxy, context: ssl.SSLContext) -> AsyncIterator[Raw]:
    streams = await asyncio.open_connection("127.0.0.1", l7.port, ssl=context, server_hostname="web.test")
    client = Raw(*streams)
    client.greet()
    try:
        yield client
    finally:
        await client.close()


async def chosen(l7: Proxy, *protocols: str) -> str | None:
    streams = await asyncio.open_connection("127.0.0.1", l7.port, ssl=offering(*protocols), server_hostname="web.test")
    name: str | None = streams[1].get_extra_info("ssl_object").selected_alpn_protocol()
    streams[1].close()
    return name


async def run(*words: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, (words, out, errors)
    return out


async def test_the_client_chooses() -> None:
    async with serving() as (l7, backend):
        assert [await chosen(l7, "h2", "http/1.1"), await chosen(l7, "http/1.1", "h2")] == ["h2", "h2"]
        assert await chosen(l7, "http/1.1") == "http/1.1"
        async with connected(l7, offering("h2")) as client:
            assert (await client.get()).status == 200
            record = await l7.record()
            assert (record.tls_version, record.sni, record.version) == ("TLSv1.3", "web.test", "HTTP/2.0")
            assert b"X-Forwarded-Proto: https\r\n" in backend.heads[0]
            made = https(l7.port, backend.port, certificate(KEY, ["web.test"]), http2=False)
            await l7.worker.apply(made)
            assert await chosen(l7, "h2", "http/1.1") == "http/1.1"
            assert (await client.get()).status == 200  # it goes on as it has begun


async def test_the_server_is_told_who_the_client_is(tmp_path: Path) -> None:
    ours = Authority()
    async with serving() as (l7, backend):
        base = https(l7.port, backend.port, certificate(KEY, ["web.test"]))
        listener = replace(
            base.listeners["web"], ca_certificate="partners", client_certificate=ClientCertificate.OPTIONAL
        )
        made = replace(base, listeners={"web": listener}, ca_certificates={"partners": ours.admits()})
        await l7.worker.apply(made)
        alice = offering("h2", context=ours.issue("alice").context(tmp_path))
        for context, subjects in [(alice, [b"CN=alice"]), (offering("h2"), [])]:
            async with connected(l7, context) as client:
                forged = (b"x-forwarded-client-cert-subject", b"CN=root")
                assert (await client.get(forged)).status == 200
                head = read_request(backend.heads[-1])
                assert head is not None
                assert head.block.values(b"x-forwarded-client-cert-subject") == subjects
        async with connected(l7, alice) as client:
            await client.get()
            await l7.worker.apply(base)  # nobody is asked any more: whoever came before has to come again
            await until(lambda: len(client.goaways) == 2)
            await client.ended()


async def test_curl_sends_and_gets_a_long_body(tmp_path: Path) -> None:
    body, sent, got = bytes(range(256)) * 16_384, tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(body)
    async with serving(echo) as (l7, _):
        where = ["--resolve", f"web.test:{l7.port}:127.0.0.1", f"https://web.test:{l7.port}/x"]
        words = ["curl", "-sSk", "--http2", "-o", str(got), "-w", "%{http_version} %{http_code}"]
        assert await run(*words, "--data-binary", f"@{sent}", *where) == b"2 200"
        assert sha256(got.read_bytes()).digest() == sha256(body).digest()
        assert await run(*words, "--http1.1", *where) == b"1.1 200"


async def invited(request: Request) -> None:
    """Asks for the body where the client waits for that, and echoes it."""
    if b"\r\nexpect: 100-continue\r\n" in request.head:
        request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await echo(request)


async def test_nghttp_has_priorities_padding_and_narrow_windows(tmp_path: Path) -> None:
    """A dozen requests that depend on each other; and uploads: padded, and with whatever else a client may do."""
    body, sent = bytes(range(256)) * 1_200, tmp_path / "sent"
    sent.write_bytes(body)
    async with serving(invited) as (l7, backend):
        start, url = ["nghttp", "-y", "-b", "200"], f"https://127.0.0.1:{l7.port}"
        upload = [*start, "-d", str(sent)]
        parts = ["--no-content-length", "--trailer", "x-sum: 1", "--expect-continue", "--continuation"]
        narrow = ["-w", "12", "-W", "13", "-c", "0", "--encoder-header-table-size=0"]
        told, *got = await asyncio.gather(
            run(*start, "-v", "-n", "-m", "6", "-p", "200", "-p", "1", f"{url}/x", f"{url}/y"),
            run(*upload, f"{url}/up"), run(*upload, *parts, *narrow, f"{url}/up"),
        )  # fmt: skip
        assert b"send PRIORITY frame" in told
        assert len(set(re.findall(rb"recv \(stream_id=(\d+)\) :status: 200", told))) == 12
        assert [len(each) for each in got] == [len(body)] * 2
        assert got == [body] * 2
        chunked = [head.lower() for head in backend.heads if b"\r\nTransfer-Encoding: chunked" in head]
        assert [head.count(b"\r\ncontinuation-test-") for head in chunked] == [6]
        counted = l7.hub.counters
        assert [counted[f"http2_{name}"] for name in ("connections", "streams", "errors", "resets_out")] == [
            3,
            14,
            0,
            0,
        ]
        assert (counted["status_2xx"], len(l7.records)) == (14, 14)


async def test_h2load_has_a_hundred_streams_at_a_time() -> None:
    async with serving() as (l7, _):
        words = ["h2load", "-n", "1500", "-c", "3", "-m", "100", f"https://127.0.0.1:{l7.port}/x"]
        told = (await run(*words)).decode()
        assert "1500 succeeded, 0 failed, 0 errored" in told, told
        assert l7.hub.counters["http2_streams"] == 1500
        assert l7.hub.counters["status_2xx"] == 1500


async def test_a_new_configuration_loses_nothing() -> None:
    """The listener's rules and certificates change while requests go on."""
    async with serving() as (l7, backend):
        stop = asyncio.Event()

        async def change() -> None:
            while not stop.is_set():
                for idle_timeout_s in (5, 6):
                    name = certificate(KEY, ["web.test"])
                    await l7.worker.apply(https(l7.port, backend.port, name, idle_timeout_s=idle_timeout_s))
                    await asyncio.sleep(0.01)

        changing = asyncio.create_task(change())
        async with connected(l7, offering("h2")) as client:
            for _ in range(10):
                streams = [client.ask(with_fields((b"x-a", b"%d" % number))) for number in range(30)]
                assert {(await client.answer(stream)).status for stream in streams} == {200}
            assert client.goaways == []
        stop.set()
        await changing


# -- a browser

PAGE = b"""<!doctype html><title>page</title><script>
async function all(count) {
  const texts = await Promise.all([...Array(count).keys()].map(async (each) => (await fetch(`/fetch/${each}`)).text()));
  return texts.join(' ');
}
async function sent(size) {
  const answer = await fetch('/echo', { method: 'POST', body: new Uint8Array(size).fill(97) });
  return (await answer.text()).length;
}
function talked(words) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/ws`);
    const heard = [];
    socket.onopen = () => words.forEach((word) => socket.send(word));
    socket.onmessage = (event) => { heard.push(event.data); if (heard.length === words.length) socket.close(); };
    socket.onclose = (event) => resolve([...heard, event.code]);
    socket.onerror = () => reject(new Error('it failed'));
  });
}
</script>"""


async def web_frame(request: Request) -> tuple[int, bytes]:
    """A frame of RFC 6455 from a client, shorter than 64 KiB: what it is, and what it says."""
    first, second = await request.reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await request.reader.readexactly(2), "big")
    mask = await request.reader.readexactly(4)
    data = await request.reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


async def web(request: Request) -> None:
    """A page, what it fetches, and a WebSocket that echoes."""
    if request.path == "/ws":
        (key,) = re.findall(rb"(?i)sec-websocket-key: (\S+)", request.head)
        accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        opened = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
        request.writer.write(opened % accept)
        kind = 1
        while kind == 1:
            kind, data = await web_frame(request)
            size = struct.pack("B", len(data)) if len(data) < 126 else struct.pack(">BH", 126, len(data))
            request.writer.write(bytes((0x80 | kind,)) + size + data)
        request.writer.close()
        return
    if request.path == "/echo":
        await echo(request)
        return
    body = PAGE if request.path == "/" else request.path.encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
    request.writer.write(head % len(body) + body)


async def test_chromium_and_a_websocket_on_the_same_connection() -> None:
    async with serving(web) as (l7, backend), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = await (await browser.new_context(ignore_https_errors=True)).new_page()
        await page.goto(f"https://127.0.0.1:{l7.port}/")
        assert await page.evaluate("all(40)") == " ".join(f"/fetch/{each}" for each in range(40))
        assert await page.evaluate("sent(300000)") == 300_000
        words = ["one", "x" * 40_000, "three"]
        assert await page.evaluate("talked(" + repr(words) + ")") == [*words, 1005]  # a close without a code
        (site,) = l7.worker._sites.values()
        kinds = [type(each) for each in site.connections]
        assert kinds.count(Http2Connection) == 1
        await browser.close()
        records = l7.records
        assert {record.version for record in records} == {"HTTP/2.0"}
        (socket,) = [record for record in records if record.path == "/ws"]
        assert (socket.status, socket.error_code, socket.method) == (101, "", "GET")
        (head,) = [head for head in backend.heads if head.startswith(b"GET /ws ")]
        assert b"\r\norigin: https://127.0.0.1" in head
