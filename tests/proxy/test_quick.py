"""The fast lane and the common way, held to the same bytes, records, counters and states by the same events."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from ipaddress import ip_network
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.node.tasks import Tasks
from core.model import (
    BackendProtocol,
    BackendService,
    Condition,
    FixedReply,
    HeaderAction,
    HeaderChange,
    Rewrite,
    Rule,
    Scheduler,
    Server,
    Share,
    StickySession,
    StickyType,
)
from proxy import lane
from proxy.access_log import Record
from proxy.conn import ClientConnection
from proxy.hub import Hub, Site
from proxy.log_shape import LogField
from proxy.message import ACTED_ON
from proxy.pool import Pool
from proxy.quick import QuickConnection
from proxy.rules import Router
from proxy.service import Service
from proxy.sticky import Seal, Sticky
from proxy.upstream import UpstreamConnection

ADDRESSES = [("10.0.0.1", 80), ("10.0.0.2", 80)]
SERVERS = [Server(*address) for address in ADDRESSES]
SEAL = Seal(bytes(32), lambda: 1e9)
RULES = [
    Rule("r", "web", "api", "", "/api"), Rule("s", "web", "gone", "", "/gone"),
    Rule("f", "web", url="/teapot", fixed_reply=FixedReply(418)),
    Rule("c", "web", "api", url="/cookie", cookies=(Condition("a", ("b",)),)),
    Rule("m", "web", "api", url="/method", methods=("POST",)),
    Rule("t", "web", "api", url="/tenant", headers=(Condition("Referer", ("h*",)), Condition("If-None-Match"))),
    Rule("i", "web", "api", url="/identified", headers=(Condition("X-Request-Id", ("x-1",)),)),
    Rule("v", "web", "api", url="/varied", headers=(Condition("x-tenant", ("t1", "t2*")),)),
    Rule("h", "web", "app", url="/changed", request_headers=(
        HeaderChange("Cookie", HeaderAction.REMOVE), HeaderChange("X-Tenant", HeaderAction.REMOVE),
        HeaderChange("X-A", value="100%b"),
        HeaderChange("Referer", HeaderAction.ADD, "ours"), HeaderChange("If-Modified-Since", HeaderAction.SET, ""),
    ), response_headers=(
        HeaderChange("ETag", HeaderAction.REMOVE), HeaderChange("X-B", HeaderAction.ADD, "100%b"),
        HeaderChange("Set-Cookie", HeaderAction.ADD, "z=1"), HeaderChange("Server", value="us"),
    )),
    Rule("a", "web", "app", url="/added", request_headers=(HeaderChange("Cookie", HeaderAction.ADD, "z=1"),)),
    Rule("w", "web", "app", url="/moved", rewrite=Rewrite(host="other.${host}", path="/to/.${rest}", query="a=%zz")),
    Rule("l", "web", "app", url="/lost", rewrite=Rewrite(path="/..${rest}")),
    Rule("p", "web", url="/split", split=(Share("app", 2), Share("api", 1))),
]  # fmt: skip
DATE = b"Date: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
HSTS = b"Strict-Transport-Security: max-age=1\r\n"


class Transport(asyncio.Transport):
    """Keeps what it is told. `full`: its buffer is; what is above WRITE_HIGH_BYTES makes it so."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.sent = b""
        self.done: list[str] = []

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")


class FixedHub(Hub):
    def date(self) -> bytes:
        return b"now"


class Loop:
    """Connects at once."""

    def __init__(self) -> None:
        self.upstreams: list[UpstreamConnection] = []

    async def create_connection(self, factory: Any, *server: object) -> tuple[Transport, UpstreamConnection]:
        upstream = factory()
        upstream.connection_made(Transport())
        self.upstreams.append(upstream)
        return upstream._transport, upstream


class Rig:
    """One connection of a kind, with everything around it that it acts on."""

    def __init__(
        self, kind: type[ClientConnection], *, hsts: bytes = b"", trusted: bool = False,
        log_fields: tuple[str, ...] = (), **service: Any,
    ) -> None:  # fmt: skip
        self.failures: list[BaseException] = []
        self.records: list[Record] = []
        self.views: list[dict[str, object]] = []
        self.tasks = Tasks(lambda _, error: self.failures.append(error))
        self.hub = hub = FixedHub("l7-1", self.tasks, self.records.append)
        hub._id_prefix, hub.seal = b"id", SEAL
        hub.log_fields = tuple(map(LogField.parse, log_fields))
        self.loop = Loop()
        hub.loop = self.loop  # type: ignore[assignment]
        call_soon = asyncio.get_running_loop().call_soon
        backend = BackendService("app", BackendProtocol.HTTP, "app", **{"scheduler": Scheduler.WRR, **service})
        self.pool: Pool[UpstreamConnection, Any] = Pool()
        app = Service("app", self.pool, call_soon)
        app.configure(backend)
        self.pool.update(SERVERS, backend, hub.now())
        hub.services = {"app": app, "api": Service("api", Pool(), call_soon)}
        if backend.sticky_session is not None:
            hub.stickies["app"] = Sticky(SEAL)
            hub.stickies["app"].update(backend.sticky_session, ADDRESSES)
        router = Router(RULES, "app", stickies=hub.stickies)
        networks = (ip_network("192.0.2.0/24"),) if trusted else ()
        self.site = Site("web", "http", 80, router, 15.0, 60.0, 900.0, networks, hsts=hsts)
        self.transport = Transport()
        self.connection = kind(hub, self.site)
        self.connection.connection_made(self.transport)

    async def on(self, event: str, data: bytes) -> None:
        connection, upstream = self.connection, self.connection._upstream
        if event == "client":
            if "abort" not in self.transport.done and not connection._eof:
                connection.data_received(data)
        elif event in ("eof", "expire", "drain", "retire", "pause_writing", "resume_writing", "cut"):
            getattr(connection, {"eof": "eof_received"}.get(event, event))()
        elif event == "view":
            self.views.append({**connection.view(), "age_s": 0, "busy_s": 0})
        elif event == "settings":
            self.site.hsts, self.site.router = HSTS, Router((), "app", stickies=self.hub.stickies)
        elif upstream is not None:
            if event == "server":
                upstream.data_received(data)
            elif event == "server full":
                upstream.pause_writing()
            elif event == "server not full":
                upstream.resume_writing()
            else:
                assert event == "server lost"
                upstream._transport.close()
                upstream.connection_lost(None)
        for _ in range(6):
            await asyncio.sleep(0)

    def state(self) -> dict[str, object]:
        """Whatever an event may change, but for times, which differ by a little."""
        connection = self.connection
        self.hub.journal.settle()
        return {
            "to client": self.transport.sent,
            "client's transport": self.transport.done,
            "to servers": [each._transport.sent for each in self.loop.upstreams],
            "servers' transports": [each._transport.done for each in self.loop.upstreams],
            "state": connection._state.name,
            "flags": (connection._paused, connection._full, connection._eof, connection._retiring),
            "upstream": connection._upstream and self.loop.upstreams.index(connection._upstream),
            "counters": dict(self.hub.counters),
            "records": [
                asdict(replace(each, duration_ms=0, upstream_ms=0, first_byte_s=None, ended=0)) for each in self.records
            ],
            "timed": [
                (each.duration_ms > 0, each.upstream_ms > 0, each.first_byte_s is not None) for each in self.records
            ],
            "views": self.views,
            "activity": connection.activity,
            "ends": connection._ends_at < float("inf"),
            "active": self.pool.active,
            "idle": [len(each.idle) for each in self.pool._members],
            "told": [(each.requests, each.failures, each.errors, each.ejections) for each in self.pool._members],
            "attentive": self.pool.attentive,
            "next": getattr(self.pool._picker, "_next", None),
            "id": self.hub._id_number,
            "failures": self.failures,
        }

    async def end(self) -> None:
        self.connection.connection_lost(None)
        await self.tasks.close()


async def held_to_the_same(events: list[tuple[str, bytes]], **options: Any) -> Rig:
    rigs = [Rig(ClientConnection, **options), Rig(QuickConnection, **options)]
    apart_s = 0.0  # between the same event on the one and on the other
    for number, event in enumerate(events):
        begun = monotonic()
        for rig in rigs:
            await rig.on(*event)
        apart_s = max(apart_s, monotonic() - begun)
        common, quick = (rig.state() for rig in rigs)
        assert quick == common, (number, event)
        due, quick_due = (rig.connection.deadline for rig in rigs)
        assert quick_due == pytest.approx(due, rel=0, abs=apart_s), (number, event)
    for rig in rigs:
        await rig.end()
    assert rigs[1].state() == rigs[0].state()
    assert not rigs[0].failures
    return rigs[1]


def request(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> bytes:
    return line + b"\r\nHost: a\r\n" + fields + b"\r\n" + body


def answer(fields: bytes = DATE, body: bytes = b"ok", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)


STAYS = SEAL.issue(SEAL.identity(ADDRESSES[1]))
REFERRED = b"Referer: http://a/\r\nIf-None-Match: x\r\n"
COOKIE = b"Accept: x\r\nCookie: a=b; c\r\nX: y\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
REQUESTS = {
    "get": request(),
    "cookie": request(COOKIE),
    "cookie in lower case": request(b"cookie: a\r\nCookie: b\r\n"),
    "cookies, the first empty": request(b"Cookie: \r\nCookie: b\r\n"),
    "cookie with spaces": request(b"Cookie:  a \r\n"),
    "cookie not ASCII": request(b"Cookie: \xe9\r\n"),
    "cookie that Connection names": request(b"Connection: cookie\r\nCookie: a\r\n"),
    "cookie, bare LF": request(b"Cookie: a\nX: y\r\n"),
    "cookie, NUL": request(b"Cookie: a\0\r\n"),
    "browser": request(
        b"User-Agent: x 100%b\r\nReferer: http://a/%s\r\nAccept: */*\r\nIf-None-Match: \"1\"\r\nCookie: a=%b%%\r\n"
    ),
    "browser, other order": request(b"Cookie: a\r\nIf-Modified-Since: x\r\nAuthorization: y\r\nReferer: z\r\n"),
    "client in lower case": (
        b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer x\r\ntraceparent: 00-1\r\ncookie: b\r\n\r\n"
    ),
    "mixed case": request(b"referer: a\r\nReferer: b\r\nREFERER: c\r\nReferer: d\r\n"),
    "referer at the end, empty": request(b"Cookie: a\r\nReferer: \r\n"),
    "referer without a blank": request(b"Referer:a\r\nCookie:b\r\n"),
    "referer that Connection names": request(b"Connection: Referer\r\nReferer: a\r\nCookie: b\r\n"),
    "referer, tab": request(b"Referer: a\tb\r\nCookie: \ta\r\n"),
    "host behind": b"GET / HTTP/1.1\r\nCookie: a\r\nHost: a\r\nReferer: b\r\n\r\n",
    "no cookie": request(b"X-Ookie: a\r\nX: ookie: b\r\n"),
    "head": request(line=b"HEAD /x?y=%zz HTTP/1.1"),
    "path": request(line=b"GET /a/%7e/./b?c HTTP/1.1"),
    "path out of the root": request(line=b"GET /../x HTTP/1.1"),
    "quotes in the path": request(line=b'GET /"a" HTTP/1.1'),
    "backslash in the query": request(line=b'GET /?"\\ HTTP/1.1'),
    "rule": request(line=b"GET /api/x HTTP/1.1"),
    "fixed reply": request(line=b"GET /teapot HTTP/1.1"),
    "rule by a cookie": request(COOKIE, b"GET /cookie HTTP/1.1"),
    "rule by another cookie": request(b"Cookie: a=c\r\n", b"GET /cookie HTTP/1.1"),
    "rule to what is gone": request(line=b"GET /gone HTTP/1.1"),
    "rule by its method": request(line=b"POST /method HTTP/1.1"),
    "rule by another method": request(line=b"GET /method HTTP/1.1"),
    "rule by what is cut out": request(REFERRED, b"GET /tenant HTTP/1.1"),
    "rule by what is cut out and empty": request(b"Referer: \r\nIf-None-Match: x\r\n", b"GET /tenant HTTP/1.1"),
    "rule by the second of a name": request(b"Referer: a\r\n" + REFERRED, b"GET /tenant HTTP/1.1"),
    "rule by its id": request(b"Cookie: a\r\nX-Request-Id: x-1\r\nReferer: b\r\n", b"GET /identified HTTP/1.1"),
    "rule by what varies": request(b"X-Tenant: t1\r\n" + COOKIE, b"GET /varied HTTP/1.1"),
    "rule by something else that varies": request(COOKIE + b"X-Tenant: t3\r\n", b"GET /varied HTTP/1.1"),
    "rule by what varies, twice": request(b"X-Tenant: t3\r\nx-tenant: t2\r\n", b"GET /varied HTTP/1.1"),
    "rule by what varies in lower case": b"GET /varied HTTP/1.1\r\nhost: a\r\nx-tenant: t22\r\n\r\n",
    "what varies is empty": request(b"X-Tenant: \r\nCookie: \r\n"),
    "what varies is changed": request(b"X-Tenant: t1\r\nCookie: a\r\n", b"GET /changed HTTP/1.1"),
    "another host": request(b"Cookie: a\r\n").replace(b": a", b": b.example:8080", 1),
    "a host by its address": request().replace(b": a", b": [::1]:80"),
    "a host that is none": request().replace(b": a", b": a/b"),
    "an empty host": request().replace(b": a", b": "),
    "a host with blanks": request().replace(b": a", b":  a "),
    "a host in another case": b"GET / HTTP/1.1\r\nCookie: b\r\nHOST: a\r\n\r\n",
    "hosts in two cases": b"GET / HTTP/1.1\r\nhost: b\r\nCookie: b\r\nHost: a\r\n\r\n",
    "changed": request(COOKIE + REFERRED, b"GET /changed HTTP/1.1"),
    "changed, with more of a name": request(b"Cookie: a\r\ncookie: b\r\n" + REFERRED * 2, b"GET /changed HTTP/1.1"),
    "changed, in lower case": (
        b"GET /changed HTTP/1.1\r\nhost: a\r\nreferer: x\r\ncookie: b\r\nx-a: c\r\nx-request-id: i\r\n\r\n"
    ),
    "changed, where nothing is": request(line=b"HEAD /changed HTTP/1.1"),
    "changed, with a body": request(b"Content-Length: 5\r\n" + COOKIE, b"POST /changed HTTP/1.1", b"hello"),
    "changed, which says the probe": request(b"X: ~the~lines~that~a~rule~adds~\r\n", b"GET /changed HTTP/1.1"),
    "added to": request(COOKIE, b"GET /added HTTP/1.1"),
    "moved": request(COOKIE, b"GET /moved/%7e/./b?c HTTP/1.1"),
    "moved to nowhere": request(COOKIE, b"GET /lost HTTP/1.1"),
    "split": request(COOKIE, b"GET /split HTTP/1.1"),
    "percent in the path": request(line=b"GET /a%20b/%e9%2F?%zz HTTP/1.1"),
    "percent in the path, malformed": request(line=b"GET /a%2 HTTP/1.1"),
    "keyed": request(b"Cookie: a=1\r\n"),
    "keyed otherwise": request(b"Cookie: a=2\r\n"),
    "keyed in a third way": request(b"Cookie: a=3\r\n"),
    "staying": request(b"Accept: x\r\nCookie: a=b; SERVERID=" + STAYS + b"; c=d\r\nX: y\r\n"),
    "staying, nothing else": request(b"Cookie: SERVERID=" + STAYS + b"\r\n"),
    "staying, changed": request(b"Cookie: a=b; SERVERID=" + STAYS + b"\r\n", b"GET /changed HTTP/1.1"),
    "staying, added to": request(b"Cookie: SERVERID=" + STAYS + b"\r\n", b"GET /added HTTP/1.1"),
    "staying, forged": request(b"Cookie: SERVERID=" + STAYS + b"x\r\n"),
    "staying by the server": request(b"Cookie: SID=" + SEAL.identity(ADDRESSES[1]) + b"~abc; x\r\n"),
    "absolute": request(line=b"GET http://b/x HTTP/1.1"),
    "options": request(line=b"OPTIONS * HTTP/1.1"),
    "post": request(b"Content-Length: 5\r\n", b"POST / HTTP/1.1", b"hello"),
    "put nothing": request(b"Content-Length: 0\r\n", b"PUT / HTTP/1.1"),
    "chunks": request(b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.1", b"2\r\nab\r\n0\r\n\r\n"),
    "two lengths": request(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"POST / HTTP/1.1", b"hello"),
    "expects": request(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"PUT / HTTP/1.1", b"hi"),
    "1.0": request(line=b"GET / HTTP/1.0"),
    "closing": request(b"Connection: close\r\n"),
    "closing, with a cookie": request(b"Cookie: a\r\nConnection: close\r\n"),
    "kept alive": request(b"Connection: keep-alive\r\nKeep-Alive: 5\r\nTE: trailers\r\n"),
    "identified": request(b"X-Request-Id: my-id\r\n"),
    "identified, with more": request(b"Cookie: a\r\nX-Request-Id: x-1\r\nReferer: b\r\n"),
    "identified first": request(b"X-Request-Id: x-2\r\nCookie: a\r\n"),
    "identified by what is no id": request(b"X-Request-Id: a b\r\nCookie: a\r\n"),
    "identified by nothing": request(b"X-Request-Id: \r\nCookie: a\r\n"),
    "identified twice": request(b"X-Request-Id: a\r\nX-Request-Id: b\r\nCookie: a\r\n"),
    "identified twice, in two cases": request(b"x-request-id: a\r\nX-Request-Id: b\r\nCookie: a\r\n"),
    "identified in lower case": b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: i\r\ncookie: b\r\n\r\n",
    "identified in another case": request(b"X-Request-ID: my-id\r\nCookie: a\r\n"),
    "identified, which Connection names": request(b"Connection: X-Request-Id\r\nX-Request-Id: i\r\nCookie: a\r\n"),
    "forwarded": request(b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: h\r\n"),
    "underscored": request(b"X_Y: z\r\n"),
    "claimed": request(b"X-Real-IP: 1.1.1.1\r\n"),
    "certificate": request(b"Client-Cert: x\r\nX-SSL-Client-Verify: SUCCESS\r\n"),
    "via": request(b"Via: 1.1 other\r\n"),
    "loop": request(b"Via: 1.1 l7-1\r\n"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": request(b"Host: b\r\n"),
    "dated": request(DATE + b"Strict-Transport-Security: x\r\n"),
    "two": request() * 2,
    "websocket": request(b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "long": request(b"X: " + b"x" * 40_000 + b"\r\n"),
    "long line": request(line=b"GET /%b HTTP/1.1" % (b"x" * 17_000)),
    "many fields": request(COOKIE + b"".join(b"X%d: y\r\n" % number for number in range(124))),
    "too many fields": request(COOKIE + b"".join(b"X%d: y\r\n" % number for number in range(125))),
    "empty line": b"\r\n" + request(),
    "trace": request(line=b"TRACE / HTTP/1.1"),
}  # fmt: skip
ANSWERS = {
    "ok": answer(),
    "another": answer(DATE + b"Server: x\r\nETag: \"y\"\r\n", b"another"),
    "tagged": answer(
        DATE + b'ETag: "100%b"\r\nServer: %s\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nLast-Modified: z\r\n'
    ),
    "tagged before": answer(b"Expires: 0\r\nETag: a\r\n" + DATE + b"Location: /x%y\r\n", status=b"301 Moved"),
    "tagged, not dated": answer(b"ETag: a\r\n"),
    "tagged at the end": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: a\r\n\r\nok",
    "tagged in lower case": b"HTTP/1.1 200 OK\r\netag: a\r\ncontent-length: 2\r\nset-cookie: x\r\n\r\nok",
    "tag that Connection names": answer(b"Connection: ETag, keep-alive\r\nETag: a\r\nSet-Cookie: b\r\n"),
    "tag with a tab": answer(b"ETag: a\tb\r\n"),
    "tag not ASCII": answer(b"ETag: \xe9\r\n"),
    "tag with NUL": answer(b"ETag: \0\r\n"),
    "tag with a bare LF": answer(b"ETag: a\nX: b\r\n"),
    "a tag that is a probe": answer(b"ETag: 987654321\r\n"),
    "not dated": answer(b""),
    "oddly dated": answer(b"date: d\r\n"),
    "dated with ength: in it": answer(b"Date: ength: 1234567890123456789012\r\n"),
    "dated by the probe": answer(b"Date: ~the~date~of~a~common~shape~~\r\n"),
    "says the probes": answer(b"X: 987654321\r\nY: ~the~date~of~a~common~shape~~\r\n"),
    "twice dated": answer(DATE * 2),
    "lower case": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: Fri, 20 Nov 2026 12:00:01 GMT\r\n\r\nok",
    "length first": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + DATE + b"Server: x\r\n\r\nok",
    "length of probes": b"HTTP/1.1 200 OK\r\nContent-Length: 987654321\r\n\r\n",
    "length 00": b"HTTP/1.1 200 OK\r\nContent-Length: 00\r\n\r\n",
    "length +0": b"HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n",
    "length 02": b"HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\nok",
    "lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "lengths differ": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 987654321\r\n\r\nok",
    "length elsewhere": b"HTTP/1.1 200 OK\r\nX: ength: 2\r\nContent-Length: 2\r\n\r\nok",
    "empty": answer(body=b""),
    "not found": answer(b"Via: 1.1 b\r\nVia: 1.0 c\r\n", status=b"404 Not Found"),
    "unavailable": answer(status=b"503 Service Unavailable"),
    "no reason": answer(status=b"200"),
    "secure": answer(b"Strict-Transport-Security: theirs\r\n"),
    "hops": answer(b"Connection: keep-alive, X\r\nX: y\r\nKeep-Alive: 5\r\n"),
    "closing": answer(b"Connection: close\r\n"),
    "1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "1.0 kept alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "204": b"HTTP/1.1 204 No Content\r\n" + DATE + b"\r\n",
    "204 with a length": b"HTTP/1.1 204 No Content\r\n" + DATE + b"Content-Length: 0\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\n" + DATE + b"ETag: x\r\n\r\n",
    "304 with a length": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    "to head": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(),
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "chunked": CHUNKED,
    "chunked, in two": CHUNKED.replace(b"0\r\n\r\n", b"003\r\nabc\r\n0\r\n\r\n"),
    "chunked, nothing": CHUNKED.replace(b"2\r\nok\r\n", b""),
    "chunked, tagged": CHUNKED.replace(DATE, b"ETag: x\r\nSet-Cookie: SID=1\r\n"),
    "chunked, extended": CHUNKED.replace(b"2\r\n", b"2;a=b\r\n"),
    "chunked, with a trailer": CHUNKED.replace(b"0\r\n", b"0\r\nX-T: y\r\n"),
    "chunked, too short": CHUNKED.replace(b"ok", b"o"),
    "chunked, with surplus": CHUNKED + b"x",
    "chunked in lower case": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\netag: a\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked and with a length": CHUNKED.replace(DATE, b"Content-Length: 2\r\n"),
    "chunked for 1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a cookie that stays": answer(b"Set-Cookie: SID=abc; Path=/\r\n" + DATE + b"Set-Cookie: b=%b\r\n"),
    "says the changes": answer(b"X: ~the~lines~that~a~rule~adds~\r\n"),
    "endless": b"HTTP/1.1 200 OK\r\n" + DATE + b"\r\nok",
    "surplus": answer() + b"x",
    "two": answer() * 2,
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "bare LF after the date": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + DATE.rstrip() + b"\n\r\n\r\n",
    "NUL": answer(b"X: \0\r\n"),
    "large head": answer(b"X: " + b"x" * 65_500 + b"\r\n"),
    "no status line": b"hello\r\n\r\n",
}  # fmt: skip
GET, OK = ("client", REQUESTS["get"]), ("server", ANSWERS["ok"])


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {}, "hsts": {"hsts": HSTS}, "trusted": {"trusted": True}, "first byte": {"first_byte_timeout_s": 7},
    "total": {"total_timeout_s": 20}, "limited": {"server_max_connections": 1, "server_max_queue": 1},
    "by a cookie": {"hash_key": "cookie:a", "scheduler": Scheduler.CH},
    "sticky": {"sticky_session": StickySession()},
    "sticky by the server": {"sticky_session": StickySession(StickyType.SERVER, "SID")},
    "logged": {"log_fields": (
        "request:referer", "request:if-none-match", "request:x-request-id", "request:x", "request:host", "cookie:a",
        "response:etag", "response:date", "response:content-length", "response:server", "response:expires", "rule",
        "service",
    )},
}  # fmt: skip
EACH = ("plain", "trusted", "sticky", "logged")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *[(name, option) for name in REQUESTS for option in EACH],
        *[(name, option) for name in ("cookie", "head", "post", "two", "changed", "staying by the server")
          for option in OPTIONS if option not in EACH],
        *[(name, "by a cookie") for name in REQUESTS if name.startswith("keyed")],
    ],
)  # fmt: skip
async def test_requests(name: str, option: str) -> None:
    """Each twice, the second time on a connection that is there, and once more with its shape known."""
    await held_to_the_same([GET, OK, *[("client", REQUESTS[name]), OK] * 3], **OPTIONS[option])


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        *[(each, "plain") for each in ("get", "head", "post", "changed", "kept alive")],
        ("get", "hsts"), ("get", "logged"), ("changed", "sticky by the server"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers(name: str, request_: str, options: str) -> None:
    asked, told = ("client", REQUESTS[request_]), ("server", ANSWERS[name])
    await held_to_the_same([GET, OK, GET, OK, asked, told, asked, told, GET, OK], **OPTIONS[options])


WEBSOCKET = request(
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nahead"


@pytest.mark.parametrize("end", ["eof", "expire", "drain", "server lost", "cut"])
async def test_a_tunnel(end: str) -> None:
    both = [("client", b"there"), ("server", b"and back")]
    events = [
        *[GET, OK] * 2, ("client", WEBSOCKET), ("server", SWITCHED), *both, ("view", b""), ("pause_writing", b""),
        *both, ("resume_writing", b""), *both, ("server full", b""), *both, ("server not full", b""),
        *both, ("drain", b""), *both, (end, b""), *both,
    ]  # fmt: skip
    rig = await held_to_the_same(events, **OPTIONS["first byte"])
    assert rig.transport.sent.count(b"and back") >= 5
    assert [record.status for record in rig.records] == [200, 200, 101]


@pytest.mark.parametrize("event", ["client", "eof", "expire", "drain", "retire", "pause_writing", "server lost",
                                   "server full", "settings", "view"])  # fmt: skip
@pytest.mark.parametrize("name", ["get", "post"])
async def test_what_happens_before_the_answer(event: str, name: str) -> None:
    asked = ("client", REQUESTS[name])
    after = [("resume_writing", b"")] if event == "pause_writing" else [("server not full", b"")]
    data = REQUESTS["cookie"] if event == "client" else b""
    await held_to_the_same([GET, OK, GET, OK, asked, (event, data), OK, *after, OK, GET, OK])


@pytest.mark.parametrize("option", ["plain", "total", "by a cookie", "sticky", "sticky by the server", "logged"])
async def test_the_lane_is_taken(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing above says anything."""
    quick = Rig(QuickConnection, **OPTIONS[option])
    known = [("client", REQUESTS[name]) for name in ("get", "get", "staying", "staying by the server", "cookie")]
    for event in known:  # one connection to each server
        await quick.on(*event)
        await quick.on(*OK)
    monkeypatch.setattr("proxy.served.Exchange", None)
    monkeypatch.setattr("proxy.quick.Exchange", None)
    asked = (
        "get", "cookie", "browser", "browser, other order", "client in lower case", "mixed case", "head", "post",
        "kept alive", "forwarded", "dated", "identified", "identified, with more", "identified in lower case",
        "rule by another cookie", "rule by another method", "changed", "changed, with more of a name",
        "changed, in lower case", "changed, with a body", "added to", "moved", "split", "percent in the path",
        "staying", "staying, nothing else", "staying, changed", "staying, added to", "staying, forged",
        "staying by the server", "rule by something else that varies", "what varies is empty",
        "what varies is changed", "another host", "a host by its address",
    )  # fmt: skip
    told = (
        "ok", "lower case", "not dated", "length first", "204", "304", "304 with a length", "hops", "secure", "tagged",
        "tagged before", "tagged, not dated", "tagged at the end", "tagged in lower case", "chunked",
        "chunked, in two", "chunked, nothing", "chunked, tagged", "chunked, extended", "a cookie that stays",
    )  # fmt: skip
    for name in asked:
        await quick.on("client", REQUESTS[name])
        await quick.on("server", ANSWERS["to head" if name == "head" else "another"])
    for name in told:
        await quick.on(*GET)
        await quick.on("server", ANSWERS[name])
    await quick.on("client", REQUESTS["closing, with a cookie"])
    await quick.on(*OK)
    assert quick.transport.done == ["close"]
    await quick.end()
    assert quick.pool.active == {}
    quick.hub.journal.settle()
    statuses = [204, 304, 304, 200, 200, 200, 301] + [200] * 10
    assert [each.status for each in quick.records] == [200] * (len(known) + len(asked) + 4) + statuses


async def test_a_thousand_visits_are_counted_and_logged_in_turns() -> None:
    quick = Rig(QuickConnection)
    for _ in range(1000):
        await quick.on(*GET)
        await quick.on(*OK)
    assert 500 < len(quick.records) < 1000
    assert quick.hub.counters["requests"] == quick.hub.counters["status_2xx"] == 1000
    assert len(quick.records) == 1000
    assert quick.hub.counters["bytes_out"] == len(quick.transport.sent)
    await quick.end()


async def test_a_new_connection_settles_nothing() -> None:
    """Visits that are settled one by one cost ten times as much."""
    quick = Rig(QuickConnection)
    for event in (GET, OK, GET, OK, GET, OK):
        await quick.on(*event)
    waiting = len(quick.hub.journal.visits)
    assert waiting > 0
    other = QuickConnection(quick.hub, quick.site)
    other.connection_made(Transport())
    assert len(quick.hub.journal.visits) == waiting
    assert quick.hub.counters["connections"] == 2
    assert quick.hub.journal.visits == []
    other.connection_lost(None)
    await quick.end()


def test_what_is_cut_out_is_what_passes() -> None:
    """A field that somebody acts on may be moved or dropped, and the values behind it would take each other's place."""
    varied = lane.Requests((b"x-tenant", b"referer", b"connection", b"x-forwarded-for", b"x_y", b"x-request-id", b"b"))
    assert varied._names[-3:-1] == (b"\r\nX-Tenant: ", b"\r\nB: ")
    cut_out = (*varied._names[1:-1], *lane._TOLD)
    names = {start[2:-2].lower() for start in cut_out}
    assert len(names) == len(cut_out)
    assert not names & ACTED_ON


def test_what_one_listener_cuts_out_the_other_does_not() -> None:
    data = request(b"X-Tenant: \r\nCookie: a\r\n")
    for _ in range(2):
        for names in ((b"x-tenant",), ()):
            found = lane.reader(names).read(data)
            assert found is not None
            assert found.shape.lines % found.shape.pick(found.cut) == b"X-Tenant: \r\nCookie: a\r\n"


def test_names_of_listeners_are_not_taken_together_for_others() -> None:
    data = request(b"X-1: \r\nCookie: a\r\n")
    for names in ((b"x-1", b"2"), (b"x-12",)):
        found = lane.reader(names).read(data)
        assert found is not None
        assert found.shape.lines % found.shape.pick(found.cut) == b"X-1: \r\nCookie: a\r\n"


async def test_a_head_without_its_end_is_no_request() -> None:
    """Whatever length it says: counted from an end that is not there, it might be that of all that is here."""
    for length in range(30, 80):
        begun = request(b"Content-Length: %d\r\nX-A: y" % length, b"POST / HTTP/1.1").removesuffix(b"\r\n")
        assert lane.reader(()).read(begun) is None
        if length == len(begun) - 3:
            break
    else:
        raise AssertionError("no length fits")
    rest = b"es\r\n\r\n" + bytes(length)
    await held_to_the_same([GET, OK, ("client", begun), ("client", rest), OK, GET, OK])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(data) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


PLACES = st.one_of(st.just([]), st.just([]), st.lists(st.integers(0, 400), max_size=3))
EXTRAS = st.sampled_from([
    *[""] * 30, "eof", "expire", "drain", "retire", "pause_writing", "resume_writing", "server full",
    "server not full", "server lost", "settings", "view",
])  # fmt: skip
TURN = st.tuples(st.sampled_from(sorted(REQUESTS)), PLACES, EXTRAS, st.sampled_from(sorted(ANSWERS)), PLACES, EXTRAS)


@given(st.lists(TURN, min_size=1, max_size=5), st.sampled_from(sorted(OPTIONS)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_turns_in_any_pieces(turns: list[Any], option: str) -> None:
    events = [GET, OK, GET, OK]
    for asked, places, extra, told, other_places, other_extra in turns:
        events += [("client", piece) for piece in cut(REQUESTS[asked], places)]
        events += [(extra, b"")] if extra else []
        events += [("server", piece) for piece in cut(ANSWERS[told], other_places)]
        events += [(other_extra, b"")] if other_extra else []
    asyncio.run(_run(events, OPTIONS[option]))


async def _run(events: list[tuple[str, bytes]], options: dict[str, Any]) -> None:
    await held_to_the_same(events, **options)


def mutated(message: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, put in changes:
        start = at % (len(message) + 1)
        message = message[:start] + put + message[start + gone :]
    return message


PUT = st.sampled_from([
    b"", b"\r\n", b"\n", b"\r", b" ", b":", b"\0", b"\xe9", b"0", b"Cookie: ", b"\r\nCookie: x", b"\r\nDate: x",
    b"\r\nContent-Length: 2", b"ength: ", b"ate: ", b"\r\n\r\n", b"HTTP/1.1",
])  # fmt: skip
CHANGES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), PUT), min_size=1, max_size=3)


@given(st.sampled_from(sorted(REQUESTS)), CHANGES, st.sampled_from(sorted(ANSWERS)), CHANGES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_broken_messages(asked: str, changes: list[Any], told: str, other_changes: list[Any]) -> None:
    asking, telling = mutated(REQUESTS[asked], changes), mutated(ANSWERS[told], other_changes)
    events = [GET, OK, GET, OK, ("client", asking), OK, GET, ("server", telling), GET, OK]
    asyncio.run(_run(events, {}))
