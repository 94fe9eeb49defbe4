"""The client against real servers and against scripted ones: pipelining, deadlines, failing over, bounds."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from certs.authority import Authority
from control.node.identity import Identity
from keyserver import client as client_module
from keyserver import link as link_module
from keyserver.client import KeyClient
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.keyfile import PrivateKey
from keyserver.link import Endpoint
from keyserver.protocol import (
    MAX_CHAIN_BYTES,
    Event,
    Failed,
    Goodbye,
    Hello,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    encode,
    server_side,
)
from tests.keyserver.conftest import TLS13, Serving, StartServer
from tests.keyserver.test_protocol import DOCUMENT
from tests.keyserver.test_store import verify

MakeIdentity = Callable[[str, str], Identity]
Script = Callable[[Event], list[Message | bytes | None]]
KEY_ID = bytes(32)


class ScriptedServer:
    """A server that answers as a function says: messages, raw bytes, or None to cut the connection."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Event] = []
        self.greetings = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, path: Path) -> None:
        self.server = await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = server_side(100)
        self._open.add(writer)
        try:
            while data := await reader.read(65536):
                wire.receive_data(data)
                for event in wire.events():
                    self.greetings += isinstance(event, Hello)
                    writer.write(wire.data_to_send())
                    self.seen.append(event)
                    for answer in self.script(event):
                        if answer is None:
                            return
                        writer.write(answer if isinstance(answer, bytes) else encode(answer))
        except ConnectionError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    @property
    def signs(self) -> list[Sign]:
        return [event for event in self.seen if isinstance(event, Sign)]

    async def stop(self) -> None:
        self.server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Callable[[str, Script], Coroutine[None, None, ScriptedServer]]]:
    servers: list[ScriptedServer] = []

    async def start(name: str, script: Script) -> ScriptedServer:
        server = ScriptedServer(script)
        await server.start(tmp_path / name)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Callable[..., Coroutine[None, None, KeyClient]]]:
    """Clients of the unix sockets named, below the test's directory."""
    clients: list[KeyClient] = []

    async def make(*names: str, deadline_s: float = 1.0, max_outstanding: int = 8192) -> KeyClient:
        endpoints = [f"unix:{tmp_path / name}" for name in names]
        client = KeyClient(endpoints, deadline_s=deadline_s, max_outstanding=max_outstanding)
        clients.append(client)
        await client.start()
        return client

    yield make
    for client in clients:
        await client.close()


StartScripted = Callable[[str, Script], Coroutine[None, None, ScriptedServer]]
Connect = Callable[..., Coroutine[None, None, KeyClient]]


def signing(event: Event) -> list[Message | bytes | None]:
    match event:
        case Sign():
            return [Signed(event.request_id, event.content[::-1])]
        case Ping():
            return [Pong(event.request_id)]
    return []


def silent(event: Event) -> list[Message | bytes | None]:
    return []


def refusing(code: ErrorCode) -> Script:
    return lambda event: [Failed(event.request_id, code)] if isinstance(event, Sign) else []


def cutting(event: Event) -> list[Message | bytes | None]:
    return [None] if isinstance(event, Sign) else []


async def code_of(awaited: Coroutine[None, None, object]) -> ErrorCode:
    with pytest.raises(KeyServerError) as caught:
        await awaited
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/k.sock", Endpoint("unix:/run/k.sock", path="/run/k.sock")),
        ("10.0.0.5:8473", Endpoint("10.0.0.5:8473", host="10.0.0.5", port=8473)),
        ("[fd00::1]:8473", Endpoint("[fd00::1]:8473", host="fd00::1", port=8473)),
        ("key-1.internal:1", Endpoint("key-1.internal:1", host="key-1.internal", port=1)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize("text", ["", "unix:", "/run/k.sock", "host", "host:", ":8473", "host:0", "host:65536", "h:²"])
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"give unix:PATH or HOST:PORT"):
        KeyClient([text])


def test_what_a_client_needs() -> None:
    with pytest.raises(ValueError, match="no key server is given"):
        KeyClient([])
    with pytest.raises(ValueError, match="needs a node identity"):
        KeyClient(["127.0.0.1:8473"])


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_both_loops_and_both_transports(
    run: Callable[[Coroutine[None, None, None]], None],
    tmp_path: Path,
    key_dir: Path,
    identity: MakeIdentity,
    ca: Authority,
    keys: dict[str, PrivateKey],
    ids: dict[str, bytes],
) -> None:
    server_identity, l7, stranger = identity("keyserver", "k"), identity("l7", "l7-1"), identity("control", "c")
    chain = ca.issue_leaf(keys["p384"].public_key(), ["a.test", "*.b.test"]).decode()
    (key_dir / "p384.pem").write_text(chain)

    async def main() -> None:
        serving = await Serving.begin(key_dir, tmp_path / "audit", 1e6, frozenset({os.getuid()}))
        server = serving.server
        await server.listen_unix(tmp_path / "sock")
        port = await server.listen_tcp("127.0.0.1", 0, server_identity)
        for endpoint, who in ((f"unix:{tmp_path / 'sock'}", None), (f"127.0.0.1:{port}", l7)):
            client = KeyClient([endpoint], identity=who)
            await client.start()
            assert client.connected
            assert client.states() == {endpoint: True}
            for name, scheme in {"p256": 0x0403, "rsa": 0x0804}.items():
                verify(keys[name], scheme, await client.sign(ids[name], scheme, TLS13, "a.test"), TLS13)
            report = await client.check_chain(chain)
            assert (report.key_id, report.names, report.problems) == (ids["p384"], ("a.test", "*.b.test"), ())
            assert await client.find("A.test") == await client.find("x.b.test") == ((ids["p384"], chain),)
            assert await code_of(client.find("b.test")) is ErrorCode.UNKNOWN_KEY
            assert await code_of(client.find("")) is ErrorCode.MALFORMED
            assert await code_of(client.sign(ids["p256"], 0x0403, b"x", "")) is ErrorCode.REFUSED_SHAPE
            await client.close()
            assert not client.connected
        refused = KeyClient([f"127.0.0.1:{port}"], identity=stranger, deadline_s=0.2)
        await refused.start()
        assert await code_of(refused.sign(ids["p256"], 0x0403, TLS13, "")) is ErrorCode.UNAVAILABLE
        await refused.close()
        await serving.end(1)

    run(main())


async def test_a_server_of_another_role_is_not_trusted(start_server: StartServer, identity: MakeIdentity) -> None:
    server = await start_server()
    port = await server.listen_tcp("127.0.0.1", 0, identity("l7", "impostor"))
    client = KeyClient([f"127.0.0.1:{port}"], identity=identity("l7", "l7-1"), deadline_s=0.2)
    await client.start()
    assert not client.connected
    assert await code_of(client.sign(KEY_ID, 0x0403, TLS13, "")) is ErrorCode.UNAVAILABLE
    await client.close()


async def test_pipelining(scripted: StartScripted, connect: Connect) -> None:
    """All requests of one turn leave together; replies find their callbacks in whatever order they come."""
    held: list[Sign] = []

    def backwards(event: Event) -> list[Message | bytes | None]:
        if not isinstance(event, Sign):
            return []
        held.append(event)
        return [Signed(s.request_id, s.content) for s in reversed(held)] if len(held) == 100 else []

    await scripted("a", backwards)
    client = await connect("a")
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    results: dict[int, object] = {}

    def collect(number: int, result: bytes | KeyServerError) -> None:
        results[number] = result
        if len(results) == 100:
            done.set_result(None)

    for number in range(100):
        content = number.to_bytes(2, "big")
        client.sign_soon(KEY_ID, 0x0403, content, "", lambda result, n=number: collect(n, result))  # type: ignore[misc]
        assert not results, "never from within sign_soon"
    await done
    assert results == {number: number.to_bytes(2, "big") for number in range(100)}


@pytest.mark.parametrize(
    "script",
    [
        cutting,
        silent,
        refusing(ErrorCode.UNKNOWN_KEY),
        refusing(ErrorCode.BUSY),
        refusing(ErrorCode.INTERNAL),
        lambda event: [b"\0" * 9] if isinstance(event, Sign) else [],
        lambda event: [Failed(0, ErrorCode.BUSY)] if isinstance(event, Sign) else [],
    ],
    ids=["cut", "silent", "unknown key", "busy", "internal", "garbage", "refused as a whole"],
)
async def test_failing_over_inside_the_deadline(scripted: StartScripted, connect: Connect, script: Script) -> None:
    first, second = await scripted("a", script), await scripted("b", signing)
    client = await connect("a", "b", deadline_s=0.6)
    while len([state for state in client.states().values() if state]) < 2:
        await asyncio.sleep(0.01)
    assert await client.sign(KEY_ID, 0x0403, b"abc", "") == b"cba"
    assert len(first.signs) == len(second.signs) == 1
    assert first.signs[0] == second.signs[0]


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.MALFORMED,
        ErrorCode.UNKNOWN_REQUEST,
        ErrorCode.REFUSED_SCHEME,
        ErrorCode.REFUSED_SHAPE,
        ErrorCode.REFUSED_CLIENT,
        ErrorCode.RATE_LIMITED,
    ],
)
async def test_a_refusal_is_final(scripted: StartScripted, connect: Connect, code: ErrorCode) -> None:
    await scripted("a", refusing(code))
    second = await scripted("b", signing)
    client = await connect("a", "b")
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "")) is code
    assert not second.signs


async def test_with_nobody_else_to_ask_the_answer_stands(scripted: StartScripted, connect: Connect) -> None:
    for name in ("a", "b"):
        await scripted(name, refusing(ErrorCode.UNKNOWN_KEY))
    client = await connect("a", "b")
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "")) is ErrorCode.UNKNOWN_KEY


def test_the_document_says_when_another_server_may_help() -> None:
    may = set(re.findall(r"^\| 0x\w\w \| (\w+) \| yes \|$", DOCUMENT, re.M))
    # UNSUPPORTED_VERSION and other failures of a connection as a whole take the way of lost connections.
    assert may == {code.name for code in client_module._TRY_ELSEWHERE} | {"UNSUPPORTED_VERSION"}


async def test_a_silent_server_is_cut_and_later_requests_do_not_wait(scripted: StartScripted, connect: Connect) -> None:
    first, _ = await scripted("a", silent), await scripted("b", signing)
    client = await connect("a", "b", deadline_s=0.6)
    await client.sign(KEY_ID, 0x0403, b"abc", "")
    assert first.greetings >= 1
    await first.stop()
    started = asyncio.get_running_loop().time()
    for _ in range(20):
        await client.sign(KEY_ID, 0x0403, b"abc", "")
    assert asyncio.get_running_loop().time() - started < 0.15
    assert len(first.signs) == 1


async def test_the_deadline(scripted: StartScripted, connect: Connect) -> None:
    await scripted("a", silent)
    client = await connect("a", deadline_s=0.2)
    started = asyncio.get_running_loop().time()
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "")) in (ErrorCode.DEADLINE, ErrorCode.UNAVAILABLE)
    assert 0.15 < asyncio.get_running_loop().time() - started < 1
    assert not client._pending
    assert not client._waiting


async def test_no_server_at_all(connect: Connect) -> None:
    client = await connect("nothing", deadline_s=0.1)
    assert not client.connected
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "")) is ErrorCode.UNAVAILABLE


async def test_requests_wait_for_a_server_that_restarts(scripted: StartScripted, connect: Connect) -> None:
    first = await scripted("a", signing)
    client = await connect("a", deadline_s=2)
    await first.stop()
    asking = asyncio.ensure_future(client.sign(KEY_ID, 0x0403, b"abc", ""))
    await asyncio.sleep(0.05)
    assert not asking.done()
    await scripted("a", signing)
    assert await asking == b"cba"


async def test_a_request_that_kills_servers_is_given_up(scripted: StartScripted, connect: Connect) -> None:
    server = await scripted("a", cutting)
    client = await connect("a", deadline_s=10)
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "")) is ErrorCode.UNAVAILABLE
    assert len(server.signs) == client_module.MAX_ATTEMPTS


async def test_goodbye(scripted: StartScripted, connect: Connect) -> None:
    """What was asked before the GOODBYE is still answered there; what comes after goes elsewhere."""
    held: list[int] = []

    def ending(event: Event) -> list[Message | bytes | None]:
        if not isinstance(event, Sign):
            return []
        held.append(event.request_id)
        return [Goodbye()] if len(held) == 1 else [Signed(held[0], b"late"), Signed(held[1], b"too")]

    first, second = await scripted("a", ending), await scripted("b", signing)
    client = await connect("a", "b", deadline_s=5)
    both = [asyncio.ensure_future(client.sign(KEY_ID, 0x0403, b"abc", "")) for _ in range(2)]
    assert await asyncio.gather(*both) == [b"late", b"too"]
    assert await client.sign(KEY_ID, 0x0403, b"abc", "") == b"cba"
    assert (len(first.signs), len(second.signs)) == (2, 1)
    async with asyncio.timeout(2):
        while first.greetings < 2:  # the old connection was closed after its last answer, and a new one made
            await asyncio.sleep(0.01)


async def test_outstanding_requests_are_bounded(scripted: StartScripted, connect: Connect) -> None:
    await scripted("a", silent)
    client = await connect("a", deadline_s=0.2, max_outstanding=10)
    results: list[object] = []
    for _ in range(15):
        client.sign_soon(KEY_ID, 0x0403, b"abc", "", results.append)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [getattr(result, "code", None) for result in results] == [ErrorCode.OVERLOADED] * 5


async def test_a_request_that_no_frame_can_hold(scripted: StartScripted, connect: Connect) -> None:
    await scripted("a", signing)
    client = await connect("a")
    assert await code_of(client.sign(b"short", 0x0403, b"abc", "")) is ErrorCode.MALFORMED
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "ü.test")) is ErrorCode.MALFORMED
    assert await code_of(client.check_chain("x" * (MAX_CHAIN_BYTES + 1))) is ErrorCode.MALFORMED
    assert await client.sign(KEY_ID, 0x0403, b"abc", "") == b"cba"


async def test_closing(scripted: StartScripted, connect: Connect) -> None:
    await scripted("a", silent)
    client = await connect("a")
    asking = asyncio.ensure_future(client.sign(KEY_ID, 0x0403, b"abc", ""))
    await asyncio.sleep(0)
    await client.close()
    assert await code_of(asyncio.wait_for(asking, 1)) is ErrorCode.CLOSED
    assert await code_of(client.sign(KEY_ID, 0x0403, b"abc", "")) is ErrorCode.CLOSED


async def test_an_idle_connection_that_died_is_found(
    scripted: StartScripted, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "PING_EVERY_S", 0.03)
    alive, dead = await scripted("a", signing), await scripted("b", silent)
    await connect("a", "b")
    while dead.greetings < 3:
        await asyncio.sleep(0.01)
    assert alive.greetings == 1
    assert sum(isinstance(event, Ping) for event in alive.seen) >= 2


async def test_a_callback_that_raises_harms_nobody(
    scripted: StartScripted, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    await scripted("a", signing)
    client = await connect("a")

    def bad(result: object) -> None:
        raise RuntimeError("boom")

    client.sign_soon(KEY_ID, 0x0403, b"abc", "", bad)
    assert await client.sign(KEY_ID, 0x0403, b"abc", "") == b"cba"
    assert "boom" in caplog.text


async def test_replies_that_nobody_asked_for_are_ignored(scripted: StartScripted, connect: Connect) -> None:
    def chatty(event: Event) -> list[Message | bytes | None]:
        if not isinstance(event, Sign):
            return []
        stray: list[Message | bytes | None] = [Signed(77_777, b"stray"), Failed(77_778, ErrorCode.BUSY), Pong(77_779)]
        return [*stray, *signing(event), *signing(event)]

    await scripted("a", chatty)
    client = await connect("a")
    assert await client.sign(KEY_ID, 0x0403, b"abc", "") == b"cba"
    assert await client.sign(KEY_ID, 0x0403, b"def", "") == b"fed"


async def test_ids_wrap(scripted: StartScripted, connect: Connect) -> None:
    server = await scripted("a", signing)
    client = await connect("a")
    client._last_id = 0xFFFF_FFFE
    for _ in range(3):
        await client.sign(KEY_ID, 0x0403, b"abc", "")
    assert [sign.request_id for sign in server.signs] == [0xFFFF_FFFF, 1, 2]


async def test_a_restart_under_load_loses_nothing(
    tmp_path: Path, start_server: StartServer, connect: Connect, ids: dict[str, bytes]
) -> None:
    """Two servers take turns on one socket while signatures are asked for; each one succeeds."""
    old = await start_server(tmp_path / "sock")
    client = await connect("sock", deadline_s=5)
    stop = False
    made = 0

    async def ask() -> None:
        nonlocal made
        while not stop:
            await client.sign(ids["p256"], 0x0403, TLS13, "")
            made += 1

    asking = [asyncio.ensure_future(ask()) for _ in range(8)]
    for _ in range(3):
        await asyncio.sleep(0.05)
        new = await start_server(tmp_path / "sock")
        await old.drain(1)
        old = new
    await asyncio.sleep(0.05)
    stop = True
    await asyncio.gather(*asking)
    assert made > 50
