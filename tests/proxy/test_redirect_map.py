"""Redirect maps in the L7 tier: look-up, where clients are sent, and beside other rules."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import from_dict
from core.model import Condition, HeaderChange, RedirectMap, Rule
from core.redirects import entries, lead
from core.resolve import l7_listeners
from core.rules import first
from core.shaping import RateLimit
from proxy import redirect_map as module
from proxy.actions import Decision, Forward, Sent
from proxy.conditions import Conditions
from proxy.demands import Demands
from proxy.head import read_request
from proxy.message import RequestHead
from proxy.names import host_name
from proxy.redirect_map import Table
from proxy.rules import Router
from tests.proxy.support import Backend, free_port, model, proxy

MAP = RedirectMap(
    "m",
    entries="""
# comment /c /d
/old /new
/query /new?x=1#top
/index.php?id=1 /one
/index.php /index
shop.example/old https://shop.example/spring 302
shop.example/index.php?id=1 /shop-one\t308
/last //away""",
)


def head(host: bytes, target: bytes, fields: bytes = b"") -> RequestHead:
    found = read_request(b"GET %b HTTP/1.0\r\n%b%b\r\n" % (target, b"Host: %b\r\n" % host * bool(host), fields))
    assert found is not None
    return found


def router(*rules: Rule, made: RedirectMap = MAP) -> Router:
    return Router(rules, "app", tables=(Table.of(made),))


def location(decision: Decision, host: bytes = b"h", scheme: bytes = b"http") -> tuple[int, str]:
    assert isinstance(decision, Sent)
    return decision.status(b"GET"), decision.location(scheme, host, b"").decode()


@pytest.mark.parametrize(
    ("host", "target", "status", "to"),
    [
        (b"h", b"/old", 301, "http://h/new"),
        (b"h:81", b"/old?a=1&b", 301, "http://h:81/new?a=1&b"),
        (b"h", b"/query?a", 301, "http://h/new?x=1&a#top"),
        (b"h", b"/query", 301, "http://h/new?x=1#top"),
        (b"h", b"/index.php?id=1", 301, "http://h/one"),
        (b"h", b"/index.php?id=2", 301, "http://h/index?id=2"),
        (b"Shop.Example.:81", b"/old?q", 302, "https://shop.example/spring?q"),
        (b"shop.example", b"/index.php?id=1", 308, "http://shop.example/shop-one"),
        (b"shop.example", b"/index.php?id=2", 301, "http://shop.example/index?id=2"),
        (b"[::1]:80", b"/old", 301, "http://[::1]:80/new"),
        (b"h", b"/last", 301, "http://h//away"),
    ],
    ids=range(11),
)
def test_where_a_request_is_sent(host: bytes, target: bytes, status: int, to: str) -> None:
    made = router(Rule("r", "web", redirect_map="m"))
    assert location(made.route(head(host, target), target), host) == (status, to)


@pytest.mark.parametrize(
    "target", [b"/", b"/ol", b"/old/", b"/OLD", b"/old%20", b"/new", b"/c", b"#", b"*", b"/index.php2", b"/moved?"]
)
def test_other_requests_are_for_the_other_rules(target: bytes) -> None:
    made = router(Rule("r", "web", redirect_map="m"))
    decision = made.route(head(b"h", b"/")._replace(target=target), target)
    assert isinstance(decision, Forward)
    assert decision.service == "app"


def test_a_query_is_dropped_where_the_map_says_so_and_its_status_counts() -> None:
    made = router(Rule("r", "web", redirect_map="m"), made=replace(MAP, keep_query=False, status=307))
    assert location(made.route(head(b"h", b"/query?a"), b"/query?a")) == (307, "http://h/new?x=1#top")
    assert location(made.route(head(b"shop.example", b"/old?a"), b"/old?a"))[0] == 302


def test_a_map_stands_among_other_rules() -> None:
    rules = [
        Rule("plain", "web", "plain", url="/"),
        Rule("map", "web", redirect_map="m", response_headers=(HeaderChange("X-Old", value="1"),)),
        Rule("beta", "web", redirect_map="m", headers=(Condition("X-Beta", ("1",)),)),
        Rule("exact", "web", "exact", path="/query"),
    ]
    made = router(*rules)
    found = made.route(head(b"h", b"/old"), b"/old")
    assert isinstance(found, Sent)
    assert (found.rule, found.lines) == ("map", b"X-Old: 1\r\n")
    assert made.route(head(b"h", b"/old", b"X-Beta: 1\r\n"), b"/old").rule == "beta"  # type: ignore[union-attr]
    assert made.route(head(b"h", b"/else"), b"/else").rule == "plain"  # type: ignore[union-attr]
    assert made.route(head(b"h", b"/query"), b"/query").rule == "exact"  # type: ignore[union-attr]
    ahead = router(*rules[:1], replace(rules[1], priority=1), rules[3])
    assert ahead.route(head(b"h", b"/query"), b"/query").rule == "map"  # type: ignore[union-attr]


def test_what_a_rule_demands_is_demanded() -> None:
    rule = Rule("r", "web", redirect_map="m", rate_limits=(RateLimit(1.0),))
    found = router(rule).route(head(b"h", b"/old"), b"/old")
    assert isinstance(found, Sent)
    assert found.demands == Demands.of(rule, None)
    assert found.demands is not None


def test_many_rules_of_maps_in_one_place() -> None:
    """So many that they are indexed by what else they ask."""
    rules = [Rule(f"r{n}", "web", redirect_map="m", headers=(Condition("X-Site", (str(n),)),)) for n in range(20)]
    made = router(*rules)
    assert made.route(head(b"h", b"/old", b"X-Site: 7\r\n"), b"/old").rule == "r7"  # type: ignore[union-attr]
    assert isinstance(made.route(head(b"h", b"/else", b"X-Site: 7\r\n"), b"/else"), Forward)


PATHS, HOSTS = st.sampled_from(["/", "/a", "/b", "/a/b", "/a.b"]), st.sampled_from(["", "h", "h.x"])
QUERIES = st.sampled_from(["", "x", "x=1"])
KEYS = st.builds(lambda host, path, query: f"{host}{path}{query and '?' + query}", HOSTS, PATHS, QUERIES)
RULE = st.builds(
    lambda url, asks, named, priority: Rule(
        "", "web", "" if named else "app", url=url, redirect_map="m" if named else "",
        headers=(Condition("X-A"),) if asks else (), priority=priority,
    ),
    PATHS, st.booleans(), st.booleans(), st.sampled_from([0, 0, 1]),
)  # fmt: skip


@given(st.lists(KEYS, unique=True), st.lists(st.tuples(HOSTS, PATHS, QUERIES)), st.lists(RULE, max_size=5))
def test_what_is_found_is_what_a_dictionary_says(
    sources: list[str], asked: list[tuple[str, str, str]], rules: list[Rule]
) -> None:
    """And the rules that ask a map have their place in the order that is defined."""
    text = "\n".join(f"{source} /to{number}" for number, source in enumerate(sources))
    by_source = {each.source: each for each in entries(text)}
    table = Table.of(RedirectMap("m", entries=text))
    rules = [replace(rule, name=f"r{number}") for number, rule in enumerate(rules)]
    made = Router(rules, "default", tables=(table,))
    for host, path, query in asked:
        target = f"{path}{query and '?' + query}".encode()
        at, wanted = table.find(host.encode(), target), lead(by_source, host, path, query)
        assert (table.entry(at) if at >= 0 else None) == wanted
        request = head(host.encode(), target)

        def holds(rule: Rule, request: RequestHead = request, wanted: object = wanted) -> bool:
            conditions = Conditions.of(rule)
            return (not rule.redirect_map or wanted is not None) and (
                conditions is None or conditions.hold(request, request.target)
            )

        rule = first(rules, host_name(request.host), path, holds)
        decision = made.route(request, target)
        assert decision is not None
        assert decision.rule == (rule.name if rule is not None else "")
        assert isinstance(decision, Sent) is bool(rule is not None and rule.redirect_map)


def test_a_large_map() -> None:
    draw = random.Random(3)
    paths = [f"/{draw.getrandbits(80):x}" for _ in range(20_000)]
    table = Table.of(RedirectMap("m", entries="\n".join(f"{path} /n{n}" for n, path in enumerate(paths))))
    assert all(
        table.entry(table.find(b"h", path.encode()))[1:3] == (path, f"/n{n}") for n, path in enumerate(paths[:999])
    )
    assert all(table.find(b"h", path.encode()) >= 0 for path in paths)
    assert all(table.find(b"h", path.encode() + b"x") < 0 for path in paths)
    assert table.size_bytes <= 16 * len(paths), "a small part of the text"


def test_a_table_is_filled_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN", 2)
    table = Table(MAP)
    assert sum(1 for _ in table.fill()) == 3


async def test_clients_are_sent_on_and_changes_take_effect() -> None:
    """On one connection, beside what the fast lane forwards; a table that has not changed stays."""
    async with Backend().running() as backend:
        made = replace(
            model(free_port(), [backend.port], rules=[Rule("moved", "web", redirect_map="m")]),
            redirect_maps={"m": MAP},
        )
        async with proxy(made) as l7:
            client = await l7.connect()
            assert (await client.ask("/else"))[0] == 200
            assert (await client.ask("/old?q=1"))[0] == 301
            assert (await client.ask("/else"))[0] == 200
            assert [(await l7.record(3), each.way, each.status)[1:] for each in l7.records] == [
                (("", "app"), 200), (("moved", ""), 301), (("", "app"), 200),
            ]  # fmt: skip
            (table,) = l7.worker._tables.values()
            await l7.worker.apply(replace(made, listeners=dict(made.listeners)))
            assert list(l7.worker._tables.values()) == [table]
            await l7.worker.apply(replace(made, redirect_maps={"m": replace(MAP, entries="/else /old")}))
            assert (await client.ask("/old"))[0] == 200
            assert (await client.ask("/else"))[0] == 301
            await client.close()
            await l7.worker.apply(replace(made, rules={}))
            assert l7.worker._tables == {}


def test_a_map_named_twice_is_held_once() -> None:
    made = from_dict(
        {
            "instances": [{"name": "i"}],
            "redirect_maps": [{"name": "m", "entries": "/a /b"}],
            "listeners": [
                {"name": name, "instance": "i", "protocol": "http", "port": port}
                for name, port in (("one", 80), ("two", 81))
            ],
            "rules": [
                {"name": "r1", "listener": "one", "redirect_map": "m"},
                {"name": "r2", "listener": "one", "redirect_map": "m", "url": "/x"},
                {"name": "r3", "listener": "two", "redirect_map": "m"},
            ],
        }
    )
    assert [[each.name for each in listener.maps] for listener in l7_listeners(made)] == [["m"], ["m"]]
