"""What is said to happen to a request happens: each is explained, sent through a real worker, and compared."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from core.config import to_dict
from core.explain import ExplainError, Explanation, Outcome, Place
from core.forwarding import Condition, FixedReply, HeaderChange, Redirect, Rewrite, Share
from core.model import (
    AccessList,
    Acl,
    Certificate,
    Compression,
    ErrorPage,
    HealthCheck,
    Instance,
    Kind,
    Maintenance,
    Mirror,
    Model,
    Node,
    Protocol,
    ProxyProtocol,
    RateLimit,
    RedirectMap,
    Role,
    Rule,
    Scheduler,
    Server,
    ServerGroup,
    StickySession,
)
from proxy.explain import Wanted, request
from proxy.explain_choice import Health
from proxy.explain_way import Known
from tests.proxy.support import Backend, Proxy, free_port, model, proxy, with_group, with_options, with_service

HOST = "shop.example"
CLIENT = ("127.0.0.1", 0)
RULES = (
    Rule("api", "web", "app", domain=HOST, url="/api"),
    Rule("beta", "web", "other", domain=HOST, url="/api", headers=(Condition("X-Beta", ("1", "yes*")),)),
    Rule("debug", "web", "other", url="/", queries=(Condition("debug", ("a b",)),), priority=7),
    Rule("cookied", "web", "other", domain=HOST, url="/", cookies=(Condition("tier", ("gold",)),)),
    Rule("posts", "web", "other", domain="*.example", url="/form", methods=("POST",)),
    Rule("images", "web", "other", domain=HOST, url="/", pattern="/img/*/**", rewrite=Rewrite(path="/static/${2}")),
    Rule("moved", "web", domain=HOST, path="/old", redirect=Redirect(protocol="https", path="/new${rest}", status=308)),
    Rule("teapot", "web", domain="pot.example", fixed_reply=FixedReply(418, body="short and stout")),
    Rule(
        "changed", "web", "app", domain=HOST, url="/headers",
        request_headers=(HeaderChange("X-Shop", value="yes"), HeaderChange("Cookie", "remove")),  # type: ignore[arg-type]
        response_headers=(HeaderChange("Server", value="none"),),
    ),
    Rule("sticky", "web", "stuck", domain="stay.example"),
    Rule("hashed", "web", "hashed", domain="hash.example"),
    Rule("turns", "web", "turns", domain="turn.example"),
    Rule("empty", "web", "gone", domain="gone.example"),
    Rule("rests", "web", "gone-with-fallback", domain="fall.example"),
    Rule("own", "web", "app", domain="own.example", scheduler=Scheduler.SH),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    target: str
    fields: tuple[str, ...] = ()
    host: str = HOST
    method: str = "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.host}{self.target} {' '.join(self.fields)}"[:70]


CASES = (
    Case("/"), Case("/cart?x=1"), Case("/api"), Case("/api/"), Case("/apis"), Case("/api/v1/x?y=%20z"),
    Case("/api", ("X-Beta: 1",)), Case("/api", ("X-Beta: yes, please",)), Case("/api", ("X-Beta: no",)),
    Case("/api", ("X-Beta: 0", "x-beta: 1")), Case("/?debug=a+b"), Case("/api?debug=a%20b&q", ("X-Beta: 1",)),
    Case("/", ("Cookie: a=b; tier=gold",)), Case("/", ("Cookie: tier=silver",)), Case("/form", method="POST"),
    Case("/form", host="www.example"), Case("/form", ("Content-Length: 0",), "www.example", "POST"),
    Case("/img/a/b/c"), Case("/img/a"), Case("/img/x/../a/b"), Case("/old"), Case("/old?q=1"), Case("/old/er"),
    Case("/", host="pot.example"), Case("/", host="POT.example.", method="HEAD"),
    Case("/headers", ("Cookie: a=b", "X-Shop: no")), Case("/headers/%7euser/%2f"),
    Case("/", ("Connection: close, X-Gone", "X-Gone: 1")), Case("/", ("X_Odd: 1",)),
    Case("/", ("X-Forwarded-For: 1.2.3.4", "Forwarded: for=x", "X-Real-IP: 9.9.9.9")), Case("/", ("Via: 1.1 l7-1",)),
    Case("/", ("Via: 1.0 other",)), Case("/", ("TE: trailers",)), Case("/", ("Upgrade: h2c", "Connection: upgrade")),
    Case("/a/%00"), Case("/a\\b"), Case("/../x"), Case("/%2e%2e/x"), Case("/a%2fb/../c"), Case("/%zz"), Case("/a b"),
    Case("/", host="a b"), Case("/", host=""), Case("/", ("Host: other",)), Case("/", ("Content-Length: +1",)),
    Case("/", ("Content-Length: 1", "Transfer-Encoding: chunked")), Case("/", ("Transfer-Encoding: gzip",)),
    Case("/", ("Expect: tea",)), Case("/", (" folded: 1",)), Case("/", ("Bad Name: 1",)), Case("/", method="TRACE"),
    Case("/", method="CONNECT"), Case("/", method="PATCH"), Case("/", host="hash.example"),
    Case("/", host="turn.example"), Case("/", host="stay.example"),
    Case("/", ("Cookie: SERVERID=forged",), "stay.example"), Case("/", host="gone.example"),
    Case("/", host="fall.example"), Case("/", host="own.example"), Case("/" + "x" * 9000),
    Case("/", host="unknown.test"), Case("/ü"),
)  # fmt: skip


def configuration(port: int, ports: Sequence[int], **options: Any) -> Model:
    base = model(port, ports[:2], rules=RULES)
    base = with_group(with_group(base, "other", ports[2:3]), "many", ports)
    base = replace(
        base,
        server_groups={
            **base.server_groups,
            "gone": ServerGroup("gone", (Server("127.0.0.1", ports[0], 0), Server("127.0.0.1", ports[1], 0))),
        },
    )
    for name, changes in {
        "other": {"server_group": "other"},
        "stuck": {"server_group": "many", "sticky_session": StickySession()},
        "hashed": {"server_group": "many", "scheduler": Scheduler.SH},
        "turns": {"server_group": "many", "scheduler": Scheduler.WRR},
        "gone": {"server_group": "gone"},
        "gone-with-fallback": {"server_group": "gone", "fallback": "other"},
    }.items():
        base = with_service(base, name, **{"health_check": None, **changes})
    return with_options(with_service(base, health_check=None), **options)


def explained(configured: Model, port: int, case: Case, known: Known | None = None) -> Explanation:
    fields = (f"Host: {case.host}", *case.fields)
    # The target goes as it is written: the URL says only where it comes to.
    url = f"http://127.0.0.1:{port}{case.target}"
    return request(configured, Wanted(url, case.method, fields, CLIENT), known)


async def sent(through: Proxy, case: Case) -> tuple[int, bytes]:
    client = await through.connect()
    lines = [f"{case.method} {case.target} HTTP/1.1", f"Host: {case.host}", *case.fields, "", ""]
    client.writer.write("\r\n".join(lines).encode())
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 20)
    await client.close()
    return int(head.split(b" ")[1]), head


def field_of(head: bytes, name: bytes) -> str:
    return next((line[len(name) + 2 :].decode() for line in head.split(b"\r\n") if line.startswith(name + b": ")), "")


def told_lines(lines: Sequence[str]) -> list[str]:
    """Those of a request to a server, less what names this request alone."""
    return [line for line in lines if line and not line.startswith("X-Request-Id: ")]


async def test_each_request_goes_the_way_that_was_told() -> None:
    outcomes = set()
    async with Backend().running() as a, Backend().running() as b, Backend().running() as c:
        port = free_port()
        configured = configuration(port, [a.port, b.port, c.port])
        backends = {f"127.0.0.1:{each.port}": each for each in (a, b, c)}
        async with proxy(configured) as through:
            for number, case in enumerate(CASES):
                told = explained(configured, port, case)
                status, head = await sent(through, case)
                record = await through.record(number + 1)
                result = told.result
                assert (result.get("rule", ""), result.get("service", "")) == record.way, case
                assert result.get("error", "") == record.error_code, case
                outcomes.add(told.outcome)
                if told.outcome is Outcome.FORWARDED:
                    assert (status, record.error_code) == (200, ""), case
                    assert record.upstream == result["server"] or (
                        not result["server"] and record.upstream in result["candidates"]
                    ), case
                    lines = backends[record.upstream].heads[-1].decode("latin-1").split("\r\n")
                    assert told_lines(lines) == told_lines(result["upstream_head"]), case
                else:
                    assert result["status"] == status, case
                    assert result.get("location", "") == field_of(head, b"Location"), case
    assert outcomes == {Outcome.FORWARDED, Outcome.REDIRECTED, Outcome.ANSWERED, Outcome.REFUSED}


async def test_who_comes_back_with_the_cookie_is_told_his_server() -> None:
    async with Backend().running() as a, Backend().running() as b, Backend().running() as c:
        port = free_port()
        configured = configuration(port, [a.port, b.port, c.port])
        async with proxy(configured) as through:
            secret = bytes(range(32))
            through.hub.reseal(secret)
            for number in range(1, 5):
                first = Case("/", host="stay.example")
                _, head = await sent(through, first)
                server = (await through.record(2 * number - 1)).upstream
                cookie = field_of(head, b"Set-Cookie").partition(";")[0]
                again = replace(first, fields=(f"Cookie: {cookie}",))
                told = explained(configured, port, again, Known(cookie_secret=secret))
                assert told.result["server"] == server
                assert any("cookie says so" in step.text for step in told.steps)
                await sent(through, again)
                assert (await through.record(2 * number)).upstream == server
                blind = explained(configured, port, again)
                assert blind.result["server"] == ""
                assert any("known to the L7 nodes alone" in step.text for step in blind.steps)


def only(told: Explanation, what: str) -> str:
    (step,) = (step for step in told.steps if step.what == what)
    return "\n".join((step.text, *step.notes))


def test_rules_that_came_close_are_named_with_what_they_missed() -> None:
    configured = configuration(80, [1, 2, 3])
    said = only(explained(configured, 80, Case("/api", ("X-Beta: no", "Cookie: tier=silver"))), "rule")
    assert said.startswith("api: domain shop.example, url /api")
    assert "not beta: the header X-Beta is not 1 or yes*" in said
    assert "not cookied: the cookie tier is not gold" in said
    assert "not debug: the query debug is not a b" in said
    said = only(explained(configured, 80, Case("/form", host="www.example")), "rule")
    assert said.startswith("none matches")
    assert "not posts: its methods are POST" in said
    said = only(explained(configured, 80, Case("/api?debug=a+b")), "rule")
    assert "not api, which matches too: debug comes first" in said
    assert "not api: its url /api is not that of /x" in only(explained(configured, 80, Case("/x")), "rule")


def test_health_leaves_servers_out_and_is_said() -> None:
    configured = configuration(80, [8001, 8002, 8003])
    configured = with_service(
        configured, "turns", server_group="many", scheduler=Scheduler.RR, health_check=HealthCheck()
    )
    case = Case("/", host="turn.example")
    assert "by the configuration alone" in only(explained(configured, 80, case), "server")
    down = Health({"turns": {"127.0.0.1:8001": "refused"}}, {"turns": {"127.0.0.1:8003": "ejected"}}, known=True)
    told = explained(configured, 80, case, Known(health=down))
    assert told.result["server"] == "127.0.0.1:8002"
    said = only(told, "server")
    assert "127.0.0.1:8001 is left out: refused" in said
    assert "127.0.0.1:8003 is left out: ejected" in said
    down = Health({"turns": {f"127.0.0.1:800{n}": "refused" for n in (1, 2, 3)}}, known=True)
    told = explained(configured, 80, case, Known(health=down))
    assert (told.outcome, told.result["status"]) == (Outcome.REFUSED, 503)


def test_an_own_scheduler_goes_by_the_checks_of_its_service() -> None:
    configured = configuration(80, [8001, 8002, 8003])
    down = Health({"app": {"127.0.0.1:8001": "refused"}}, known=True)
    told = explained(configured, 80, Case("/", host="own.example"), Known(health=down))
    assert (told.result["service"], told.result["server"]) == ("app@own", "127.0.0.1:8002")


def test_a_split_is_left_open() -> None:
    configured = configuration(80, [8001, 8002, 8003])
    rule = Rule("parted", "web", domain="part.example", split=(Share("other", 90), Share("turns", 10), Share("app", 0)))
    configured = replace(configured, rules={**configured.rules, "parted": rule})
    told = explained(configured, 80, Case("/", host="part.example"))
    assert told.result["services"] == ["other", "turns"]
    assert (told.result["service"], told.result["server"]) == ("", "")


def test_the_entry_of_a_redirect_map_is_named() -> None:
    configured = configuration(80, [8001, 8002, 8003])
    rule = Rule("moved", "web", domain="map.example", redirect_map="m")
    entries = "# comment\n/old /new 302\nmap.example/q?a=1 https://other.example/\n"
    maps = {"m": RedirectMap("m", entries=entries)}
    configured = replace(configured, rules={**configured.rules, "moved": rule}, redirect_maps=maps)
    told = explained(configured, 80, Case("/old?x", host="map.example"))
    assert (told.outcome, told.result["status"], told.result["rule"]) == (Outcome.REDIRECTED, 302, "moved")
    assert told.result["location"] == "http://map.example/new?x"
    step = told.steps[-2]
    assert (step.what, step.text) == ("redirect map", "m has an entry for it in line 2: /old /new 302")
    assert told.steps[-1].place == Place(Kind.REDIRECT_MAPS, "m", "entries")
    told = explained(configured, 80, Case("/q?a=1", host="map.example"))
    assert told.result["entry"] == "map.example/q?a=1 https://other.example/"
    told = explained(configured, 80, Case("/q?a=2", host="map.example"))
    assert told.result["rule"] != "moved"
    said = [note for step in told.steps for note in step.notes]
    assert "not moved: its map m has no entry for it" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("Accept-Encoding: gzip, br",), "are compressed for this client by br"),
        (("Accept-Encoding: gzip", "Cookie: a=b"), "is not compressed: it is personal"),
        ((), "is not compressed: the client's Accept-Encoding names no coding"),
    ],
    ids=["br", "cookie", "nothing"],
)
def test_whether_a_page_is_compressed_is_said(fields: tuple[str, ...], said: str) -> None:
    configured = with_options(configuration(80, [8001, 8002, 8003]), compression=Compression())
    assert said in only(explained(configured, 80, Case("/", fields)), "compression")
    off = explained(configuration(80, [8001, 8002, 8003]), 80, Case("/", fields))
    assert not [step for step in off.steps if step.what == "compression"]


def test_maintenance_is_said_to_all_but_testers() -> None:
    closed = Maintenance(headers=(Condition("X-Test", ("1",)),))
    configured = with_options(configuration(80, [8001, 8002, 8003]), maintenance=closed)
    told = explained(configured, 80, Case("/"))
    assert (told.outcome, told.result["status"], told.result["error"]) == (Outcome.REFUSED, 503, "maintenance")
    (step,) = (each for each in told.steps if each.what == "maintenance")
    assert step.place is not None
    assert (step.place.name, step.place.field) == ("web", "maintenance")
    assert explained(configured, 80, Case("/", ("X-Test: 1",))).outcome is not Outcome.REFUSED


def test_which_error_page_is_said() -> None:
    listed = (ErrorPage("5xx", body="x", servers=True), ErrorPage("4xx", body="y"))
    configured = with_options(configuration(80, [8001, 8002, 8003]), error_pages=listed)
    assert only(explained(configured, 80, Case("/")), "error page") == "in place of its server's answers of 5xx"
    said = only(explained(configured, 80, Case("/%00")), "error page")
    assert said == "the page for 4xx, of text/html; charset=utf-8"
    said = only(explained(configured, 80, Case("/%00", ("Accept: application/json",))), "error page")
    assert said == "none is for it that the client reads"


@pytest.mark.parametrize(
    ("fields", "by", "service", "said"),
    [
        (("X-Canary: always",), "source", "other", "other: a field or cookie of the request says so, not the weights"),
        ((), "source", "turns", "turns: by source, always the same at these weights: turns (100), other (0)"),
        ((), "cookie:uid", "turns", "turns: by the client's address, as the request has no cookie:uid"),
        (("Cookie: uid=7",), "cookie:uid", "turns", "turns: by cookie:uid, always the same"),
    ],
    ids=["field", "source", "no-cookie", "cookie"],
)
def test_a_split_says_what_decides(fields: tuple[str, ...], by: str, service: str, said: str) -> None:
    configured = configuration(80, [8001, 8002, 8003])
    shares = (Share("turns", 100), Share("other", 0, (Condition("X-Canary", ("always",)),)))
    rule = Rule("parted", "web", domain="part.example", split=shares, split_by=by)
    configured = replace(configured, rules={**configured.rules, "parted": rule})
    told = explained(configured, 80, Case("/", fields, "part.example"))
    assert told.result["service"] == service
    assert next(step.text for step in told.steps if step.what == "split").startswith(said)


def test_access_lists_and_listeners_that_are_not_there() -> None:
    configured = configuration(80, [8001, 8002, 8003], acl=Acl.BLACK, access_list="bad")
    configured = replace(configured, access_lists={"bad": AccessList("bad", ("127.0.0.0/8",))})
    told = explained(configured, 80, Case("/"))
    assert (told.outcome, len(told.steps)) == (Outcome.DROPPED, 2)
    told = request(configured, Wanted("http://a/", client=("192.0.2.9", 0)))
    assert told.outcome is Outcome.FORWARDED
    told = request(configured, Wanted("https://a/"))
    assert (told.outcome, told.steps[0].notes) == (Outcome.KERNEL, ("there are http/80",))
    for url in ("ftp://a/", "a", "http://[x/", "http:///"):
        with pytest.raises(ExplainError):
            request(configured, Wanted(url))
    with pytest.raises(ExplainError, match="one line"):
        request(configured, Wanted("http://a/", fields=("X: 1\r\nY: 2",)))


@pytest.mark.parametrize("tier", ["alone", "behind L4"])
def test_a_proxy_tells_whose_address_the_lists_are_for(tier: str) -> None:
    """The L4 tier sees the proxy, whose port nobody knows: which of two L7 nodes it is, is left open."""
    configured = with_options(
        model(80, [9000]), proxy_protocol=ProxyProtocol.REQUIRED, proxy_protocol_from=("10.9.0.0/16",),
        acl=Acl.BLACK, access_list="bad",
    )  # fmt: skip
    configured = replace(configured, access_lists={"bad": AccessList("bad", ("203.0.113.9", "10.9.0.0/16"))})
    if tier == "behind L4":
        nodes = (Node("l4-1", Role.L4, "10.0.0.1"), Node("a", Role.L7, "10.0.0.2"), Node("b", Role.L7, "10.0.0.3"))
        configured = replace(configured, nodes={node.name: node for node in nodes})
        configured = replace(configured, instances={"main": Instance("main", vips=("192.0.2.10",))})
    for client, outcome in (("203.0.113.8", Outcome.FORWARDED), ("203.0.113.9", Outcome.DROPPED)):
        told = request(configured, Wanted("http://192.0.2.10/", client=(client, 5000), to="192.0.2.10"))
        assert told.outcome is outcome
        assert only(told, "PROXY protocol") == (
            f"required: a proxy in 10.9.0.0/16 tells that the client is {client}; connections of others are cut"
        )
        assert only(told, "access list").endswith(f"{client}" if outcome is Outcome.FORWARDED else "connection is cut")
        assert not told.result.get("l7_node")
        assert ("L4: L7 node" in [step.what for step in told.steps]) is (tier == "behind L4")


def test_what_limits_a_request_is_said_with_where_it_stands() -> None:
    each = RateLimit(5, burst=9, key="source", prefix=24, max_delay_s=2)
    lists = {"bad": AccessList("bad", ("127.0.0.0/8",))}
    configured = configuration(80, [8001, 8002, 8003], rate_limits=(RateLimit(100),), max_requests_per_client=3)
    limited = replace(configured.rules["api"], rate_limits=(each, RateLimit(1, dry_run=True)), max_requests=7)
    configured = replace(configured, rules={**configured.rules, "api": limited}, access_lists=lists)
    told = explained(configured, 80, Case("/api"))
    assert told.outcome is Outcome.FORWARDED
    limits = [step for step in told.steps if step.what in ("rate limit", "requests at a time")]
    assert [(step.what, step.text, step.place and step.place.name) for step in limits] == [
        ("rate limit", "100 requests a second, of the whole cluster; 429 beyond", "web"),
        ("requests at a time", "3 requests at a time of one client in each worker; 429 beyond", "web"),
        ("rate limit", "5 requests a second for each client (/24, IPv6 /64), 9 at once, of the whole cluster; 429 "
         "beyond, after waiting 2 s at most", "api"),
        ("rate limit", "1 requests a second, of the whole cluster; more is only counted", "api"),
        ("requests at a time", "7 requests at a time of the whole cluster; 503 beyond", "api"),
    ]  # fmt: skip


def test_copies_are_said() -> None:
    configured = configuration(80, [8001, 8002, 8003])
    rules = {**configured.rules, "api": replace(configured.rules["api"], mirror=Mirror("other", 12.5))}
    told = explained(replace(configured, rules=rules), 80, Case("/api"))
    (step,) = [step for step in told.steps if step.what == "mirror"]
    assert step.text == "12.5 % of them go to other too, which nobody waits for"
    assert step.place is not None
    assert (step.place.name, step.place.field) == ("api", "mirror")


@pytest.mark.parametrize(
    ("changes", "options", "fields", "status", "place"),
    [
        ({"acl": Acl.BLACK, "access_list": "bad"}, {}, (), 403, ("api", "access_list")),
        ({"max_body_bytes": 9}, {}, ("Content-Length: 10",), 413, ("api", "max_body_bytes")),
        ({}, {"max_body_bytes": 9}, ("Content-Length: 10",), 413, ("web", "max_body_bytes")),
        ({}, {"max_head_bytes": 1024}, ("X: " + "x" * 1024,), 431, ("web", "max_head_bytes")),
    ],
    ids=["list", "rule's body", "listener's body", "head"],
)
def test_what_a_rule_refuses_is_said_with_the_attribute(
    changes: dict[str, Any], options: dict[str, Any], fields: tuple[str, ...], status: int, place: tuple[str, str]
) -> None:
    configured = configuration(80, [8001, 8002, 8003], **options)
    rules = {**configured.rules, "api": replace(configured.rules["api"], **changes)}
    lists = {"bad": AccessList("bad", ("127.0.0.0/8",))}
    told = explained(replace(configured, rules=rules, access_lists=lists), 80, Case("/api", fields))
    last = told.steps[-1]
    assert (told.outcome, told.result["status"]) == (Outcome.REFUSED, status)
    assert last.place is not None
    assert (last.place.name, last.place.field) == place


@pytest.mark.parametrize(
    ("sni", "name"),
    [
        ("shop.example", "exact"),
        ("SHOP.example.", "exact"),
        ("www.example", "wild"),
        ("a.b.example", "first"),
        ("", "first"),
    ],
)
def test_the_certificate_that_a_name_gets(sni: str, name: str) -> None:
    configured = configuration(
        443, [8001, 8002, 8003], certificates=("first", "wild", "exact"), protocol=Protocol.HTTPS
    )
    certificates = {
        "first": Certificate("first", domains=("other.test",)),
        "wild": Certificate("wild", domains=("*.example",)),
        "exact": Certificate("exact", domains=("shop.example",)),
    }
    configured = replace(configured, certificates=certificates)
    for http2, offered in ((True, "HTTP/2 and HTTP/1.1 are offered"), (False, "HTTP/1.1 alone is offered")):
        told = request(with_options(configured, http2=http2), Wanted("https://shop.example/", sni=sni))
        assert (told.result["certificate"], told.outcome) == (name, Outcome.FORWARDED)
        assert [step.text.rpartition("; ")[2] for step in told.steps if step.what == "TLS"] == [offered]
    told = request(with_options(configured, certificates=()), Wanted("https://shop.example/"))
    assert (told.outcome, told.steps[-1].what) == (Outcome.REFUSED, "certificate")


def test_it_is_asked_by_a_process_of_its_own() -> None:
    facts = {
        "l4_down": {},
        "seed": None,
        "said": ["", ""],
        "known": False,
        "down": {},
        "ejected": {},
        "differ": {},
        "cookie_secret": "",
        "node": "",
    }
    config = to_dict(configuration(80, [8001, 8002, 8003]))

    def answer(url: str) -> dict[str, Any]:
        question = {"config": config, "request": {"url": url, "fields": ["X-Beta: 1"]}, "facts": facts}
        argv = [sys.executable, "-m", "proxy.explain_asked"]
        done = subprocess.run(argv, input=json.dumps(question).encode(), capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    found = answer(f"http://{HOST}/api")
    assert (found["outcome"], found["rule"], found["server"]) == ("forwarded", "beta", "127.0.0.1:8003")
    assert {"kind": "rules", "name": "beta"}.items() <= next(s for s in found["steps"] if s["what"] == "rule").items()
    assert "give a URL" in answer("shop.example")["wrong"]
