"""Routing by host and path, and the one normal form of paths."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import Condition, FixedReply, HeaderChange, Redirect, Rewrite, Rule, Share, StickySession
from core.rules import first
from proxy import rules as proxy_rules
from proxy.actions import Decision, Forward, Reply
from proxy.conditions import Conditions
from proxy.errors import Code, Refused
from proxy.head import read_request
from proxy.message import RequestHead
from proxy.names import host_name
from proxy.rules import Router, normal_target
from proxy.sticky import Seal, Sticky

RULES = [
    ("www.example.com", "/", "www"),
    ("www.example.com", "/api", "www-api"),
    ("www.example.com", "/api/v2", "www-api-2"),
    ("*.example.com", "/", "wild"),
    ("*.b.example.com", "/only", "wild-b"),
    ("", "/static/", "static"),
    ("bare.example.org", "/x", "bare"),
]


def head(host: bytes, target: bytes = b"/", fields: bytes = b"", method: bytes = b"GET") -> RequestHead:
    found = read_request(b"%b %b HTTP/1.0\r\n%b%b\r\n" % (method, target, b"Host: %b\r\n" % host * bool(host), fields))
    assert found is not None
    return found


def service(decision: Decision) -> str:
    assert isinstance(decision, Forward)
    return decision.service


def ask(router: Router, host: bytes, target: bytes, method: bytes = b"GET") -> str:
    return service(router.route(head(host, target, method=method), target))


def router(default: str = "default") -> Router:
    rules = [Rule(f"r{i}", "web", service, domain, url) for i, (domain, url, service) in enumerate(RULES)]
    return Router(rules, default)


@pytest.mark.parametrize(
    ("host", "target", "service"),
    [
        (b"www.example.com", b"/", "www"),
        (b"WWW.Example.COM.:8080", b"/apis", "www"),
        (b"www.example.com", b"/api", "www-api"),
        (b"www.example.com", b"/api/", "www-api"),
        (b"www.example.com", b"/api?x=/v2", "www-api"),
        (b"www.example.com", b"/api/v2/y", "www-api-2"),
        (b"a.example.com", b"/", "wild"),
        (b"a.b.example.com", b"/only/this", "wild-b"),
        (b"a.b.example.com", b"/else", "wild"),
        (b"example.com", b"/", "default"),
        (b"example.com", b"/static/x", "static"),
        (b"example.com", b"/static", "default"),
        (b"bare.example.org", b"/x", "bare"),
        (b"bare.example.org", b"/static/x", "static"),
        (b"[::1]:80", b"/", "default"),
        (b"", b"/", "default"),
        (b"www.example.com", b"*", "www"),
    ],
)
def test_the_most_specific_rule_wins(host: bytes, target: bytes, service: str) -> None:
    assert ask(router(), host, target, b"OPTIONS" if target == b"*" else b"GET") == service


def test_without_rules_and_without_default() -> None:
    assert ask(Router((), "app"), b"a", b"/") == "app"
    assert router("").route(head(b"nobody.org"), b"/") is None
    assert Router((), "").route(head(b"a"), b"/") is None


def test_the_first_of_two_equal_rules_wins() -> None:
    rules = [Rule("a", "web", "one", "", "/x"), Rule("b", "web", "two", "", "/x")]
    assert ask(Router(rules, ""), b"h", b"/x") == "one"


def test_priorities_go_before_what_is_specific() -> None:
    rules = [
        Rule("exact", "web", "exact", "a.test", path="/x"),
        Rule("wide", "web", "wide", "*.test", priority=2),
        Rule("any", "web", "any", priority=1, methods=("POST",)),
    ]
    made = Router(rules, "default")
    assert ask(made, b"a.test", b"/x") == "wide"
    assert ask(made, b"a.test", b"/x", b"POST") == "any"
    assert ask(made, b"other", b"/x") == "default"


def test_a_condition_that_does_not_hold_leaves_the_request_to_the_next_rule() -> None:
    rules = [
        Rule("one", "web", "one", "a.test", "/x", queries=(Condition("q", ("1",)),)),
        Rule("two", "web", "two", "a.test", "/x", cookies=(Condition("c"),), methods=("GET",)),
        Rule("three", "web", "three", "a.test"),
    ]
    made = Router(rules, "")
    asked = [(b"/x?q=1", b""), (b"/x?q=2", b"Cookie: c=1\r\n"), (b"/x", b"")]
    assert [service(made.route(head(b"a.test", t, f), t)) for t, f in asked] == ["one", "two", "three"]


def test_other_actions() -> None:
    rules = [
        Rule("r", "web", url="/old", redirect=Redirect(308, path="/new${rest}")),
        Rule("e", "web", path="/old/exactly", redirect=Redirect(path="/x${rest}")),
        Rule("f", "web", path="/down", fixed_reply=FixedReply(503)),
    ]
    made = Router(rules, "")
    moved, exact, down = (made.route(head(b"a", t), t) for t in (b"/old/a", b"/old/exactly", b"/down"))
    assert isinstance(moved, proxy_rules.Redirect)
    assert isinstance(exact, proxy_rules.Redirect)
    assert (moved.status(b"GET"), moved.location(b"http", b"a", b"/old/a")) == (308, b"http://a/new/a")
    assert (exact.status(b"GET"), exact.location(b"http", b"a", b"/old/exactly")) == (301, b"http://a/x")
    assert isinstance(down, Reply)
    assert made.route(head(b"a", b"/down/"), b"/down/") is None


def test_a_split_takes_turns_and_all_its_parts_are_rewritten() -> None:
    rule = Rule(
        "r", "web", url="/a", split=(Share("one", 50), Share("two", 50)), rewrite=Rewrite(path="/b${rest}"),
        request_headers=(HeaderChange("X", value="1"),), response_headers=(HeaderChange("Y", value="2"),),
    )  # fmt: skip
    made = Router([rule], "")
    for expected in ("one", "two", "one"):
        decision = made.route(head(b"h", b"/a/c"), b"/a/c")
        assert isinstance(decision, Forward)
        assert decision.rewrite is not None
        assert decision.rewrite.apply(b"h", b"/a/c") == (b"h", b"/b/c")
        assert decision.request is not None
        assert decision.response is not None
        assert (decision.service, decision.request.lines, decision.response.lines) == (
            expected,
            b"X: 1\r\n",
            b"Y: 2\r\n",
        )


def test_a_split_leads_clients_back_to_where_their_server_is() -> None:
    """New clients are divided by weight; of those with a server, each goes where it is, weight or not."""
    one, two, both = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)
    seal = Seal(bytes(32), lambda: 1e9)
    stickies = {"a": Sticky(seal), "b": Sticky(seal), "c": Sticky(seal)}
    for name, servers in (("a", (one,)), ("b", (two, both)), ("c", (both,))):
        stickies[name].update(StickySession(), servers)
    shares = (Share("a", 0), Share("b", 50), Share("c", 50), Share("plain", 50))
    made = Router([Rule("r", "web", split=shares)], "", stickies=stickies)

    def led(server: tuple[str, int] | None) -> str:
        changes = stickies["a" if server == one else "b"].cookie(server, secure=False) if server else None
        cookie = re.findall(rb"SERVERID=[^;]+", changes.lines)[0] if changes else b"x=1"
        return service(made.route(head(b"h", b"/", b"Cookie: %b\r\n" % cookie), b"/"))

    assert {led(one) for _ in range(6)} == {"a"}
    assert {led(two) for _ in range(6)} == {"b"}
    assert sorted(led(both) for _ in range(6)) == ["b"] * 3 + ["c"] * 3
    assert sorted(led(None) for _ in range(6)) == ["b"] * 2 + ["c"] * 2 + ["plain"] * 2


def test_without_a_backend_service_to_https() -> None:
    decision = Router((), "", 8443).route(head(b"a.test"), b"/")
    assert isinstance(decision, proxy_rules.Redirect)
    assert decision.location(b"http", b"a.test", b"/") == b"https://a.test:8443/"


HOSTS = [b"a.x.y", b"A.X.y:80", b"b.a.x.y.", b"x.y", b".x.y", b"a..y", b"[::1]", b""]
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c/d/e", "/ab", "//", "//a", "/a//b", "/b"]


@st.composite
def listeners(draw: st.DrawFn) -> list[Rule]:
    """Rules that meet each other often."""
    made = []
    for index in range(draw(st.integers(0, 12))):
        path = draw(st.sampled_from(PATHS))
        where = {"path": path} if draw(st.booleans()) else {"url": path}
        methods = draw(st.sampled_from([(), (), ("GET",), ("PUT", "GET")]))
        fields = draw(st.sampled_from([
            (), (), (Condition("x"),), (Condition("X", ("1",)), Condition("y")),
            (Condition("y"), Condition("x", ("2", "1"))), (Condition("x", ("1*",)),),
        ]))  # fmt: skip
        made.append(
            Rule(f"r{index}", "web", f"s{index}", draw(st.sampled_from(["", "*.y", "*.x.y", "a.X.y", "*.a.x.y"])),
                 **where, methods=methods, headers=fields, priority=draw(st.sampled_from([0, 0, 0, 1, 2, 9999])))
        )  # fmt: skip
    return made


@settings(max_examples=400, deadline=None)
@given(
    listeners(),
    st.sampled_from([b"GET", b"PUT", b"POST"]),
    st.sampled_from([b"", b"X: 1\r\n", b"Y: 1\r\nX: 1\r\n", b"X: 2\r\nX: 1\r\nY:\r\n"]),
    st.sampled_from([0, 8]),
)
def test_what_is_found_is_what_one_by_one_would_find(
    made: list[Rule], method: bytes, fields: bytes, indexed: int
) -> None:
    """For each host and path, twice: what was looked up before is remembered. With places indexed, and not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy_rules, "INDEXED", indexed)
        tested = Router(made, "default")
    for host in HOSTS * 2:
        for path in PATHS:
            request = head(host, path.encode(), fields, method)

            def holds(rule: Rule, request: RequestHead = request) -> bool:
                asked = Conditions.of(rule)
                return asked is None or asked.hold(request, request.target)

            wanted = first(made, host_name(host), path, holds)
            found = tested.route(request, request.target)
            assert service(found) == (wanted.backend_service if wanted else "default"), (host, path)
            assert found is not None
            assert found.rule == (wanted.name if wanted else "")


def test_thousands_of_rules_in_one_place_are_told_apart() -> None:
    """By what each lists the values of; only those that a request may fulfil are asked."""
    rules = [
        *(Rule(f"h{n}", "web", f"h{n}", headers=(Condition("X-Tenant", (f"t{n}", f"u{n}")),)) for n in range(3000)),
        *(Rule(f"q{n}", "web", f"q{n}", queries=(Condition("t", (f"{n}",)), Condition("z"))) for n in range(3000)),
        *(Rule(f"c{n}", "web", f"c{n}", cookies=(Condition("t", (f"{n}",)),)) for n in range(3000)),
        Rule("m", "web", "m", methods=("PUT", "POST")),
        Rule("p", "web", "p", headers=(Condition("X-Tenant", ("t*9",)),)),
        Rule("r", "web", "r", priority=1, queries=(Condition("t", ("7",)),), cookies=(Condition("all"),)),
    ]
    made = Router(rules, "default")
    asked = [
        (b"/", b"X-Tenant: t2999\r\n", b"GET", "h2999"),
        (b"/", b"X-Tenant: u5\r\n", b"GET", "h5"),
        (b"/", b"X-Tenant: t70009\r\n", b"GET", "p"),
        (b"/?t=7&z", b"", b"GET", "q7"),
        (b"/?t=7&z", b"Cookie: all=1\r\n", b"GET", "r"),
        (b"/?t=7", b"", b"GET", "default"),
        (b"/?t=x", b"Cookie: t=7\r\n", b"GET", "c7"),
        (b"/", b"", b"PUT", "m"),
        (b"/", b"", b"GET", "default"),
    ]
    for target, fields, method, wanted in asked:
        request = head(b"h", target, fields, method)
        assert service(made.route(request, target)) == wanted
    (place,) = made._domains[b""].at(b"/")
    assert isinstance(place, proxy_rules._Index)
    request = head(b"h", b"/?t=7&t=7&z", b"X-Tenant: t2999\r\n")
    assert len(place.candidates(request, request.target)) == 4  # p, r, and those of t2999 and of 7


def test_hosts_and_paths_without_end_cost_little() -> None:
    """Each rule has two segments and three labels: no request is looked at any further."""
    made = Router([Rule("r", "web", "r", "a.b.c", "/x/y"), Rule("w", "web", "w", "*.b.c", "/x")], "default")
    nodes = made.route(head(b"q.b.c", b"/x" + b"/y" * 4000), b"/x" + b"/y" * 4000)
    assert service(nodes) == "w"
    long = b"a." * 120 + b"aaaaaaa.b.c"
    assert ask(made, long, b"/x") == "w"
    assert ask(made, b"a" + long + b"c", b"/x") == "default"  # 254 characters are no name


def test_no_more_hosts_are_remembered_than_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_rules, "HOSTS", 3)
    made = router()
    for _ in range(2):
        for number in range(10):
            assert ask(made, b"h%d.example.com" % number, b"/") == "wild"
            assert len(made._hosts) <= 3
    assert ask(made, b"a" * 300, b"/") == "default"
    assert b"a" * 300 not in made._hosts


def test_host_names() -> None:
    assert [host_name(h) for h in (b"A.b:80", b"a.", b"[::1]:80", b"[::1]", b"")] == ["a.b", "a", "[::1]", "[::1]", ""]


@pytest.mark.parametrize(
    ("target", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b?c=../%2e", b"/a/b?c=../%2e"),
        (b"/%61%2Db", b"/a-b"),
        (b"/a%2fb%c3%A9", b"/a%2Fb%C3%A9"),
        (b"/%2541", b"/%2541"),  # decoded once
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/%2e%2E/c", b"/c"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/a//b/../c", b"/a//c"),
        (b"/...", b"/..."),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a?b\\c", b"/a?b\\c"),
        (b"*", b"*"),
    ],
)
def test_paths_have_one_normal_form(target: bytes, normal: bytes) -> None:
    """RFC 3986 §6.2.2."""
    assert normal_target(target) == normal
    assert normal_target(normal) == normal


@pytest.mark.parametrize(
    "target",
    [
        b"/a\\b",
        b"/%00",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/..",
        b"/a/../..",
        b"/%2e%2e/x",
        b"/a%2F..%2Fb",
        b"/a%5c..",
        b"/x/..%2f",
    ],
)
def test_ambiguous_paths_are_refused(target: bytes) -> None:
    with pytest.raises(Refused) as caught:
        normal_target(target)
    assert caught.value.code is Code.PATH
