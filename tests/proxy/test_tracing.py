"""Traces: who is chosen, what servers and collectors are told, and that all else passes as it came."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core.model import HeaderChange, Model, Rule
from proxy import tracing
from proxy.access_log import Record
from proxy.actions import Way
from proxy.tracing import Tracer, parent_of
from tests.proxy import processes
from tests.proxy.support import Backend, Proxy, free_port, model, proxy, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
OTHER = f"00-{TRACE}-{SPAN}-00".encode()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], None),
        ([SAMPLED], (SAMPLED, True)),
        ([OTHER], (OTHER, False)),
        ([SAMPLED[:-2] + b"03"], (SAMPLED[:-2] + b"03", True)),
        ([b"01" + SAMPLED[2:] + b"-more"], (b"01" + SAMPLED[2:] + b"-more", True)),
        ([b"01" + SAMPLED[2:]], (b"01" + SAMPLED[2:], True)),
        ([b"01" + SAMPLED[2:] + b"more"], None),
        ([SAMPLED + b"-more"], None),
        ([b"ff" + SAMPLED[2:]], None),
        ([SAMPLED.upper()], None),
        ([SAMPLED.replace(TRACE.encode(), b"0" * 32)], None),
        ([SAMPLED.replace(SPAN.encode(), b"0" * 16)], None),
        ([SAMPLED[:-1]], None),
        ([b" " + SAMPLED], None),
        ([SAMPLED, SAMPLED], None),
        ([b""], None),
    ],
)  # fmt: skip
def test_whose_span_a_request_was_sent_in(values: Sequence[bytes], found: tuple[bytes, bool] | None) -> None:
    assert parent_of(values) == found


@pytest.mark.parametrize(
    ("values", "trusted", "chance", "chosen"),
    [
        ([SAMPLED], True, 0.9, True),
        ([SAMPLED], False, 0.9, False),
        ([SAMPLED], False, 0.05, True),
        ([OTHER], True, 0.9, False),
        ([OTHER], True, 0.05, True),
        ([], True, 0.9, False),
        ([], False, 0.05, True),
        ([b"no parent"], True, 0.9, False),
    ],
)  # fmt: skip
def test_who_is_chosen(values: Sequence[bytes], trusted: bool, chance: float, chosen: bool) -> None:
    made = Tracer("http://192.0.2.1", 0.1, "l7-1", exporter=InMemorySpanExporter(), chance=lambda: chance)
    assert made.chooses(values, trusted) is chosen
    made.close()


def test_what_a_span_tells() -> None:
    record = Record("web", "192.0.2.7", "GET", "shop.test", "/a?token=secret", 200, bytes_in=7, way=Way("r", "s"))
    told = tracing.attributes(record)
    assert told == {
        "http.request.method": "GET", "url.path": "/a", "url.scheme": "http", "server.address": "shop.test",
        "client.address": "192.0.2.7", "http.response.status_code": 200, "http.request.size": 7,
        "paifang.listener": "web", "paifang.rule": "r", "paifang.service": "s",
    }  # fmt: skip
    record.tls_version, record.version = "TLSv1.3", "HTTP/1.1"
    assert tracing.attributes(record).items() >= {
        "url.scheme": "https", "tls.protocol.version": "1.3", "network.protocol.version": "1.1"
    }.items()  # fmt: skip


class Collected:
    """A worker whose spans stay here, in front of one server. `chances`: what chance says, one after the other."""

    def __init__(self, l7: Proxy, backend: Backend, chances: list[float]) -> None:
        self.l7, self.backend, self._exporter = l7, backend, InMemorySpanExporter()
        self.chances = chances
        l7.hub.tracer = self.tracer = Tracer(
            "http://192.0.2.1", 0.5, "l7-1", exporter=self._exporter, chance=lambda: self.chances.pop(0)
        )

    def spans(self) -> list[ReadableSpan]:
        self.tracer._provider.force_flush()
        return list(self._exporter.get_finished_spans())

    def told(self, name: str) -> list[list[str]]:
        """The values of a field in each request that the server got."""
        return [re.findall(rf"(?i)\r\n{name}: (.*?)\r\n", head.decode()) for head in self.backend.heads]


@asynccontextmanager
async def collected(
    *chances: float, change: Callable[[Model], Model] = lambda made: made, trusted: tuple[str, ...] = ()
) -> AsyncIterator[Collected]:
    async with Backend().running() as backend:
        made = change(model(free_port(), [backend.port], trusted=trusted))
        async with proxy(made) as l7:
            found = Collected(l7, backend, [*chances])
            try:
                yield found
                assert found.chances == [], "chance is asked once a request"
            finally:
                l7.hub.tracer = None
                found.tracer.close()


async def test_the_server_is_told_our_span_in_the_callers_trace() -> None:
    async with collected(trusted=("127.0.0.1",)) as it:
        client = await it.l7.connect()
        for _ in range(2):
            assert (await client.ask(fields=b"traceparent: %b\r\ntracestate: a=b\r\n" % SAMPLED))[0] == 200
        await client.close()
        await it.l7.record(2)
        first, second = it.spans()
        for span in (first, second):
            assert span.context is not None
            assert span.parent is not None
            assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
            assert span.name == "GET web"
            assert span.start_time is not None
            assert span.end_time is not None
            assert 0 < span.end_time - span.start_time < 20e9
            assert span.attributes is not None
            assert span.attributes["http.response.status_code"] == 200
        ours = [[f"00-{TRACE}-{span.context.span_id:016x}-01"] for span in (first, second) if span.context]
        assert it.told("traceparent") == ours
        assert it.told("tracestate") == [["a=b"], ["a=b"]]
        assert first.attributes is not None
        assert first.attributes["paifang.request_id"] == it.told("X-Request-Id")[0][0]


async def test_a_trace_begins_here() -> None:
    """What the client sent is no parent; a state without one belongs to nothing."""
    async with collected(0.1) as it:
        client = await it.l7.connect()
        assert (await client.ask(fields=b"traceparent: junk\r\ntracestate: a=b\r\n"))[0] == 200
        await client.close()
        await it.l7.record()
        (span,) = it.spans()
        assert span.parent is None
        assert span.context is not None
        assert it.told("traceparent") == [
            [f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"]
        ]
        assert it.told("tracestate") == [[]]


async def test_who_is_not_chosen_passes_as_it_came() -> None:
    """By the fast lane and by the common way, which a body in parts takes."""
    async with collected(0.9, 0.9, 0.9) as it:
        client = await it.l7.connect()
        for fields in (b"traceparent: %b\r\ntracestate: a=b\r\n" % SAMPLED, b""):
            assert (await client.ask(fields=fields))[0] == 200
        await client.close()
        client = await it.l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\ntracepar")
        await asyncio.sleep(0.05)
        client.writer.write(b"ent: %b\r\n\r\n" % OTHER)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await client.close()
        await it.l7.record(3)
        assert it.spans() == []
        assert it.told("traceparent") == [[SAMPLED.decode()], [], [OTHER.decode()]]
        assert it.told("tracestate") == [["a=b"], [], []]


async def test_chance_is_asked_anew_by_each_request_of_a_connection() -> None:
    async with collected(0.9, 0.1, 0.9, 0.1, 0.9) as it:
        client = await it.l7.connect()
        for _ in range(5):
            assert (await client.ask())[0] == 200
        await client.close()
        await it.l7.record(5)
        assert [len(values) for values in it.told("traceparent")] == [0, 1, 0, 1, 0]
        assert len(it.spans()) == 2


async def test_what_chance_said_of_one_request_is_not_said_of_the_next() -> None:
    """The first is looked at by the fast lane, which has no connection for it yet; the second comes in parts."""
    async with collected(0.9, 0.1) as it:
        client = await it.l7.connect()
        assert (await client.ask())[0] == 200
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r")
        await asyncio.sleep(0.05)
        client.writer.write(b"\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await client.close()
        await it.l7.record(2)
        assert [len(values) for values in it.told("traceparent")] == [0, 1]


async def test_a_rule_that_says_it_is_followed() -> None:
    rule = Rule("r", "web", "app", url="/", request_headers=(HeaderChange("traceparent", value="theirs"),))

    def change(made: Model) -> Model:
        return model(made.listeners["web"].port, [made.server_groups["app"].servers[0].port], rules=[rule])

    async with collected(0.1, change=change) as it:
        assert (await it.l7.get())[0] == 200
        await it.l7.record()
        assert it.told("traceparent") == [["theirs"]]
        assert len(it.spans()) == 1


async def test_what_fails_is_marked() -> None:
    async with collected(0.1) as it:
        it.backend.answer = lambda request: _gone(request.writer)
        assert (await it.l7.get())[0] == 502
        await it.l7.record()
        (span,) = it.spans()
        assert not span.status.is_ok
        assert span.attributes is not None
        assert span.attributes["error.type"] == span.status.description == "upstream_closed"


async def _gone(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_node_sends_its_spans(identity: Path) -> None:
    """By OTLP over HTTP, those that wait at its end too."""
    got: list[ExportTraceServiceRequest] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        got.append(ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body))
        return web.Response(content_type="application/x-protobuf")

    collector = web.Application()
    collector.router.add_post("/v1/traces", take)
    runner = web.AppRunner(collector)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    try:
        async with Backend().running() as backend:
            made = model(free_port(), [backend.port])
            processes.keep(identity, made)
            at = made.listeners["web"].port
            words = ("--traces", f"http://127.0.0.1:{port}/v1/traces", "--trace-share", "1", "--drain-time", "1")
            async with processes.running(identity, at, *words) as node:
                reader, writer = await asyncio.open_connection("127.0.0.1", at)
                writer.write(b"GET /a?b HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()
                node.terminate()
                assert await node.wait() == 0
            await until(lambda: bool(got))
    finally:
        await runner.cleanup()
    (resource,) = got[0].resource_spans
    told = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert told.items() >= {"service.name": "paifang-l7", "service.instance.id": "l7-1"}.items()
    (span,) = resource.scope_spans[0].spans
    found = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    assert found.items() >= {"server.address": "shop.test", "url.path": "/a", "http.response.status_code": 200}.items()
    assert b"traceparent: 00-%b-%b-0" % (span.trace_id.hex().encode(), span.span_id.hex().encode()) in backend.heads[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--traces", "localhost:4318"], "give the collector's URL, as http://10.0.0.9:4318/v1/traces"),
        (["--traces", "ftp://a/"], "give the collector's URL"),
        (["--trace-share", "2"], "--trace-share 2: give a share from 0 to 1"),
        (["--trace-share", "nan"], "give a share from 0 to 1"),
    ],
)
async def test_mistakes_are_told(words: list[str], why: str, identity: Path) -> None:
    node = await asyncio.create_subprocess_exec(*processes.command(identity, *words), stderr=asyncio.subprocess.PIPE)
    _, said = await node.communicate()
    assert node.returncode == 2
    assert why in said.decode()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=r"pip install 'paifang\[otel\]'"):
        tracing.check("http://127.0.0.1:4318/v1/traces", 0.1)
    tracing.check("", 0.1)
