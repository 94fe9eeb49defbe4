"""Whoever asks by HTTP/2 proves who that is as others do: each stream for itself."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import bcrypt

from core.model import Authentication, BackendProtocol, Basic, Cors, ForwardAuth, Jwt, Rule
from proxy.head import read_request
from tests.proxy.h2_backend import Call, H2Backend
from tests.proxy.h2_support import Pair, Raw, h2, with_fields
from tests.proxy.support import Backend, Proxy, Request, with_options, with_service
from tests.proxy.support import proxy as serve
from tests.proxy.test_authentication import last, site
from tests.proxy.tokens import jwk, jwks, private, token

POST = (b":method", b"POST"), (b"content-length", b"5000")


@asynccontextmanager
async def speaking(each: Authentication, *, auth: int = 0, **rule: object) -> AsyncIterator[tuple[Proxy, Backend, Raw]]:
    async with Backend().running() as backend:
        made = with_options(site(backend.port, each, auth=auth, **rule), http2_prior_knowledge=True)
        async with serve(made) as l7, h2(l7) as client:
            yield l7, backend, client


def basic(name: str, password: str) -> Pair:
    return b"authorization", b"Basic " + base64.b64encode(f"{name}:{password}".encode())


async def test_passwords(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"alice:" + bcrypt.hashpw(b"wonder", bcrypt.gensalt(4)))
    each = Authentication("staff", Basic(str(path)), user_field="X-User")
    cors = Cors(("https://app.example",))
    async with speaking(each, cors=cors) as (l7, backend, client):
        origin = (b"origin", b"https://app.example")
        refused = await client.get(origin)
        assert refused.status == 401
        assert refused.fields[b"www-authenticate"].startswith(b"Basic realm=")
        assert refused.fields[b"access-control-allow-origin"] == b"https://app.example"
        asked = (b":method", b"OPTIONS"), origin, (b"access-control-request-method", b"GET")
        assert (await client.get(*asked)).status == 204
        streams = [client.ask(with_fields(*POST, basic("alice", "wonder")), b"x" * 5000) for _ in range(5)]
        streams.append(client.ask(with_fields(*POST, basic("alice", "guess")), b"x" * 5000))
        client.reset(client.ask(with_fields(basic("alice", "other"))))
        assert [(await client.answer(stream)).status for stream in streams] == [200] * 5 + [401]
        head = read_request(backend.heads[0])
        assert head is not None
        assert (head.values(b"x-user"), head.values(b"authorization")) == ([b"alice"], [])
        assert len(backend.heads) == 5
        users = [record.user for record in l7.records if record.status == 200]
        assert users == ["alice"] * 5


async def test_another_services_word() -> None:
    async def door(asked: Request) -> None:
        head = read_request(asked.head)
        assert head is not None
        if head.values(b"cookie") == [b"s=1"]:
            asked.writer.write(b"HTTP/1.1 200 OK\r\nX-User: alice\r\nSet-Cookie: s=2\r\nContent-Length: 0\r\n\r\n")
        else:
            asked.writer.write(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 2\r\n\r\ngo")

    each = Authentication("door", forward=ForwardAuth(timeout_s=20), backend_service="idp", user_field="X-User")
    async with Backend(door).running() as idp, speaking(each, auth=idp.port) as (_, backend, client):
        sent = await client.get(*POST, body=b"x" * 5000)
        assert (sent.status, sent.fields[b"location"], sent.body) == (302, b"/login", b"go")
        assert not backend.heads
        let = await client.get(*POST, (b"cookie", b"s=1"), (b"x-user", b"root"), body=b"x" * 5000)
        assert (let.status, let.fields[b"set-cookie"]) == (200, b"s=2")
        assert last(backend).values(b"x-user") == [b"alice"]
        assert b"X-Forwarded-Method: POST\r\n" in idp.heads[-1]


async def test_a_service_that_speaks_http2() -> None:
    async def door(call: Call) -> None:
        if call.path == "/keys":
            text = jwks(jwk(private("rsa"), "one")).encode()
            call.head(("content-length", str(len(text))))
            await call.data(text, end=True)
        elif call.fields.get(b"cookie") == b"s=1":
            call.head(("x-user", "alice"), ("set-cookie", "s=2"), status=204, end=True)
        else:
            call.head(("location", "/login"), status=302)
            await call.data(b"x" * 60_000 if call.fields[b"x-forwarded-uri"] == b"/" else b"x" * 70_000, end=True)

    forward = Authentication("door", forward=ForwardAuth(timeout_s=20), backend_service="idp", user_field="X-User")
    keys = Authentication("api", jwt=Jwt(jwks_url="http://h/keys"), backend_service="idp", user_field="X-User")
    async with H2Backend(door).running() as idp, Backend().running() as backend:
        base = with_service(site(backend.port, forward, auth=idp.port), "idp", protocol=BackendProtocol.H2C)
        more = Rule("more", "web", "app", url="/api", authentication="api")
        made = replace(base, rules={**base.rules, "more": more}, authentications={"door": forward, "api": keys})
        async with serve(made) as l7:
            client = await l7.connect()
            assert await client.ask("/") == (302, b"x" * 60_000)
            assert (await client.ask("/long"))[0] == 503
            assert (await client.ask("/", b"Cookie: s=1\r\n"))[0] == 200
            good = token(private("rsa"), "RS256", {"sub": "bob", "exp": time.time() + 60}, kid="one")
            assert (await client.ask("/api", b"Authorization: Bearer %b\r\n" % good))[0] == 200
            await client.close()
        heads = [read_request(head) for head in backend.heads]
        assert [head.values(b"x-user") for head in heads if head is not None] == [[b"alice"], [b"bob"]]
        assert len(idp.links) == 1
