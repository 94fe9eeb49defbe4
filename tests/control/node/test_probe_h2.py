"""Checks by HTTP/2 and by gRPC's health protocol: the messages by hand, then servers of h2 and of grpcio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from h2.errors import ErrorCodes

from control.node import probe_h2
from control.node.probe import Target, probe
from control.node.probe_h2 import Answer, verdict
from core.model import CheckType, HealthCheck
from tests.proxy.h2_backend import Call, H2Backend

GRPC = HealthCheck(type=CheckType.GRPC, timeout_s=10)
HTTP = HealthCheck(type=CheckType.HTTP, timeout_s=10)


@pytest.mark.parametrize(
    ("service", "body"),
    [
        ("", b"\0\0\0\0\0"),
        ("a", b"\0\0\0\0\3\n\1a"),
        ("x" * 200, b"\0\0\0\0\xcb\n\xc8\x01" + b"x" * 200),
    ],
)
def test_the_question(service: str, body: bytes) -> None:
    headers, said = probe_h2.check("http", "a:1", service)
    assert said == body
    assert (":path", "/grpc.health.v1.Health/Check") in headers


SAID: dict[str, tuple[bytes, bool, str]] = {
    "serving": (b"\x08\x01", True, "SERVING"),
    "not serving": (b"\x08\x02", False, "NOT_SERVING"),
    "unknown": (b"", False, "UNKNOWN"),
    "service unknown": (b"\x08\x03", False, "SERVICE_UNKNOWN"),
    "of the future": (b"\x08\x09", False, "status 9"),
    "the last one counts": (b"\x08\x02\x08\x01", True, "SERVING"),
    "with other fields": (b"\x12\x02ab\x08\x01\x19" + b"x" * 8 + b"\x25" + b"x" * 4, True, "SERVING"),
    "cut": (b"\x08", False, "the answer is no HealthCheckResponse"),
    "cut in another field": (b"\x12\x09ab", False, "the answer is no HealthCheckResponse"),
    "no protobuf": (b"\x0f", False, "the answer is no HealthCheckResponse"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_said(case: str) -> None:
    message, healthy, why = SAID[case]
    body = b"\0" + len(message).to_bytes(4) + message
    assert verdict(Answer(200, {"grpc-status": "0"}, body)) == (healthy, why)


@pytest.mark.parametrize("body", [b"", b"\1\0\0\0\2\x08\1", b"\0\0\0\0\3\x08\1", b"\0\0\0\0\2\x08\1x"])
def test_what_is_no_message(body: bytes) -> None:
    assert verdict(Answer(200, {"grpc-status": "0"}, body)) == (False, "the answer is no HealthCheckResponse")


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (200, "12", "grpc-status UNIMPLEMENTED: it has no health service"),
        (200, "5", "grpc-status NOT_FOUND: it does not know the service"),
        (200, "14", "grpc-status 14"),
        (200, None, "grpc-status missing"),
        (503, "0", "status 503"),
    ],
)
def test_what_fails(status: int, code: str | None, why: str) -> None:
    fields = {} if code is None else {"grpc-status": code}
    assert verdict(Answer(status, fields, b"\0\0\0\0\2\x08\1")) == (False, why)


async def _http(call: Call) -> None:
    call.head(("x-a", "1"), status=204 if call.path == "/up" else 503, end=True)


async def _reset(call: Call) -> None:
    call.reset(ErrorCodes.REFUSED_STREAM)


async def _long(call: Call) -> None:
    call.head()
    await call.data(b"x" * 10_000, end=True)


ASKED = {
    "up": (_http, HealthCheck(type=CheckType.HTTP, uri="/up", timeout_s=10), True, "status 204"),
    "down": (_http, HTTP, False, "status 503"),
    "reset": (_reset, HTTP, False, "the request was reset with error 7"),
    "too long": (_long, GRPC, False, "the answer is too long"),
}


@pytest.mark.parametrize("case", ASKED)
async def test_a_request_by_http2(case: str) -> None:
    answer, check, healthy, why = ASKED[case]
    async with H2Backend(answer).running() as server:
        assert await probe(Target("k", "127.0.0.1", server.port, check, h2=True)) == (healthy, why)
        assert server.calls[0].fields[b":authority"] == b"127.0.0.1:%d" % server.port


@pytest.mark.parametrize("raw", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\x08\x06\0\0\0\0\0xxxxxxxx"])
async def test_a_server_that_speaks_no_http2(raw: bytes) -> None:
    async with H2Backend(raw=raw).running() as server:
        assert await probe(Target("k", "127.0.0.1", server.port, GRPC)) == (False, "the answer is not HTTP/2")


@asynccontextmanager
async def health_service() -> AsyncIterator[int]:
    """grpcio, where `shop` serves and `stock` does not, and no other service is known; its port."""

    async def check(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if message in (b"", b"\n\x04shop"):
            return b"\x08\x01"
        if message == b"\n\x05stock":
            return b"\x08\x02"
        await context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        raise AssertionError

    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def test_a_server_of_grpc() -> None:
    async with health_service() as port:
        said = [
            await probe(Target("k", "127.0.0.1", port, HealthCheck(type=CheckType.GRPC, timeout_s=10, service=service)))
            for service in ("", "shop", "stock", "cart")
        ]
    why = "grpc-status NOT_FOUND: it does not know the service"
    assert said == [(True, "SERVING"), (True, "SERVING"), (False, "NOT_SERVING"), (False, why)]
