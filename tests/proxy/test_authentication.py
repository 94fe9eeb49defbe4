"""Whoever asks proves who that is: through a worker, a server behind it, and services that are asked."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import bcrypt
import pytest

from core.model import (
    Authentication,
    Basic,
    Cors,
    ForwardAuth,
    HeaderAction,
    HeaderChange,
    Jwt,
    JwtAlgorithm,
    Model,
    Rule,
    StickySession,
)
from proxy.errors import ApplyError
from proxy.head import read_request
from proxy.message import RequestHead
from tests.proxy.support import Backend, Proxy, Request, free_port, model, proxy, with_group, with_service
from tests.proxy.tokens import jwk, jwks, parts, private, token
from tests.waiting import until

RSA, EC = private("rsa"), private("p256")
SECRET = b"0123456789abcdef0123456789abcdef"


def hashed(password: bytes) -> bytes:
    return bcrypt.hashpw(password, bcrypt.gensalt(4))


def basic(name: str, password: str) -> bytes:
    return b"Authorization: Basic %b\r\n" % base64.b64encode(f"{name}:{password}".encode())


def bearer(given: bytes) -> bytes:
    return b"Authorization: Bearer %b\r\n" % given


def claims(**more: object) -> dict[str, object]:
    return {"sub": "alice", "exp": time.time() + 600, **more}


def site(backend: int, each: Authentication, *, auth: int = 0, trusted: tuple[str, ...] = (), **rule: object) -> Model:
    """A proxy all of whose requests need to prove something; `auth` is the port of whoever is asked."""
    base = model(free_port(), [backend], trusted=trusted)
    if auth:
        base = with_service(with_group(base, "idp", [auth]), "idp", server_group="idp")
    made = Rule("r", "web", "app", authentication=each.name, **rule)  # type: ignore[arg-type]
    return replace(base, rules={"r": made}, authentications={each.name: each})


async def ask(
    l7: Proxy, fields: bytes = b"", path: str = "/", method: str = "GET", body: bytes = b""
) -> tuple[int, str]:
    """Status and head of the answer."""
    client = await l7.connect()
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    client.writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n".encode() + length + fields + b"\r\n" + body)
    status, head, _ = await client.whole_answer()
    await client.close()
    return status, head.decode()


def last(backend: Backend) -> RequestHead:
    head = read_request(backend.heads[-1])
    assert head is not None
    return head


# -- passwords


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_bytes(b"alice:" + hashed(b"wonder") + b"\nbob:" + hashed(b"builder") + b"\n")
    return path


def by_password(users: Path, **options: object) -> Authentication:
    terms = Basic(
        str(users), realm="The shop", **{key: options.pop(key) for key in ("max_failures_per_min",) if key in options}
    )  # type: ignore[arg-type]
    return Authentication("staff", terms, user_field="X-User", **options)  # type: ignore[arg-type]


async def test_a_password_admits_and_goes_no_further(users: Path) -> None:
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users))) as l7:
        status, head = await ask(l7)
        assert status == 401
        assert '\r\nWWW-Authenticate: Basic realm="The shop", charset="UTF-8"\r\n' in head
        assert (await l7.record()).error_code == "unauthenticated"
        assert (await ask(l7, basic("alice", "wrong")))[0] == (await ask(l7, basic("carol", "wonder")))[0] == 401
        assert not backend.heads
        for _ in range(3):
            assert (await ask(l7, basic("alice", "wonder") + b"X-User: root\r\nx-user: root\r\n"))[0] == 200
            assert last(backend).values(b"x-user") == [b"alice"]
            assert not last(backend).values(b"authorization")
        assert (await l7.record(6)).user == "alice"
        assert l7.hub.counters["passwords_checked"] == 3  # the last two were remembered


async def test_a_server_may_be_given_the_password(users: Path) -> None:
    each = by_password(users, pass_credentials=True)
    async with Backend().running() as backend, proxy(site(backend.port, each)) as l7:
        assert (await ask(l7, basic("bob", "builder")))[0] == 200
        assert last(backend).values(b"authorization") == [basic("bob", "builder").split(b": ")[1].strip()]


async def test_what_cannot_be_read_in_one_way_is_refused(users: Path) -> None:
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users))) as l7:
        for fields in (
            basic("alice", "wonder") * 2,
            basic("alice", "wonder") + bearer(b"x"),
            b"Authorization: Basic ?\r\n",
        ):
            assert (await ask(l7, fields))[0] == 400
        assert not backend.heads
        assert (await l7.record(3)).error_code == "bad_authorization"


async def test_whoever_guesses_has_to_wait_even_when_right(users: Path) -> None:
    async with (
        Backend().running() as backend,
        proxy(site(backend.port, by_password(users, max_failures_per_min=2))) as l7,
    ):
        assert (await ask(l7, basic("bob", "builder")))[0] == 200  # was no failure
        for _ in range(2):
            assert (await ask(l7, basic("alice", "guess")))[0] == 401
        status, head = await ask(l7, basic("alice", "wonder"))
        assert status == 429
        assert "\r\nRetry-After: " in head
        assert (await ask(l7, basic("bob", "builder")))[0] == 200  # who was right before costs nothing


async def test_whom_we_trust_brings_many_clients(users: Path) -> None:
    each = by_password(users, max_failures_per_min=1)
    async with Backend().running() as backend, proxy(site(backend.port, each, trusted=("127.0.0.0/8",))) as l7:
        for _ in range(3):
            assert (await ask(l7, basic("alice", "guess")))[0] == 401


async def test_users_come_and_go_with_the_file(users: Path) -> None:
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users))) as l7:
        assert (await ask(l7, basic("alice", "wonder")))[0] == 200
        users.write_bytes(b"alice:" + hashed(b"other") + b"\n")
        assert await l7.worker.recheck() == []
        assert (await ask(l7, basic("alice", "wonder")))[0] == 401  # though it was remembered
        assert (await ask(l7, basic("alice", "other")))[0] == 200
        users.write_bytes(b"alice:plain\n")
        (problem,) = await l7.worker.recheck()
        assert problem.startswith(f"authentication 'staff': {users}: line 1: the hash of 'alice' is not of bcrypt")
        assert "plain" not in problem
        assert (await ask(l7, basic("alice", "other")))[0] == 200
        users.unlink()
        (problem,) = await l7.worker.recheck()
        assert problem.endswith("No such file or directory; what it had before holds")


async def test_a_file_that_was_never_there_admits_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, why in ((tmp_path / "none", "No such file"), (pipe, "is no file"), (tmp_path, "Is a directory")):
        async with Backend().running() as backend, proxy(site(backend.port, by_password(path))) as l7:
            (problem,) = await l7.worker.recheck()
            assert why in problem
            assert problem.endswith("nobody is admitted by it")
            assert (await ask(l7, basic("alice", "wonder")))[0] == 503
            assert (await l7.record()).error_code == "authentication_unavailable"


async def test_a_body_waits_until_its_sender_is_known(users: Path) -> None:
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users))) as l7:
        assert (await ask(l7, basic("alice", "wonder"), method="POST", body=b"x" * 1000))[0] == 200
        assert (await ask(l7, basic("bob", "guess"), method="POST", body=b"x" * 1000))[0] == 401
        assert len(backend.heads) == 1


async def test_a_client_may_leave_while_it_is_found_out_who_it_is(users: Path) -> None:
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users))) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + basic("alice", "wonder") + b"\r\n")
        await client.close()
        assert (await l7.record()).status in (200, 499)
        assert (await ask(l7, basic("alice", "wonder")))[0] == 200


async def test_what_rules_change_does_not_undo_it(users: Path) -> None:
    """A rule that takes out the same field, a sticky cookie, and a trusted peer's X-Forwarded-User."""
    each = replace(by_password(users), user_field="X-Forwarded-User")
    changes = (HeaderChange("Authorization", HeaderAction.REMOVE), HeaderChange("X-More", value="1"))
    made = site(backend := free_port(), each, trusted=("127.0.0.0/8",), request_headers=changes)
    made = with_service(made, "app", sticky_session=StickySession())
    async with Backend(port=backend).running() as server, proxy(made) as l7:
        forged = b"X-Forwarded-User: root\r\nX_Forwarded_User: root\r\nCookie: a=b; SERVERID=x\r\n"
        assert (await ask(l7, basic("alice", "wonder") + forged))[0] == 200
        head = last(server)
        assert head.values(b"x-forwarded-user") == [b"alice"]
        assert not head.values(b"authorization")
        assert head.values(b"x-more") == [b"1"]
        assert b"root" not in server.heads[-1]


async def test_preflights_need_no_password_and_refusals_can_be_read(users: Path) -> None:
    cors = Cors(("https://app.example",), credentials=True)
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users), cors=cors)) as l7:
        origin = b"Origin: https://app.example\r\n"
        assert (await ask(l7, origin + b"Access-Control-Request-Method: GET\r\n", method="OPTIONS"))[0] == 204
        status, head = await ask(l7, origin)
        assert status == 401
        assert "\r\nAccess-Control-Allow-Origin: https://app.example\r\n" in head


# -- tokens


def by_token(user_field: str = "X-User", **terms: object) -> Authentication:
    made = Jwt(**{"jwks": jwks(jwk(RSA, "one")), **terms})  # type: ignore[arg-type]
    return Authentication("api", jwt=made, user_field=user_field)


async def test_a_token_admits() -> None:
    each = by_token(claim_fields=(("groups", "X-Groups"),), issuer="https://login.example", realm="api")
    async with Backend().running() as backend, proxy(site(backend.port, each)) as l7:
        good = token(RSA, "RS256", claims(iss="https://login.example", groups=["a", "b\r\nX-Admin: 1"]), kid="one")
        status, head = await ask(l7)
        assert status == 401
        assert '\r\nWWW-Authenticate: Bearer realm="api"\r\n' in head
        for _ in range(2):
            assert (await ask(l7, bearer(good) + b"X-Groups: root\r\n"))[0] == 200
            assert last(backend).values(b"x-user") == [b"alice"]
            assert last(backend).values(b"x-groups") == [b"a, b%0D%0AX-Admin: 1"]
            assert not last(backend).values(b"x-admin")
            assert not last(backend).values(b"authorization")
        assert (await l7.record(3)).user == "alice"
        assert l7.hub.counters["tokens_verified"] == 1


FOR_EVER = {"sub": "a", "exp": 1 << 40}


@pytest.mark.parametrize(
    ("fields", "status", "challenge"),
    [
        pytest.param(bearer(b"x.y.z"), 401, 'token", error_description="it is no signed token"', id="rubbish"),
        pytest.param(bearer(parts({"alg": "none"}, {"sub": "a"})), 401, 'error="invalid_token"', id="none"),
        pytest.param(bearer(b"x" * 9000), 401, 'error="invalid_token"', id="huge"),
        pytest.param(bearer(token(RSA, "RS256", {"sub": "a", "exp": 1})), 401, "it has expired", id="expired"),
        pytest.param(bearer(token(EC, "ES256", FOR_EVER)), 401, "no key that is known", id="other key"),
        pytest.param(bearer(token(RSA, "RS256", FOR_EVER)), 403, 'error="insufficient_scope"', id="scope"),
        pytest.param(bearer(b"a.b.c") * 2, 400, 'error="invalid_request"', id="twice"),
        pytest.param(basic("a", "b"), 401, 'Bearer realm="restricted"\r\n', id="a password"),
        pytest.param(b"Authorization: bEaReR  x\r\n", 401, "it is no signed token", id="in another case"),
    ],
)  # fmt: skip
async def test_what_is_no_good_token(fields: bytes, status: int, challenge: str) -> None:
    each = by_token(required_claims=(("scope", "read"),))
    async with Backend().running() as backend, proxy(site(backend.port, each)) as l7:
        got, head = await ask(l7, fields)
        assert (got, challenge in head) == (status, True)
        assert not backend.heads


async def test_where_a_token_may_be() -> None:
    good = token(RSA, "RS256", claims())
    async with Backend().running() as backend:
        async with proxy(site(backend.port, by_token(token="cookie:session"))) as l7:
            assert (await ask(l7, b"Cookie: a=b; session=%b\r\n" % good))[0] == 200
            assert (await ask(l7, b"Cookie: session=%b; session=x\r\n" % good))[0] == 400
            assert (await ask(l7, bearer(good)))[0] == 401
        async with proxy(site(backend.port, by_token(token="header:X-Token"))) as l7:
            assert (await ask(l7, b"X-Token: %b\r\nAuthorization: Basic other\r\n" % good))[0] == 200
            assert not last(backend).values(b"x-token")
            assert last(backend).values(b"authorization") == [b"Basic other"]


async def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    each = by_token(jwks="", secret_file=str(path), algorithms=(JwtAlgorithm.HS256,))
    async with Backend().running() as backend, proxy(site(backend.port, each)) as l7:
        good = bearer(token(SECRET, "HS256", claims()))
        assert (await ask(l7, good))[0] == 200
        path.write_bytes(SECRET[::-1])
        assert await l7.worker.recheck() == []
        assert (await ask(l7, good))[0] == 401  # though it was remembered
        path.write_bytes(b"short")
        (problem,) = await l7.worker.recheck()
        assert "it has 5 bytes; 32 are needed" in problem


async def test_keys_that_cannot_be_used_refuse_the_configuration() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        bad = by_token(jwks=jwks(jwk(EC)), algorithms=(JwtAlgorithm.RS256,))
        with pytest.raises(ApplyError, match="authentication 'api': jwks: it has no key for RS256 among 1"):
            await l7.worker.apply(site(backend.port, bad))


@dataclass
class Provider:
    """Gives a key set, `status` and all."""

    text: str
    status: int = 200
    asked: list[bytes] = field(default_factory=list)

    async def __call__(self, asked: Request) -> None:
        self.asked.append(asked.head)
        body = self.text.encode()
        asked.writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (self.status, len(body), body))

    @asynccontextmanager
    async def running(self, **terms: object) -> AsyncIterator[tuple[Proxy, Backend]]:
        each = by_token(jwks="", jwks_url="http://login.example:81/keys?v=1", **terms)
        async with (
            Backend(self).running() as idp,
            Backend().running() as backend,
            proxy(site(backend.port, replace(each, backend_service="idp"), auth=idp.port)) as l7,
        ):
            yield l7, backend


async def test_keys_are_fetched_and_follow_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider(jwks(jwk(RSA, "one")))
    async with provider.running() as (l7, backend):
        assert (await ask(l7, bearer(token(RSA, "RS256", claims(), kid="one"))))[0] == 200  # waits for the first fetch
        (asked,) = provider.asked
        head = read_request(asked)
        assert head is not None
        assert (head.method, head.target, head.host) == (b"GET", b"/keys?v=1", b"login.example:81")
        assert not head.values(b"x-forwarded-for")
        provider.text = jwks(jwk(EC, "two"), jwk(RSA, "one"))
        new = bearer(token(EC, "ES256", claims(), kid="two"))
        assert (await ask(l7, new))[0] == 401  # known a moment ago to be nobody's: not asked again so soon
        assert len(provider.asked) == 1
        monkeypatch.setattr("proxy.auth_jwt.AGAIN_S", 0.0)
        keys = l7.hub.means.authenticators["api"].keys  # type: ignore[attr-defined]
        keys._may_again_at = 0.0
        assert {(await ask(l7, new))[0] for _ in range(3)} == {200}
        assert len(provider.asked) == 2
        unknown = bearer(token(private("p256", 1), "ES256", claims(), kid="three"))
        answers = await asyncio.gather(*(ask(l7, unknown) for _ in range(5)))
        assert {status for status, _ in answers} == {401}
        assert backend.heads


async def test_keys_stay_through_failures() -> None:
    provider = Provider(jwks(jwk(RSA, "one")))
    good = bearer(token(RSA, "RS256", claims(), kid="one"))
    async with provider.running() as (l7, _):
        assert (await ask(l7, good))[0] == 200
        keys = l7.hub.means.authenticators["api"].keys  # type: ignore[attr-defined]
        for provider.text, provider.status, why in (
            ("{}", 200, "it is no key set"),
            ("x" * 70_000, 200, "the answer is too long"),
            ("no", 500, "status 500"),
        ):
            keys._next_at = 0.0
            await l7.worker.recheck()
            await until(lambda: not keys._fetching or keys._fetching.done())
            (problem,) = l7.worker._authenticators.problems()
            assert problem.startswith(f"authentication 'api': no keys from http://login.example:81/keys?v=1: {why}")
            assert problem.endswith("the keys of before hold")
            assert (await ask(l7, good))[0] == 200
        assert keys._pause_s == 8
        provider.text, provider.status, keys._next_at = jwks(jwk(RSA, "one")), 200, 0.0
        await l7.worker.recheck()
        await until(lambda: not l7.worker._authenticators.problems())


async def test_without_any_keys_nobody_is_admitted() -> None:
    async with Provider("", status=404).running() as (l7, backend):
        assert (await ask(l7, bearer(token(RSA, "RS256", claims()))))[0] == 503
        assert not backend.heads


# -- another service's word


@dataclass
class Doorkeeper:
    """Says `answer` to whoever is asked about."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    asked: list[RequestHead] = field(default_factory=list)

    async def __call__(self, asked: Request) -> None:
        head = read_request(asked.head)
        assert head is not None
        self.asked.append(head)
        asked.writer.write(self.answer)

    @asynccontextmanager
    async def running(self, terms: ForwardAuth, **options: object) -> AsyncIterator[tuple[Proxy, Backend]]:
        each = Authentication("door", forward=terms, backend_service="idp", **options)  # type: ignore[arg-type]
        async with (
            Backend(self).running() as idp,
            Backend().running() as backend,
            proxy(site(backend.port, each, auth=idp.port)) as l7,
        ):
            yield l7, backend


LETS = (
    b"HTTP/1.1 204 No\r\nX-User: alice\r\nX-Group: a\r\nX-Group: b\r\nX-Other: c\r\n"
    b"Set-Cookie: s=1\r\nset-cookie: t=2\r\n\r\n"
)


async def test_a_service_lets_pass_and_says_who_it_is() -> None:
    door = Doorkeeper(LETS)
    terms = ForwardAuth(
        "/check?x", copied_fields=("X-Group", "X-None"), request_fields=("Cookie", "Authorization", "X-Key")
    )
    async with door.running(terms, user_field="X-User") as (l7, backend):
        forged = (
            b"X-User: root\r\nX-Group: root\r\nX-None: root\r\nX-Key: k\r\nX-Hidden: h\r\nCookie: a=b\r\n"
            + bearer(b"t")
        )
        status, head = await ask(l7, forged, "/pay?to=me", "POST", b"x" * 100)
        assert status == 200
        assert "\r\nSet-Cookie: s=1\r\nset-cookie: t=2\r\n" in head
        (asked,) = door.asked
        assert (asked.method, asked.target, asked.host) == (b"GET", b"/check?x", b"a")
        assert not asked.values(b"content-length")
        names = [
            b"x-forwarded-method",
            b"x-forwarded-uri",
            b"x-forwarded-host",
            b"x-forwarded-proto",
            b"x-forwarded-for",
        ]
        assert [asked.values(name) for name in names] == [[b"POST"], [b"/pay?to=me"], [b"a"], [b"http"], [b"127.0.0.1"]]
        shown = [b"x-key", b"cookie", b"authorization", b"x-hidden", b"x-user"]
        assert [asked.values(name) for name in shown] == [[b"k"], [b"a=b"], [b"Bearer t"], [], []]
        server = last(backend)
        told = [b"x-user", b"x-group", b"x-none", b"x-other", b"authorization", b"cookie", b"x-forwarded-uri"]
        assert [server.values(name) for name in told] == [[b"alice"], [b"a", b"b"], [], [], [], [b"a=b"], []]
        assert (await l7.record()).user == "alice"


async def test_its_refusal_goes_to_the_client() -> None:
    door = Doorkeeper(
        b"HTTP/1.1 302 Found\r\nLocation: https://login.example/?back\r\nSet-Cookie: csrf=1\r\nConnection: X-Gone\r\n"
        b"X-Gone: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlogin\r\n0\r\n\r\n"
    )
    async with door.running(ForwardAuth()) as (l7, backend):
        client = await l7.connect()
        for _ in range(2):
            client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            status, head, body = await client.whole_answer()
            assert (status, body) == (302, b"login")
            for line in (b"Location: https://login.example/?back", b"Set-Cookie: csrf=1", b"Content-Length: 5"):
                assert b"\r\n" + line + b"\r\n" in head
            assert b"X-Gone" not in head
            assert b"chunked" not in head
        await client.close()
        assert not backend.heads
        assert (await l7.record(2)).status == 302


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="silence"),
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, id="too much"),
        pytest.param(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", id="another protocol"),
    ],
)
async def test_without_an_answer_nobody_passes(answer: bytes, fail_open: bool) -> None:
    door = Doorkeeper(answer)
    terms = ForwardAuth(timeout_s=0.3 if not answer else 20, fail_open=fail_open, copied_fields=("X-User",))
    async with door.running(terms) as (l7, backend):
        status, _ = await ask(l7, b"X-User: root\r\n")
        assert status == (200 if fail_open else 503)
        assert len(backend.heads) == fail_open
        assert l7.hub.counters["forward_auth_failures"] == 1
        if fail_open:
            assert not last(backend).values(b"x-user")


async def test_a_service_that_is_not_there_is_no_word() -> None:
    each = Authentication("door", forward=ForwardAuth(timeout_s=20), backend_service="idp")
    async with Backend().running() as backend, proxy(site(backend.port, each, auth=free_port())) as l7:
        assert (await ask(l7))[0] == 503
        assert (await l7.record()).error_code == "authentication_unavailable"


async def test_whatever_goes_wrong_admits_nobody(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Backend().running() as backend, proxy(site(backend.port, by_password(users))) as l7:

        def broken(*_: object) -> bool:
            raise RuntimeError("no more threads")

        monkeypatch.setattr("proxy.passwords.Users.admits", broken)
        logged: list[object] = []
        monkeypatch.setattr(l7.hub.tasks, "_on_failure", lambda *each: logged.append(each))
        assert (await ask(l7, basic("alice", "wonder")))[0] == 503
        assert (await l7.record()).error_code == "authentication_unavailable"
        assert not backend.heads
        assert len(logged) == 1


async def test_errands_share_connections() -> None:
    door = Doorkeeper()
    async with door.running(ForwardAuth()) as (l7, backend):
        for _ in range(5):
            assert (await ask(l7))[0] == 200
        assert len(backend.heads) == len(door.asked) == 5
        pool = l7.hub.services["idp"].pool
        assert sum(pool.active.values()) == 0
        assert l7.hub.counters["requests"] == 5  # ours are nobody's requests


async def test_what_stays_the_same_keeps_what_it_knows(users: Path) -> None:
    async with Backend().running() as backend, proxy(made := site(backend.port, by_password(users))) as l7:
        before = l7.hub.means.authenticators["staff"]
        more = replace(made, authentications={**made.authentications, "api": by_token()})
        assert await l7.worker.apply(more) == []
        assert l7.hub.means.authenticators["staff"] is before
        other = replace(made, authentications={"staff": by_password(users, pass_credentials=True)})
        await l7.worker.apply(other)
        assert l7.hub.means.authenticators["staff"] is not before
