"""gRPC: what a call is told by tables, then grpcio's client and servers with the proxy between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from core.model import BackendProtocol, CaCertificate, Certificate, Ejection, Model, Protocol, Rule
from proxy import grpc as calls
from proxy.errors import Code
from proxy.h2_message import read_request
from proxy.head import read_request as read_http1
from proxy.log_shape import LogField
from proxy.message import RequestHead
from proxy.tls import TlsServer
from tests.proxy.h2_support import h2
from tests.proxy.support import Proxy, free_port, model, proxy, with_options, with_service
from tests.proxy.test_upstream_tls import Site
from tests.proxy.tls_support import LocalKeys, new_key
from tests.waiting import until

CALL = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/shop.Cart/Unary"), (b":authority", b"a"),
    (b"te", b"trailers"),
]  # fmt: skip


def asked(*fields: tuple[bytes, bytes]) -> RequestHead:
    return read_request([*CALL, *fields], 0, ended=False, new_key=bytes)


@pytest.mark.parametrize(
    ("kind", "is_call"),
    [
        (b"application/grpc", True), (b"application/grpc+proto", True), (b"Application/GRPC;v=1", True),
        (b"application/grpc-web", False), (b"application/json", False), (b"", False),
    ],
)  # fmt: skip
def test_what_is_a_call(kind: bytes, is_call: bool) -> None:
    assert calls.is_call(asked((b"content-type", kind))) is is_call


def test_http_1_has_no_calls() -> None:
    head = read_http1(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\r\n")
    assert head is not None
    assert not calls.is_call(head)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"2H", 7200), (b"3M", 180), (b"10S", 10), (b"1500m", 1.5), (b"250000u", 0.25), (b"99999999n", 0.099999999),
        (b"100000000S", 0), (b"10", 0), (b"S", 0), (b"-1S", 0), (b"1s", 0),
    ],
)  # fmt: skip
def test_how_long_a_call_may_take(said: bytes, seconds: float) -> None:
    assert calls.timeout_s(asked((b"grpc-timeout", said))) == pytest.approx(seconds)
    assert calls.timeout_s(asked((b"grpc-timeout", said), (b"grpc-timeout", b"1S"))) == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.NO_RULE, 12), (Code.CONNECT, 14), (Code.CONNECT_TIMEOUT, 14), (Code.UPSTREAM_TLS, 14),
        (Code.NO_SERVER, 14), (Code.UPSTREAM_CLOSED, 14), (Code.DRAINED, 14), (Code.UPSTREAM_TIMEOUT, 4),
        (Code.TOTAL_TIMEOUT, 4), (Code.QUEUE_FULL, 8), (Code.QUEUE_TIMEOUT, 8), (Code.OVERLOADED, 8), (Code.RATE, 8),
        (Code.BODY_LARGE, 8), (Code.REQUESTS_FULL, 8), (Code.UNAUTHENTICATED, 16), (Code.ACCESS, 7),
        (Code.PATH, 13), (Code.LOOP, 2),
    ],
)  # fmt: skip
def test_the_status_of_an_error(code: Code, status: int) -> None:
    assert calls.status_of(code, code.status) == status


def test_every_error_has_a_status() -> None:
    assert {calls.status_of(code, code.status) for code in Code} <= set(range(1, 17))


def test_the_names_are_those_of_the_library() -> None:
    assert dict(enumerate(calls.NAMES)) == {each.value[0]: each.name for each in grpc.StatusCode}


def test_counters_are_bounded() -> None:
    assert {calls.counted(status) for status in (None, 17, 99)} == {"grpc_calls_none"}
    assert len({calls.counted(status) for status in range(100)}) == 18


@pytest.mark.parametrize(
    ("trailers", "status"),
    [
        (b"grpc-status: 0\r\n", 0), (b"x: 1\r\nGrpc-Status:14\r\ny: 2\r\n", 14), (b"x-grpc-status: 1\r\n", None),
        (b"", None), (b"grpc-status: x\r\n", None),
    ],
)  # fmt: skip
def test_what_trailers_say(trailers: bytes, status: int | None) -> None:
    assert calls.said_in(trailers) == status


def test_messages_are_of_ascii() -> None:
    assert calls.lines(14, "100 % §\n") == b"grpc-status: 14\r\ngrpc-message: 100 %25 %C2%A7%0A\r\n"


# -- with grpcio

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass
class Shop:
    """A server with a method of each kind, and what it was asked."""

    name: str
    port: int = 0
    metadata: list[dict[str, str]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    streaming: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def unary(self, message: bytes, context: Context) -> bytes:
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        if message == b"fail":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "too late: §")
        if message == b"broken":
            await context.abort(grpc.StatusCode.INTERNAL, "no database")
        if message == b"wait":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        await context.send_initial_metadata((("x-first", self.name),))
        context.set_trailing_metadata((("x-last", "bye"),))
        return self.name.encode() + b":" + message

    async def server_stream(self, message: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number
            if number == 0:
                self.streaming.set()
                await self.go_on.wait()

    async def client_stream(self, messages: AsyncIterator[bytes], context: Context) -> bytes:
        return b"+".join([message async for message in messages])

    async def bidi(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for message in messages:
            yield self.name.encode() + b":" + message

    @asynccontextmanager
    async def running(self, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Shop]:
        handler = grpc.method_handlers_generic_handler(
            "shop.Cart",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Server": grpc.unary_stream_rpc_method_handler(self.server_stream),
                "Client": grpc.stream_unary_rpc_method_handler(self.client_stream),
                "Bidi": grpc.stream_stream_rpc_method_handler(self.bidi),
            },
        )
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((handler,))
        where = f"127.0.0.1:{self.port}"
        secure = credentials is not None
        self.port = server.add_secure_port(where, credentials) if secure else server.add_insecure_port(where)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)


def before(*shops: Shop, rules: tuple[Rule, ...] = (), **changes: object) -> Model:
    made = model(free_port(), [shop.port for shop in shops], rules=rules)
    return with_options(with_service(made, protocol=BackendProtocol.H2C, **changes), http2_prior_knowledge=True)


@asynccontextmanager
async def channel(node: Proxy) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.port}", [("grpc.use_local_subchannel_pool", 1)]) as made:
        yield made


def by_tls(shop: Shop, site: Site, server: Certificate) -> Model:
    """An https listener, which shows this certificate, before a service whose servers are verified."""
    made = with_service(before(shop), protocol=BackendProtocol.H2, tls_ca_certificate="ca")
    made = with_options(made, protocol=Protocol.HTTPS, certificates=(server.name,), http2_prior_knowledge=False)
    authority = CaCertificate("ca", bundle=site.bundle)
    return replace(made, certificates={server.name: server}, ca_certificates={"ca": authority})


async def failed(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()  # type: ignore[misc]
    return caught.value.code(), caught.value.details() or ""


async def test_calls_of_each_kind() -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b" * 100_000

    async with Shop("one").running() as shop, proxy(before(shop)) as node, channel(node) as client:
        shop.go_on.set()
        call = client.unary_unary("/shop.Cart/Unary")(b"hi", metadata=(("x-mine", "1"),))
        assert await call == b"one:hi"
        assert dict(await call.initial_metadata())["x-first"] == "one"
        assert dict(await call.trailing_metadata())["x-last"] == "bye"
        assert shop.metadata[0]["x-mine"] == "1"
        assert shop.metadata[0]["x-forwarded-for"] == "127.0.0.1"
        assert [each async for each in client.unary_stream("/shop.Cart/Server")(b"4")] == [b"0", b"1", b"2", b"3"]
        assert await client.stream_unary("/shop.Cart/Client")(messages()) == b"a+" + b"b" * 100_000
        both = client.stream_stream("/shop.Cart/Bidi")()
        for message in (b"a", b"b"):  # the next only when the last is answered
            await both.write(message)
            assert await both.read() == b"one:" + message
        await both.done_writing()
        assert await both.code() is grpc.StatusCode.OK
        record = await node.record(4)
        assert (record.status, record.error_code, record.version) == (200, "", "HTTP/2.0")


async def test_calls_by_tls_on_both_sides(tmp_path: Path) -> None:
    """grpcio takes no connection without h2 by ALPN, as client and as server, and verifies as clients do."""
    site, key = Site.make(tmp_path / "pki"), new_key("P-256")
    pem = (site.directory / "leaf.pem").read_bytes()
    shown = Certificate("web", chain=site.authority.issue_leaf(key.public_key(), ("web.test",)).decode())
    trusted = grpc.ssl_channel_credentials(site.bundle.encode())
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "web.test")]
    tls = TlsServer(LocalKeys([key]))
    async with (
        Shop("one").running(grpc.ssl_server_credentials([(pem, pem)])) as shop,
        proxy(by_tls(shop, site, shown), tls) as node,
        grpc.aio.secure_channel(f"127.0.0.1:{node.port}", trusted, options) as client,
    ):
        assert await client.unary_unary("/shop.Cart/Unary")(b"hi", timeout=20) == b"one:hi"
        assert shop.metadata[0]["x-forwarded-proto"] == "https"
        both = client.stream_stream("/shop.Cart/Bidi")(timeout=20)
        for message in (b"a", b"b" * 100_000):  # the next only when the last is answered
            await both.write(message)
            assert await both.read() == b"one:" + message
        await both.done_writing()
        assert await both.code() is grpc.StatusCode.OK
        record = await node.record(2)
        assert (record.status, record.version, record.sni, record.tls_version) == (
            200, "HTTP/2.0", "web.test", "TLSv1.3",
        )  # fmt: skip
    await tls.close()


async def test_what_a_server_says_of_a_failure_passes() -> None:
    async with Shop("one").running() as shop, proxy(before(shop)) as node, channel(node) as client:
        said = await failed(lambda: client.unary_unary("/shop.Cart/Unary")(b"fail"))
        assert said == (grpc.StatusCode.FAILED_PRECONDITION, "too late: §")
        code, _ = await failed(lambda: client.unary_unary("/shop.Cart/None")(b""))
        assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_what_calls_were_told_is_counted_and_logged() -> None:
    """By trailers, by a head alone, by us, by nobody; and nothing of other requests."""
    rule = Rule("cart", "web", backend_service="app", url="/shop.Cart/")
    async with Shop("one").running() as shop:
        made = with_options(before(shop, rules=(rule,)), backend_service="")
        async with proxy(made) as node, channel(node) as client, h2(node) as other:
            node.hub.log_fields = (LogField.parse("grpc_status"),)
            unary = client.unary_unary("/shop.Cart/Unary")
            assert await unary(b"hi") == b"one:hi"
            await failed(lambda: unary(b"broken"))
            await failed(lambda: client.unary_unary("/other.Service/Unary")(b""))
            call = unary(b"wait")
            await until(lambda: len(shop.metadata) == 3)
            call.cancel()
            await node.record(4)
            assert (await other.get()).status == 404
            await node.record(5)
            told = [record.fields for record in node.records]
            assert told == [("0",), ("13",), ("12",), ("",), ("",)]
            counters = {name: n for name, n in node.hub.counters.items() if name.startswith(calls.COUNTED)}
            assert counters == {
                "grpc_calls_OK": 1, "grpc_calls_INTERNAL": 1, "grpc_calls_UNIMPLEMENTED": 1, "grpc_calls_none": 1,
            }  # fmt: skip


async def test_a_cancelled_call_is_cancelled_at_its_server() -> None:
    async with Shop("one").running() as shop, proxy(before(shop)) as node, channel(node) as client:
        call = client.unary_unary("/shop.Cart/Unary")(b"wait")
        await until(lambda: len(shop.metadata) == 1)
        call.cancel()
        await asyncio.wait_for(shop.cancelled.wait(), 20)


async def test_a_deadline_is_passed_on_and_ends_the_call() -> None:
    async with Shop("one").running() as shop, proxy(before(shop)) as node, channel(node) as client:
        code, _ = await failed(lambda: client.unary_unary("/shop.Cart/Unary")(b"wait", timeout=0.3))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(shop.cancelled.wait(), 20)


async def test_our_deadline_where_the_client_forgets_its_own() -> None:
    """As if its clock stood: the field is said, and nobody but us looks at it."""
    async with Shop("one").running() as shop, proxy(before(shop, total_timeout_s=0.3)) as node, channel(node) as client:
        code, why = await failed(lambda: client.unary_unary("/shop.Cart/Unary")(b"wait"))
        assert (code, why) == (grpc.StatusCode.DEADLINE_EXCEEDED, Code.TOTAL_TIMEOUT.said())
        shop.go_on.clear()
        stream = client.unary_stream("/shop.Cart/Server")(b"2")
        assert await stream.read() == b"0"
        assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        record = await node.record(2)
        assert (record.status, record.error_code) == (200, "total_timeout")


async def test_the_deadline_that_a_client_says_is_ours_too() -> None:
    """Of a client that does not look at its own."""
    fields = [*CALL, (b"content-type", b"application/grpc"), (b"grpc-timeout", b"200m")]
    async with Shop("one").running() as shop, proxy(before(shop)) as node, h2(node) as client:
        answer = await client.answer(client.ask(fields, ended=False))
        assert (answer.fields[b":status"], answer.fields[b"grpc-status"], answer.body) == (b"200", b"4", b"")


async def test_a_server_is_judged_by_what_it_says_of_itself() -> None:
    ejection = Ejection(errors=2, max_percent=100)
    async with Shop("one").running() as shop, proxy(before(shop, ejection=ejection)) as node, channel(node) as client:
        for _ in range(3):
            code, _ = await failed(lambda: client.unary_unary("/shop.Cart/Unary")(b"broken"))
        assert (code, len(shop.metadata)) == (grpc.StatusCode.UNAVAILABLE, 2)
        assert (await node.record(3)).error_code == "no_healthy_server"


async def test_our_own_errors() -> None:
    """No rule; no server that can be reached."""
    rule = Rule("cart", "web", backend_service="app", url="/shop.Cart/")
    gone = Shop("gone", free_port())
    made = before(gone, rules=(rule,))
    made = with_options(made, backend_service="")
    async with proxy(made) as node, channel(node) as client:
        code, why = await failed(lambda: client.unary_unary("/other.Service/Unary")(b""))
        assert (code, why) == (grpc.StatusCode.UNIMPLEMENTED, Code.NO_RULE.said())
        code, why = await failed(lambda: client.unary_unary("/shop.Cart/Unary")(b""))
        assert (code, why) == (grpc.StatusCode.UNAVAILABLE, Code.CONNECT.said())


async def test_calls_of_one_connection_are_spread_over_servers() -> None:
    async with Shop("one").running() as one, Shop("two").running() as two, proxy(before(one, two)) as node:
        async with channel(node) as client:
            said = [await client.unary_unary("/shop.Cart/Unary")(b"") for _ in range(6)]
        assert sorted(said) == [b"one:"] * 3 + [b"two:"] * 3


async def test_a_stream_goes_on_while_the_node_drains() -> None:
    async with Shop("one").running() as shop, proxy(before(shop)) as node, channel(node) as client:
        stream = client.unary_stream("/shop.Cart/Server")(b"3")
        assert await stream.read() == b"0"
        draining = asyncio.create_task(node.worker.drain(20, 0))
        await until(lambda: not node.worker.openings.endpoints or draining.done())
        shop.go_on.set()
        assert [await stream.read(), await stream.read()] == [b"1", b"2"]
        assert await stream.code() is grpc.StatusCode.OK
        await asyncio.wait_for(draining, 30)


async def test_a_stream_that_a_server_breaks_off_is_told_so() -> None:
    async with proxy(before(shop := Shop("one", free_port()))) as node, channel(node) as client:
        async with shop.running():
            stream = client.unary_stream("/shop.Cart/Server")(b"3")
            assert await stream.read() == b"0"
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
