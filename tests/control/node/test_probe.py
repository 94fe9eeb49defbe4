import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from control.node import probe as probe_module
from control.node.probe import HealthMonitor, Target, matches, probe
from control.node.tasks import Tasks
from core.model import CheckMethod, CheckType, HealthCheck
from core.proxy_protocol import LOCAL, Header, write

HTTP = HealthCheck(type=CheckType.HTTP, timeout_s=1)
UDP = HealthCheck(type=CheckType.UDP, timeout_s=1)


@asynccontextmanager
async def tcp_server(answer: bytes, seen: list[bytes] | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server that reads one head, answers with these bytes and closes; yields its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(head)
            writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(connected, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class UdpServer(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (reply := self.answer(data)) is not None:
            self.transport.sendto(reply, addr)


@asynccontextmanager
async def udp_server(answer: Callable[[bytes], bytes | None], host: str = "127.0.0.1") -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: UdpServer(answer), (host, 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
        await asyncio.sleep(0)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def ask(port: int, check: HealthCheck) -> tuple[bool, str]:
    return await probe(Target("t", "127.0.0.1", port, check))


@pytest.mark.parametrize(
    ("status", "codes", "expected"),
    [
        (200, "2xx", True),
        (299, "2xx", True),
        (300, "2xx", False),
        (199, "2xx", False),
        (204, "200,202-207,4xx", True),
        (201, "200,202-207,4xx", False),
        (202, "202-207", True),
        (207, "202-207", True),
        (208, "202-207", False),
        (404, "200,4xx", True),
        (200, "200", True),
    ],
)
def test_codes(status: int, codes: str, expected: bool) -> None:
    assert matches(status, codes) is expected


async def test_tcp() -> None:
    async with tcp_server(b"") as port:
        assert await ask(port, HealthCheck()) == (True, "connected")
    assert await ask(free_port(), HealthCheck()) == (False, "Connection refused")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", (True, "status 200")),
        (b"HTTP/1.0 302 Found\r\nLocation: /\r\n\r\n", (True, "status 302")),
        (b"HTTP/1.1 503 No\r\n\r\n", (False, "status 503")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", (True, "status 204")),
        (b"HTTP/1.1 103 Hints\r\n\r\n" * 9, (False, "only interim answers")),
        (b"SSH-2.0-OpenSSH\r\n\r\n", (False, "the answer is not HTTP/1.1")),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", (False, "the answer is not HTTP/1.1")),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n", (False, "the answer is not HTTP/1.1")),
        (b"HTTP/1.1 200 OK\r\n", (False, "the connection was closed before the answer")),
        (b"", (False, "the connection was closed before the answer")),
    ],
)
async def test_http_answers(answer: bytes, expected: tuple[bool, str]) -> None:
    async with tcp_server(answer) as port:
        assert await ask(port, HTTP) == expected


async def test_the_http_request() -> None:
    seen: list[bytes] = []
    check = HealthCheck(type=CheckType.HTTP, timeout_s=1, method=CheckMethod.GET, uri="/up?x=1", domain="a.example")
    async with tcp_server(b"HTTP/1.1 200 OK\r\n\r\n", seen) as port:
        await ask(port, check)
        await ask(port, HTTP)
    assert seen[0].startswith(b"GET /up?x=1 HTTP/1.1\r\nHost: a.example\r\n")
    assert seen[1].startswith(b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)
    assert b"Connection: close\r\n" in seen[0]


async def test_a_server_that_never_answers_is_late() -> None:
    release = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        assert await ask(server.sockets[0].getsockname()[1], HTTP) == (False, "no answer within 1 s")
        release.set()
        await asyncio.sleep(0.01)


async def test_udp_answers() -> None:
    check = HealthCheck(type=CheckType.UDP, timeout_s=1, request="ping", expect="pong")
    async with udp_server(lambda data: b"xpongx" if data == b"ping" else None) as port:
        assert await ask(port, check) == (True, "answered")
    async with udp_server(lambda _: b"other") as port:
        assert await ask(port, check) == (False, "no answer within 1 s")


async def test_udp_silence_is_health_only_where_nothing_is_asked() -> None:
    async with udp_server(lambda _: None) as port:
        silent, asked = await asyncio.gather(
            ask(port, UDP), ask(port, HealthCheck(type=CheckType.UDP, timeout_s=1, request="ping"))
        )
    assert silent == (True, "no port-unreachable")
    assert asked == (False, "no answer within 1 s")


async def test_udp_port_unreachable() -> None:
    assert await ask(free_port(socket.SOCK_DGRAM), UDP) == (False, "Connection refused")


async def test_ipv6() -> None:
    seen: list[bytes] = []
    check = HealthCheck(type=CheckType.UDP, timeout_s=1, request="ping", expect="pong")
    async with tcp_server(b"HTTP/1.1 200 OK\r\n\r\n", seen, "::1") as port:
        assert await probe(Target("t", "::1", port, HTTP)) == (True, "status 200")
        assert await probe(Target("t", "::1", port, HealthCheck())) == (True, "connected")
    assert b"\r\nHost: [::1]:%d\r\n" % port in seen[0]
    async with udp_server(lambda data: b"pong", "::1") as port:
        assert await probe(Target("t", "::1", port, check)) == (True, "answered")
    assert await probe(Target("t", "::1", free_port(socket.SOCK_DGRAM), UDP)) == (False, "Connection refused")


class Scripted:
    """Replaces `probe` by given results, and the clock's waits by turns of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, results: str) -> None:
        self.results = list(results)
        self.done = asyncio.Event()
        self.changes: list[tuple[Hashable, bool, str]] = []
        self.probed: list[Target] = []
        monkeypatch.setattr(probe_module, "probe", self.probe)
        monkeypatch.setattr(probe_module.random, "uniform", lambda low, high: 0.0)
        monkeypatch.setattr(probe_module.time, "monotonic", lambda: 1e9 * (len(self.probed)))

    async def probe(self, target: Target) -> tuple[bool, str]:
        self.probed.append(target)
        if not self.results:
            self.done.set()
            await asyncio.Event().wait()
        result = self.results.pop(0)
        return result == "+", f"result {result}"

    def on_change(self, key: Hashable, healthy: bool, why: str) -> None:
        self.changes.append((key, healthy, why))


@pytest.mark.parametrize(
    ("results", "changes"),
    [("--", []), ("---", [False]), ("--+---", [False]), ("---++", [False, True]), ("---+-++", [False, True])],
)
async def test_changes_follow_streaks(monkeypatch: pytest.MonkeyPatch, results: str, changes: list[bool]) -> None:
    script = Scripted(monkeypatch, results)
    tasks = Tasks()
    monitor = HealthMonitor(script.on_change, tasks)
    monitor.watch([Target("a", "192.0.2.1", 80, HealthCheck(rise=2, fall=3))])
    assert monitor.states() == {"a": (True, "not probed yet")}
    await script.done.wait()
    assert [healthy for _, healthy, _ in script.changes] == changes
    assert monitor.healthy("a") is (changes[-1] if changes else True)
    assert monitor.states()["a"][1] == f"result {results[-1]}"
    await tasks.close()


async def test_a_changed_check_keeps_the_state_and_a_changed_address_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch, "--")
    tasks = Tasks()
    monitor = HealthMonitor(script.on_change, tasks)
    monitor.watch([Target("a", "192.0.2.1", 80, HealthCheck(fall=2))])
    await script.done.wait()
    assert not monitor.healthy("a")
    monitor.watch([Target("a", "192.0.2.1", 80, HealthCheck(fall=3))])
    assert not monitor.healthy("a")
    monitor.watch([Target("a", "192.0.2.2", 80, HealthCheck(fall=3))])
    assert monitor.healthy("a")
    monitor.watch([])
    assert monitor.states() == {}
    assert monitor.healthy("a"), "what is not watched counts as healthy"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(tasks) == 0
    await tasks.close()


async def test_watching_the_same_again_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(monkeypatch, "-")
    tasks = Tasks()
    monitor = HealthMonitor(script.on_change, tasks)
    target = Target("a", "192.0.2.1", 80, HealthCheck())
    monitor.watch([target])
    await script.done.wait()
    monitor.watch([target])
    await asyncio.sleep(0)
    assert len(script.probed) == 2, "the probe under way was not started anew"
    await tasks.close()


async def test_concurrency_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    running = 0
    most = 0
    asked = 0
    done = asyncio.Event()

    async def slow(target: Target) -> tuple[bool, str]:
        nonlocal running, most, asked
        running += 1
        asked += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if asked >= 10:
            done.set()
        return True, ""

    monkeypatch.setattr(probe_module, "probe", slow)
    monkeypatch.setattr(probe_module.random, "uniform", lambda low, high: 0.0)
    tasks = Tasks()
    monitor = HealthMonitor(lambda key, healthy, why: None, tasks, concurrency=3)
    monitor.watch(Target(n, "192.0.2.1", n, HealthCheck()) for n in range(1, 11))
    await done.wait()
    assert most == 3
    await tasks.close()


@pytest.mark.parametrize("type", [CheckType.TCP, CheckType.HTTP])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_check_of_a_server_that_wants_to_be_told(version: int, type: CheckType) -> None:
    """It begins as connections of clients do: by its own ends, or with LOCAL."""
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        wanted = write(Header(1, peer, own) if version == 1 else LOCAL)
        header = await reader.readexactly(len(wanted))
        rest = await reader.readuntil(b"\r\n\r\n") if type is CheckType.HTTP else await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        came.set_result(rest if header == wanted else header)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        target = Target("k", "127.0.0.1", port, HealthCheck(type=type, timeout_s=20), introduces=version)
        assert (await probe(target))[0]
        rest = await asyncio.wait_for(came, 20)
    assert rest[:5] == (b"" if type is CheckType.TCP else b"HEAD ")


async def test_a_check_that_wants_to_tell_and_reaches_nobody() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        target = Target("k", "127.0.0.1", sock.getsockname()[1], HTTP, introduces=2)
        assert await probe(target) == (False, "Connection refused")
