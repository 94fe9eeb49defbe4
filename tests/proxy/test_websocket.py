"""WebSockets through the proxy, between clients and servers that others wrote (RFC 6455, 7692)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.extensions import permessage_deflate
from websockets.http11 import Request, Response

from proxy.conn import ClientConnection as Connection
from tests.proxy.support import Proxy, free_port, model, proxy
from tests.waiting import until

Handler = Callable[[ServerConnection], Awaitable[None]]
BIG = 4 << 20
PATIENCE_S = 60  # on a machine that has other things to do
PATIENT = {"ping_interval": None, "open_timeout": PATIENCE_S, "close_timeout": PATIENCE_S}


async def echo(server: ServerConnection) -> None:
    with suppress(ConnectionClosed):  # with another code than 1000
        async for message in server:
            await server.send(message)


@asynccontextmanager
async def site(handler: Handler = echo, tunnel_s: int = 900, **options: object) -> AsyncIterator[Proxy]:
    """The proxy before a server of the websockets package; no tunnel is left when the test is over."""
    async with serve(handler, "127.0.0.1", 0, max_size=2 * BIG, **PATIENT, **options) as server:  # type: ignore[arg-type]
        backend = server.sockets[0].getsockname()[1]
        base = model(free_port(), [backend])
        web = replace(base.listeners["web"], established_timeout_s=tunnel_s)
        async with proxy(replace(base, listeners={"web": web})) as l7:
            yield l7
            await until(lambda: not l7.worker.connections, PATIENCE_S)
            assert l7.hub.services["app"].pool.active == {}


def client(l7: Proxy, path: str = "/chat?x=y", **options: object) -> connect:
    return connect(f"ws://127.0.0.1:{l7.port}{path}", max_size=2 * BIG, proxy=None, **PATIENT, **options)  # type: ignore[arg-type]


async def test_messages_of_every_size() -> None:
    """RFC 6455 §5.2: lengths of 7, 16 and 64 bits; text and binary; fragments."""
    async with site() as l7, client(l7, compression=None) as ws:
        for size in (0, 1, 125, 126, 65_535, 65_536, BIG):
            await ws.send(bytes(size))
            assert await ws.recv() == bytes(size)
        await ws.send("wörld")
        assert await ws.recv() == "wörld"
        await ws.send(["frag", "ment", "ed"])
        assert await ws.recv() == "fragmented"
    assert l7.records[0].status == 101
    assert l7.records[0].bytes_in > BIG < l7.records[0].bytes_out


async def test_many_messages_both_ways_at_once() -> None:
    async def shout(server: ServerConnection) -> None:
        async def say() -> None:
            for number in range(500):
                await server.send(f"down {number}")

        saying = asyncio.create_task(say())
        got = [await server.recv() for _ in range(500)]
        await saying
        await server.send(hashlib.sha256("".join(map(str, got)).encode()).hexdigest())

    async with site(shout) as l7, client(l7) as ws:
        up = [f"up {number}" for number in range(500)]

        async def say() -> None:
            for message in up:
                await ws.send(message)

        saying = asyncio.create_task(say())
        assert [await ws.recv() for _ in range(500)] == [f"down {number}" for number in range(500)]
        await saying
        assert await ws.recv() == hashlib.sha256("".join(up).encode()).hexdigest()


async def test_subprotocols_and_extensions_are_agreed_on_end_to_end() -> None:
    """RFC 6455 §4, RFC 7692."""
    async with site(subprotocols=["chat.v1", "chat.v2"]) as l7:
        async with client(l7, subprotocols=["chat.v2", "other"]) as ws:
            assert ws.subprotocol == "chat.v2"
            assert any(isinstance(each, permessage_deflate.PerMessageDeflate) for each in ws.protocol.extensions)
            await ws.send("a" * 100_000)
            assert await ws.recv() == "a" * 100_000
        async with client(l7, subprotocols=["chat.v1"], compression=None) as ws:
            assert (ws.subprotocol, ws.protocol.extensions) == ("chat.v1", [])
    assert l7.records[0].bytes_in < 10_000  # compressed, and counted as sent


async def test_pings_reach_the_other_end() -> None:
    """RFC 6455 §5.5.2: the proxy answers none itself."""
    pinged = asyncio.Event()

    async def ping(server: ServerConnection) -> None:
        await (await server.ping(b"are you there"))
        pinged.set()
        await server.wait_closed()

    async with site(ping) as l7, client(l7) as ws:
        assert await asyncio.wait_for(await ws.ping(), PATIENCE_S) >= 0
        await asyncio.wait_for(pinged.wait(), PATIENCE_S)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "leaving"), (3000, "registered"), (4999, "ü" * 61)])
@pytest.mark.parametrize("who", ["client", "server"])
async def test_close_codes_and_reasons(who: str, code: int, reason: str) -> None:
    """RFC 6455 §7.4, whoever closes first."""
    seen: asyncio.Future[tuple[int | None, str | None]] = asyncio.get_running_loop().create_future()

    async def handler(server: ServerConnection) -> None:
        if who == "server":
            await server.close(code, reason)
        else:
            await server.wait_closed()
        seen.set_result((server.close_code, server.close_reason))

    async with site(handler) as l7:
        async with client(l7) as ws:
            if who == "client":
                await ws.close(code, reason)
            else:
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
            assert (ws.close_code, ws.close_reason) == (code, reason)
        assert await asyncio.wait_for(seen, PATIENCE_S) == (code, reason)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_an_end_without_a_word_is_passed_on(who: str) -> None:
    """RFC 6455 §7.1.5: what the other side sees is 1006."""
    ended = asyncio.Event()

    async def handler(server: ServerConnection) -> None:
        if who == "server":
            server.transport.abort()
        await server.wait_closed()
        assert server.close_code == 1006
        ended.set()

    async with site(handler) as l7:
        ws = await client(l7)
        if who == "client":
            ws.transport.abort()
        else:
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
        await ws.wait_closed()
        assert ws.close_code == 1006
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_what_was_said_before_the_end_arrives() -> None:
    """The last messages and the close frame come through although the connection closes right behind them."""

    async def handler(server: ServerConnection) -> None:
        for _ in range(8):
            await server.send(bytes(100_000))
        await server.close(1000, "that was all")

    async with site(handler) as l7, client(l7, compression=None) as ws:
        got = [message async for message in ws]
        assert [len(message) for message in got] == [100_000] * 8
        assert ws.close_reason == "that was all"


async def test_a_server_that_refuses_says_so_itself() -> None:
    """RFC 6455 §4.2.2."""

    def no(server: ServerConnection, _request: object) -> object:
        return server.respond(403, "members only")

    async with site(process_request=no) as l7:
        with pytest.raises(InvalidStatus) as caught:
            async with client(l7):
                pass
        assert caught.value.response.status_code == 403
        assert caught.value.response.body == b"members only"


async def test_a_silent_tunnel_ends_and_one_that_moves_does_not() -> None:
    """`established_timeout_s` counts from the last byte in either direction."""
    async with site() as l7, client(l7) as quiet, client(l7) as lively:
        for site_ in l7.worker._all_sites():
            site_.tunnel_timeout_s = 1
        await quiet.send("x")
        assert await quiet.recv() == "x"  # from now on it has one second
        ended = asyncio.create_task(quiet.wait_closed())
        while not ended.done():
            await lively.send("x")
            assert await lively.recv() == "x"
            await asyncio.sleep(0.05)
        assert quiet.close_code == 1006
        await lively.send("still here")
        assert await lively.recv() == "still here"


async def test_a_change_of_configuration_leaves_tunnels_alone() -> None:
    async with site() as l7, client(l7) as ws:
        (web,) = l7.worker._all_sites()
        (connection,) = web.connections
        assert isinstance(connection, Connection)
        connection.drain()
        l7.worker.set_down({"app": [("127.0.0.1", 1)]})
        await ws.send("x")
        assert await ws.recv() == "x"


async def test_a_slow_reader_of_a_tunnel_holds_up_its_server_only() -> None:
    """Back-pressure: what the proxy holds stays small, whatever the server would send."""
    sent = 0

    async def flood(server: ServerConnection) -> None:
        nonlocal sent
        assert server.request is not None
        if server.request.path == "/other":
            return await server.wait_closed()
        while sent < 512:
            await server.send(bytes(1 << 20))
            sent += 1
        return None

    async with site(flood) as l7:
        ws: ClientConnection = await client(l7, compression=None)
        ws.transport.pause_reading()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 512
        (connection,) = l7.worker._all_sites()[0].connections
        assert isinstance(connection, Connection)
        assert connection._transport.get_write_buffer_size() < 1 << 20
        async with client(l7, "/other") as other:
            assert await (await other.ping()) >= 0
        ws.transport.abort()
        await ws.wait_closed()


async def test_aiohttp_speaks_through_it() -> None:
    """Another implementation of the client."""
    async with site(subprotocols=["chat"]) as l7, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{l7.port}/"
        async with session.ws_connect(url, protocols=["chat"], compress=15, max_msg_size=2 * BIG) as ws:
            assert ws.protocol == "chat"
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
            await ws.send_bytes(bytes(BIG))
            assert await ws.receive_bytes() == bytes(BIG)
            await ws.ping()
            await ws.close(code=4001, message=b"enough")
            assert ws.close_code == 4001
        async with session.ws_connect(url, protocols=["chat"], autoping=False) as ws:
            await ws.send_str("again")
            assert (await ws.receive()).data == "again"


PAGE = """<!doctype html><title>chat</title><img src="/wait"><script>
const got = [];
const ws = new WebSocket(`ws://${location.host}/chat`, ['chat.v2', 'chat.v1']);
ws.binaryType = 'arraybuffer';
ws.onopen = () => {
  ws.send('wörld'); ws.send(new Uint8Array(1 << 20).fill(7)); ws.send('x'.repeat(200000));
};
ws.onmessage = ({data}) => {
  got.push(typeof data === 'string' ? data.length : [data.byteLength, new Uint8Array(data).every(b => b === 7)]);
  if (got.length === 3) ws.close(4002, 'enough');
};
ws.onclose = ({code, reason, wasClean}) => {
  const result = {got, code, reason, wasClean, protocol: ws.protocol, extensions: ws.extensions};
  fetch('/result?' + encodeURIComponent(JSON.stringify(result)));
};
</script>"""


async def test_chromium_speaks_through_it(tmp_path: Path) -> None:
    """A page loads, and talks over a WebSocket; all of it through the proxy. The page is loaded when it has ended."""
    result: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def serve_page(server: ServerConnection, request: Request) -> Response | None:
        path, _, query = request.path.partition("?")
        if path == "/chat":
            return None
        if path == "/result" and not result.done():
            result.set_result(json.loads(unquote(query)))
        if path == "/wait":
            await result
        answer = server.respond(200, PAGE if path == "/" else "")
        del answer.headers["Content-Type"]
        answer.headers["Content-Type"] = "text/html; charset=utf-8"
        return answer

    async with site(process_request=serve_page, subprotocols=["chat.v1", "chat.v2"]) as l7:
        browser = await asyncio.create_subprocess_exec(
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}/profile",
            "--no-proxy-server", "--dump-dom", f"http://127.0.0.1:{l7.port}/",
            env={**os.environ, "HOME": str(tmp_path)},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            said = await asyncio.wait_for(result, 60)
            await asyncio.wait_for(browser.wait(), 30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)
            await browser.wait()
    assert said == {
        "got": [5, [1 << 20, True], 200_000], "code": 4002, "reason": "enough", "wasClean": True,
        "protocol": "chat.v1", "extensions": said["extensions"],
    }  # fmt: skip
    assert str(said["extensions"]).startswith("permessage-deflate")
    assert [record.path for record in l7.records if record.status == 101] == ["/chat"]
