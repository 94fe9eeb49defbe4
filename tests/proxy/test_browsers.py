"""What browsers are told, through exchanges, a worker and `paifang explain`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.config import load
from core.errors import ConfigErrors
from core.explain import Outcome, Place
from core.model import (
    Cors,
    FixedReply,
    HeaderAction,
    HeaderChange,
    Kind,
    Listener,
    Model,
    Protocol,
    RateLimit,
    Redirect,
    Rule,
    SecurityHeaders,
)
from proxy.browsers import Browsers
from proxy.demands import Demands
from proxy.explain import Wanted, request
from tests.proxy.support import Backend, Proxy, Request, free_port, model, proxy

APP = b"https://app.example"
WEB = Listener("web", "main", Protocol.HTTP, 80)
CORS = Cors((APP.decode(),), ("GET", "PUT"), credentials=True)


def made(rule: Rule, listener: Listener = WEB) -> Browsers | None:
    demands = Demands.of(rule, Demands.of_listener(listener))
    return demands.browsers if demands is not None else None


def test_a_rule_takes_the_place_of_its_listener() -> None:
    plain, strict = Rule("r", "web"), SecurityHeaders.STRICT
    said = replace(WEB, cors=CORS, security_headers=SecurityHeaders.BASIC)
    assert made(plain) is None
    assert made(plain, said) == Browsers(CORS, SecurityHeaders.BASIC)
    assert made(replace(plain, security_headers=strict), said) == Browsers(CORS, strict)
    assert made(replace(plain, security_headers=SecurityHeaders.OFF), replace(said, cors=None)) is None
    other = Cors(("*",))
    assert made(replace(plain, cors=other), said) == Browsers(other, SecurityHeaders.BASIC)
    assert made(replace(plain, cors=other)) != made(plain, said)


def site(port: int, backend: int) -> Model:
    base = model(port, [backend])
    listener = replace(base.listeners["web"], security_headers=SecurityHeaders.BASIC)
    rules = [
        Rule("api", "web", "app", url="/api", cors=CORS),
        Rule("own", "web", "app", url="/own", response_headers=(HeaderChange("X-Frame-Options", value="DENY"),)),
        Rule("gone", "web", "app", url="/gone",
             response_headers=(HeaderChange("Referrer-Policy", HeaderAction.REMOVE),)),
        Rule("reply", "web", url="/reply", fixed_reply=FixedReply(body="x"), cors=CORS),
        Rule("moved", "web", url="/moved", redirect=Redirect(path="/x"), security_headers=SecurityHeaders.STRICT),
        Rule("off", "web", "app", url="/off", security_headers=SecurityHeaders.OFF),
        Rule("few", "web", "app", url="/few", cors=CORS, rate_limits=(RateLimit(0.001, burst=1),)),
    ]  # fmt: skip
    return replace(base, listeners={"web": listener}, rules={rule.name: rule for rule in rules})


async def ask(l7: Proxy, path: str, *lines: bytes, method: str = "GET") -> tuple[int, list[str]]:
    """Status, and the lines of the head that are about browsers."""
    client = await l7.connect()
    sent = b"".join(b"%b\r\n" % line for line in lines)
    client.writer.write(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method.encode(), path.encode(), sent))
    status, head, _ = await client.whole_answer()
    await client.close()
    names = ("access-control-", "vary", "x-", "referrer", "content-security", "cross-origin", "permissions")
    told = [line for line in head.decode().split("\r\n") if line.lower().startswith(names)]
    return status, [line for line in told if not line.startswith("X-Request-Id")]


BASIC = [
    "X-Content-Type-Options: nosniff", "Referrer-Policy: strict-origin-when-cross-origin",
    "X-Frame-Options: SAMEORIGIN", "Content-Security-Policy: frame-ancestors 'self'",
]  # fmt: skip
ALLOWED = ["Access-Control-Allow-Origin: https://app.example", "Access-Control-Allow-Credentials: true", "Vary: Origin"]
SAYING = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\n"
    b"X-Frame-Options: ALLOWALL\r\n\r\nok"
)  # fmt: skip


async def test_every_answer_says_it() -> None:
    backend = Backend()
    async with backend.running(), proxy(site(free_port(), backend.port)) as l7:
        assert await ask(l7, "/") == (200, BASIC)
        assert await ask(l7, "/") == (200, BASIC)  # by a connection that is there already
        assert await ask(l7, "/api", b"Origin: " + APP) == (200, [*BASIC, *ALLOWED])
        assert await ask(l7, "/api", b"Origin: https://evil.example") == (200, [*BASIC, "Vary: Origin"])
        assert await ask(l7, "/own") == (200, [BASIC[0], BASIC[1], BASIC[3], "X-Frame-Options: DENY"])
        assert await ask(l7, "/gone") == (200, [BASIC[0], *BASIC[2:]])
        assert await ask(l7, "/off") == (200, [])
        assert await ask(l7, "/reply", b"Origin: " + APP) == (200, [*BASIC, *ALLOWED])
        status, told = await ask(l7, "/moved")
        assert (status, len(told), told[2]) == (301, 7, "X-Frame-Options: DENY")
        assert (await ask(l7, "/few", b"Origin: " + APP))[0] == 200
        assert await ask(l7, "/few", b"Origin: " + APP) == (429, [*BASIC, *ALLOWED])  # a script may read why


async def saying(asked: Request) -> None:
    asked.writer.write(SAYING)


async def test_a_server_knows_its_pages_but_not_who_may_read_them() -> None:
    async with Backend(saying).running() as backend, proxy(site(free_port(), backend.port)) as l7:
        status, told = await ask(l7, "/api", b"Origin: " + APP)
        kept = ["Vary: Accept", "X-Frame-Options: ALLOWALL", BASIC[0], BASIC[1], BASIC[3], *ALLOWED]
        assert (status, told) == (200, kept)


async def test_preflights_reach_no_server() -> None:
    backend = Backend()
    async with backend.running(), proxy(site(free_port(), backend.port)) as l7:
        wanted = b"Access-Control-Request-Method: PUT"
        status, told = await ask(l7, "/api", b"Origin: " + APP, wanted, method="OPTIONS")
        assert status == 204
        assert "Access-Control-Allow-Methods: GET, PUT" in told
        assert "Access-Control-Allow-Origin: https://app.example" in told
        status, told = await ask(l7, "/api", b"Origin: https://evil.example", wanted, method="OPTIONS")
        assert (status, [line for line in told if "Allow" in line]) == (403, [])
        assert (await l7.record(2)).error_code == "cors_refused"
        assert not backend.heads
        assert (await ask(l7, "/off", b"Origin: " + APP, wanted, method="OPTIONS"))[0] == 200  # no policy: a server's


@pytest.mark.parametrize(
    ("fields", "method", "outcome", "notes"),
    [
        ((f"Origin: {APP.decode()}",), "GET", Outcome.FORWARDED, [f"+ {ALLOWED[0]}", f"+ {BASIC[2]}, unless"]),
        (("Origin: https://e.example",), "GET", Outcome.FORWARDED, ["scripts of this origin may not read it"]),
        ((f"Origin: {APP.decode()}", "Access-Control-Request-Method: PUT"), "OPTIONS", Outcome.ANSWERED, ALLOWED[:1]),
        ((f"Origin: {APP.decode()}", "Access-Control-Request-Method: DELETE"), "OPTIONS", Outcome.REFUSED, []),
    ],
)
def test_what_would_be_said_is_explained(
    fields: tuple[str, ...], method: str, outcome: Outcome, notes: list[str]
) -> None:
    told = request(site(80, 9000), Wanted("http://a/api", method, fields))
    assert told.outcome is outcome
    step = told.steps[-1] if outcome is not Outcome.FORWARDED else next(s for s in told.steps if s.what == "response")
    assert all(any(note in line for line in step.notes) for note in notes)
    if method == "OPTIONS":
        assert (step.what, step.place) == ("preflight", Place(Kind.RULES, "api", "cors"))


CASES = [
    ('origins = ["*"], credentials = true', "rules.api.cors.credentials: with credentials, * would let every page"),
    ('origins = ["*", "https://a.example"]', "rules.api.cors.origins: * is every origin"),
    ("origins = []", "rules.api.cors.origins: nobody may ask"),
    ('origins = ["https://a.example:443"]', "rules.api.cors.origins[0]: no browser names port 443 of https"),
    ('origins = ["https://a.example:99999"]', "rules.api.cors.origins[0]: no browser names port 99999 of https"),
    ('origins = ["https://a.example/"]', "rules.api.cors.origins[0]: 'https://a.example/' does not fit"),
    ('origins = ["a.example"]', "rules.api.cors.origins[0]: 'a.example' does not fit"),
    ('origins = ["null"]', "rules.api.cors.origins[0]: 'null' does not fit"),
    ('origins = ["https://a.example"], methods = ["TRACE"]', "rules.api.cors.methods[0]: no script may send TRACE"),
    ('origins = ["https://a.example"], headers = ["*", "X"]', "rules.api.cors.headers: * is every field"),
    ('origins = ["https://a.example"], credentials = true, exposed_headers = ["*"]',
     "rules.api.cors.exposed_headers: with credentials browsers read * as a name"),
]  # fmt: skip
TEXT = """\
[[listeners]]
protocol = "http"
port = 80
servers = ["127.0.0.1:9000"]
[[rules]]
name = "api"
listener = "http-80"
backend_service = "http-80"
"""


@pytest.mark.parametrize(("cors", "problem"), CASES)
def test_what_is_no_policy(cors: str, problem: str) -> None:
    for text, at in (
        (f"{TEXT}cors = {{ {cors} }}\n", problem),
        (
            TEXT.replace("port = 80", f"port = 80\ncors = {{ {cors} }}"),
            problem.replace("rules.api", "listeners.http-80"),
        ),
    ):
        with pytest.raises(ConfigErrors) as errors:
            load(text, path="site.toml", format="toml")
        (error,) = errors.value.errors
        assert f"{error.object_path}: {error.why}".startswith(at)
        assert error.line
        assert error.suggestion


def test_one_place_says_who_may_read() -> None:
    header = 'response_headers = [{ name = "Access-Control-Allow-Origin", value = "*" }]\n'
    load(TEXT + header, path="site.toml", format="toml")
    cors = 'cors = { origins = ["https://a.example"] }\n'
    for text in (TEXT + header + cors, TEXT.replace("port = 80\n", f"port = 80\n{cors}") + header):
        with pytest.raises(ConfigErrors, match="is what cors says"):
            load(text, path="site.toml", format="toml")


def test_what_l4_listeners_do_not_say() -> None:
    text = (
        TEXT.partition("[[rules]]")[0]
        .replace('"http"', '"tcp"')
        .replace("port = 80", 'port = 80\nsecurity_headers = "basic"')
    )
    with pytest.raises(ConfigErrors, match="security_headers is for http and https listeners"):
        load(text, path="site.toml", format="toml")
