"""Which part of a split a request goes to: what it carries, who sends it, whose turn it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import Condition, Rule, Share, StickySession
from proxy.actions import Forward
from proxy.head import read_request
from proxy.message import RequestHead
from proxy.rules import Router
from proxy.split import Split, split_of
from proxy.sticky import Seal, Sticky
from tests.proxy.support import Backend, free_port, model, proxy, with_group, with_service

CLIENTS = [b"10.%d.%d.7" % divmod(number, 256) for number in range(4000)]
ALWAYS, NEVER = Condition("X-Canary", ("always",)), Condition("X-Canary", ("never",))


def head(*lines: bytes, target: bytes = b"/") -> RequestHead:
    found = read_request(b"\r\n".join((b"GET %b HTTP/1.1" % target, b"Host: h", *lines, b"", b"")))
    assert found is not None
    return found


def split(by: str = "", **weights: int) -> Split:
    shares = [Share(name, weight) for name, weight in weights.items()]
    return split_of([Forward(share.backend_service) for share in shares], shares, by)


def chosen(by: Split) -> dict[bytes, str]:
    return {client: by.of(client).service for client in CLIENTS}


def test_parts_are_kept_from_the_first_request_on() -> None:
    made = split(a=75, b=25, c=0)
    first = [made.next().service for _ in range(8)]
    assert (first.count("a"), first.count("b")) == (6, 2)
    assert first[:4].count("b") == 1


def test_a_canary_grows_without_losing_anybody() -> None:
    """At every step; and back again, those who came last leave first."""
    inside: set[bytes] = set()
    for percent in (0, 1, 5, 10, 25, 50, 90, 100):
        now = {client for client, name in chosen(split("source", v1=100 - percent, v2=percent)).items() if name == "v2"}
        assert inside <= now
        assert len(now) == pytest.approx(len(CLIENTS) * percent / 100, abs=4 * (len(CLIENTS) * 0.25) ** 0.5)
        inside = now
    assert inside == set(CLIENTS)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=5), st.data())
def test_clients_move_only_to_what_has_grown(weights: list[int], data: st.DataObject) -> None:
    """Parts whose weight grows in proportion to another's may take clients from that one, and never the other way."""
    after = data.draw(st.lists(st.integers(0, 100), min_size=len(weights), max_size=len(weights)))
    if not any(weights) or not any(after):
        return
    names = [f"s{number}" for number in range(len(weights))]
    old, new = (dict(zip(names, each, strict=True)) for each in (weights, after))
    before, now = split("source", **old), split("source", **new)
    for client in CLIENTS[:200]:
        left, came = before.of(client).service, now.of(client).service
        assert new[came] > 0
        assert left == came or new[came] * old[left] > new[left] * old[came]


@settings(max_examples=30)
@given(st.permutations(["v1", "v2", "v3"]))
def test_the_order_of_the_parts_does_not_matter(names: list[str]) -> None:
    weights = {"v1": 60, "v2": 30, "v3": 10}
    wanted = split("source", **weights)
    found = split("source", **{name: weights[name] for name in names})
    assert all(wanted.of(client).service == found.of(client).service for client in CLIENTS[:300])


def test_who_was_chosen_is_the_same_for_ever() -> None:
    """Nodes of other releases, and processes of other seeds, say so too."""
    made = split("source", v1=90, v2=10)
    assert [each.decode() for each in CLIENTS[:40] if made.of(each).service == "v2"] == [
        "10.0.12.7", "10.0.17.7", "10.0.23.7", "10.0.28.7", "10.0.39.7",
    ]  # fmt: skip


def test_rules_of_their_own_choose_like_the_service_that_they_come_from() -> None:
    plain, own = split("source", v1=50, v2=50), split("source", **{"v1@rule": 50, "v2@rule": 50})
    assert all(own.of(each).service == f"{plain.of(each).service}@rule" for each in CLIENTS[:100])


@pytest.mark.parametrize(
    ("by", "lines", "target", "key"),
    [
        ("source", [], b"/", b""),
        ("path", [], b"/a?b", b"/a"),
        ("header:X-User", [b"x-user: 7"], b"/", b"7"),
        ("header:X-User", [], b"/", b""),
        ("cookie:uid", [b"Cookie: a=b; uid=7"], b"/", b"7"),
        ("cookie:uid", [b"Cookie: uid="], b"/", b""),
    ],
    ids=range(6),
)
def test_what_stands_for_a_client(by: str, lines: list[bytes], target: bytes, key: bytes) -> None:
    made = split(by, v1=50, v2=50)
    assert made.key(head(*lines, target=target), target) == key
    for client in CLIENTS[:50]:
        assert made.weighed(head(*lines, target=target), target, client) is made.of(key or client)


SHARES = (
    Share("v1", 100, (NEVER,), (Condition("canary", ("never",)),)),
    Share("v2", 0, (ALWAYS, Condition("X-Beta")), (Condition("canary", ("always", "on*")),)),
)


@pytest.mark.parametrize(
    ("lines", "service"),
    [
        ([], "v1"),
        ([b"X-Canary: always"], "v2"),
        ([b"x-canary: other"], "v1"),
        ([b"x-canary: other", b"X-Canary: always"], "v2"),
        ([b"X-Canary: always", b"Cookie: canary=never"], "v2"),
        ([b"X-Canary: never", b"Cookie: canary=always"], "v1"),
        ([b"X-Canary: maybe", b"Cookie: canary=always"], "v2"),
        ([b"Cookie: canary=online"], "v2"),
        ([b"Cookie: Canary=always"], "v1"),
        ([b"X-Beta: "], "v2"),
        ([b"X-Canary: never", b"X-Beta: 1"], "v1"),  # the first part's
    ],
    ids=range(11),
)
@pytest.mark.parametrize("by", ["", "source"])
def test_field_then_cookie_then_weight(lines: list[bytes], service: str, by: str) -> None:
    router = Router([Rule("r", "web", split=SHARES, split_by=by)], "")
    for client in CLIENTS[:4]:
        decision = router.route(head(*lines), b"/", client)
        assert isinstance(decision, Forward)
        assert (decision.service, decision.rule) == (service, "r")


def test_a_field_counts_more_than_the_server_that_a_client_has_and_that_more_than_the_hash() -> None:
    seal, servers = Seal(bytes(32), lambda: 1e9), {"v1": ("10.0.0.1", 80), "v2": ("10.0.0.2", 80)}
    stickies = {name: Sticky(seal) for name in servers}
    for name, sticky in stickies.items():
        sticky.update(StickySession(), [servers[name]])
    router = Router([Rule("r", "web", split=SHARES, split_by="source")], "", stickies=stickies)
    changes = stickies["v2"].cookie(servers["v2"], secure=False)
    assert changes is not None
    cookie = b"Cookie: " + changes.lines.partition(b": ")[2].partition(b";")[0]
    for lines, service in (([], "v1"), ([cookie], "v2"), ([cookie, b"X-Canary: never"], "v1")):
        decision = router.route(head(*lines), b"/", b"10.0.0.9")
        assert isinstance(decision, Forward)
        assert decision.service == service


def test_fields_that_tell_clients_apart_are_known_to_the_fast_lane() -> None:
    rules = [Rule("r", "web", split=SHARES, split_by="header:X-User"), Rule("s", "web", url="/s", split=SHARES)]
    assert set(Router(rules, "").varied) == {b"x-canary", b"x-beta", b"x-user"}


async def test_both_lanes_choose_by_the_clients_address_or_what_it_says() -> None:
    shares = (Share("v1", 50, (NEVER,)), Share("v2", 50, (ALWAYS,)))
    rules = [
        Rule("r", "web", split=shares, split_by="source"),
        Rule("c", "web", url="/c", split=shares, split_by="cookie:u"),
    ]
    asked = split("source", v1=50, v2=50)
    mine = asked.of(b"127.0.0.1").service
    wanted = [("/", b"", "r", mine)] * 4
    wanted += [("/c", b"Cookie: u=%b\r\n" % each, "c", asked.of(each).service) for each in (b"a", b"b", b"c", b"d")]
    wanted += [("/", b"X-Canary: always\r\n", "r", "v2"), ("/", b"X-Canary: never\r\n", "r", "v1")]
    wanted += [("/c", b"", "c", mine)]
    async with Backend().running() as one, Backend().running() as two:
        made = with_group(model(free_port(), [one.port], rules=rules), "g2", [two.port])
        made = with_service(with_service(made, "v1"), "v2", server_group="g2")
        async with proxy(made) as l7:
            client = await l7.connect()
            for number, (path, fields, rule, service) in enumerate(wanted, 1):
                await client.ask(path, fields)
                assert (await l7.record(number)).way == (rule, service)
            await client.close()
