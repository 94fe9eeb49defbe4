"""Requests a second: who goes through, who waits, who is refused, and what millions of keys cost."""

from __future__ import annotations

import os
import random

import pytest

from core.model import Instance, Listener, Model, Node, Protocol, RateLimit, Role, Rule
from proxy import rates
from proxy.admission import Case, Delay, Means, Refusal
from proxy.demands import Demands, Rated
from proxy.errors import Code
from proxy.head import read_request
from proxy.message import RequestHead
from proxy.origin import Origin
from proxy.rates import ROWS, SET, Clocks, Rate, Rates, client_address, client_prefix


def origin(client: bytes = b"192.0.2.1", *, trusted: bool = False) -> Origin:
    return Origin(client, b"http", b"80", trusted, b"l7-1")


def request(fields: bytes = b"", target: bytes = b"/") -> RequestHead:
    head = read_request(b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (target, fields))
    assert head is not None
    return head


class Played:
    """Requests of a rule with these limits, at times that the test says."""

    def __init__(self, *limits: RateLimit, of_listener: tuple[RateLimit, ...] = (), parts: int = 1) -> None:
        self.counted: list[str] = []
        self.now = 1000.0
        listener = Listener("web", "main", Protocol.HTTP, 80, rate_limits=of_listener)
        rule = Rule("r", "web", rate_limits=limits)
        nodes = {f"n{index}": Node(f"n{index}", Role.L7, f"10.0.0.{index}") for index in range(parts)}
        self.model = Model(nodes=nodes, listeners={"web": listener}, rules={"r": rule})
        self.rates = Rates()
        self.apply(self.model)
        demands = Demands.of(rule, Demands.of_listener(listener))
        assert demands is not None
        self.demands = demands

    def apply(self, model: Model) -> None:
        self.rates.update(model, {name: row for row, name in enumerate(rates.names(model))})

    def ask(self, at: float = 0.0, who: bytes = b"192.0.2.1", fields: bytes = b"", target: bytes = b"/") -> object:
        self.now = 1000.0 + at
        means = Means(lambda: self.now, self.count, self.rates)
        return Case(self.demands, request(fields, target), target, origin(who), means).go()

    def count(self, name: str, more: int = 1) -> None:
        self.counted += [name] * more

    def passed(self, times: int, at: float = 0.0, **options: bytes) -> int:
        """How many of so many pass at once."""
        return sum(self.ask(at, **options) is None for _ in range(times))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "at_once", "after_a_second"),
    [
        (RateLimit(10), 10, 10),  # a second's worth
        (RateLimit(10, burst=1), 1, 1),
        (RateLimit(10, burst=25), 25, 10),
        (RateLimit(0.5), 1, 0),
        (RateLimit(1000, burst=3), 3, 3),
    ],
    ids=str,
)
def test_a_burst_passes_and_then_the_rate(limit: RateLimit, at_once: int, after_a_second: int) -> None:
    played = Played(limit)
    assert played.passed(50) == at_once
    assert played.passed(50, at=1.0) == after_a_second


def test_who_comes_evenly_at_the_rate_is_never_refused() -> None:
    played = Played(RateLimit(7, burst=1))
    assert all(played.ask(number / 7) is None for number in range(5000))


@pytest.mark.parametrize("rate", [0.3, 4, 333.3])
def test_nobody_gets_more_than_the_rate_over_time(rate: float) -> None:
    played = Played(RateLimit(rate, burst=5))
    chance = random.Random(1)
    times = sorted(chance.uniform(0, 60) for _ in range(int(rate * 60 * 3)))
    passed = sum(played.ask(at) is None for at in times)
    assert rate * 60 * 0.8 <= passed <= rate * 60 + 5


def test_a_refusal_says_when_to_come_again_and_costs_nothing() -> None:
    played = Played(RateLimit(0.5, burst=1))
    assert played.ask() is None
    for _ in range(10):
        assert played.ask() == Refusal(Code.RATE, b"Retry-After: 2\r\n")
    assert played.ask(0.9) == Refusal(Code.RATE, b"Retry-After: 2\r\n")
    assert played.ask(1.9) == Refusal(Code.RATE, b"Retry-After: 1\r\n")
    assert played.ask(2.0) is None


def test_what_may_wait_waits_for_its_turn_and_no_longer_than_it_may() -> None:
    played = Played(RateLimit(2, burst=1, max_delay_s=1.0))
    verdicts = [played.ask() for _ in range(5)]
    assert verdicts[0] is None
    assert [round(each.seconds, 2) for each in verdicts[1:3] if isinstance(each, Delay)] == [0.5, 1.0]
    assert verdicts[3] == verdicts[4] == Refusal(Code.RATE, b"Retry-After: 2\r\n")
    assert played.counted == ["delayed_requests"] * 2
    assert played.ask(1.5) is None


def test_a_dry_run_counts_and_lets_everybody_through() -> None:
    played = Played(RateLimit(1, dry_run=True))
    assert played.passed(10) == 10
    assert played.counted == ["rate_limit_dry_runs"] * 9


def test_all_limits_let_it_through_or_none_counts_it() -> None:
    played = Played(RateLimit(5), RateLimit(2, key="source"), of_listener=(RateLimit(8),))
    assert played.passed(9) == 2
    assert played.passed(9, who=b"192.0.2.2") == 2
    assert played.passed(9, who=b"192.0.2.3") == 1  # the rule has had its five
    assert played.rates.of("listener web rate 0") is not None
    assert played.passed(9, 0.2) + played.passed(9, 0.2, who=b"192.0.2.9") == 1


@pytest.mark.parametrize(
    ("limit", "one", "same", "other"),
    [
        (RateLimit(1, key="source"), {}, {}, {"who": b"192.0.2.2"}),
        (RateLimit(1, key="source", prefix=24), {}, {"who": b"192.0.2.77"}, {"who": b"192.0.3.1"}),
        (RateLimit(1, key="source"), {"who": b"2001:db8::1"}, {"who": b"2001:db8::f:1"}, {"who": b"2001:db8:0:1::1"}),
        (RateLimit(1, key="source", prefix_v6=48), {"who": b"2001:db8::1"}, {"who": b"2001:db8:0:5::"},
         {"who": b"2001:db8:1::"}),
        (RateLimit(1, key="path"), {"target": b"/a?1"}, {"target": b"/a?2"}, {"target": b"/b"}),
        (RateLimit(1, key="header:X-Key"), {"fields": b"x-key: 1\r\n"}, {"fields": b"X-KEY: 1\r\n"},
         {"fields": b"X-Key: 2\r\n"}),
        (RateLimit(1, key="cookie:s"), {"fields": b"Cookie: s=1; t=2\r\n"}, {"fields": b"Cookie: t=3; s=1\r\n"},
         {"fields": b"Cookie: s=2\r\n"}),
    ],
    ids=["client", "prefix", "client-v6", "prefix-v6", "path", "field", "cookie"],
)  # fmt: skip
def test_each_key_is_counted_apart(
    limit: RateLimit, one: dict[str, bytes], same: dict[str, bytes], other: dict[str, bytes]
) -> None:
    played = Played(limit)
    assert (played.passed(2, **one), played.passed(2, **same), played.passed(2, **other)) == (1, 0, 1)  # type: ignore[arg-type]


def test_who_has_no_key_is_not_limited_by_it() -> None:
    played = Played(RateLimit(1, key="header:X-Key"))
    assert played.passed(5) == 5


def test_each_node_lets_its_part_through() -> None:
    played = Played(RateLimit(12), RateLimit(4, key="source"), parts=4)
    assert played.passed(5) == 1
    assert sum(played.passed(1, who=b"192.0.2.%d" % host) for host in range(2, 20)) == 2


def test_a_node_lets_no_more_than_its_part_through_over_time() -> None:
    played = Played(RateLimit(12, burst=4), parts=4)
    assert sum(played.ask(number / 100) is None for number in range(1000)) in (30, 31)


def test_a_changed_limit_goes_on_and_a_new_one_begins_afresh() -> None:
    played = Played(RateLimit(2, burst=2))
    played.passed(2)
    quicker = Rule("r", "web", rate_limits=(RateLimit(4, burst=2),))
    played.apply(Model(listeners=played.model.listeners, rules={"r": quicker}))
    assert isinstance(played.ask(0.74), Refusal)  # what was taken at the old rate is still ahead
    assert played.ask(0.76) is None
    played.apply(Model(listeners=played.model.listeners))
    played.apply(played.model)
    assert played.passed(5, 0.76) == 2


def test_workers_count_together() -> None:
    fd = rates.memory()
    limits = (Rated("shared", RateLimit(10)), Rated("keyed", RateLimit(4, key="source")))
    workers = [[Rate(clocks, each, 7, 1) for each in limits] for clocks in (Clocks(os.dup(fd)), Clocks(fd))]
    passed = [0, 0]
    for number in range(40):
        for index, rate in enumerate(workers[number % 2]):
            at = rate.at(request(), b"/", origin(), 5.0)
            if not rate.wait_s(at, 5.0):
                rate.take(at, 5.0)
                passed[index] += 1
    assert passed == [10, 4]


def test_a_flood_of_keys_forgets_few_and_frees_nobody_who_comes_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times as many keys as there are places, while one client goes on asking for five times what it may."""
    monkeypatch.setattr(rates, "KEYED", 1024)
    clocks = Clocks()
    rate = Rate(clocks, Rated("keyed", RateLimit(10, key="source", burst=10)), -1, 1)
    passed, span_s, each_s = 0, 20.0, 0.001
    for number in range(int(span_s / each_s)):
        now = 50 + number * each_s
        flooding = rate.at(request(), b"/", origin(b"198.51.100.%d" % number), now)
        assert ROWS <= flooding < ROWS + 1024
        rate.take(flooding, now)
        if not number % 20:
            mine = rate.at(request(), b"/", origin(), now)
            if not rate.wait_s(mine, now):
                rate.take(mine, now)
                passed += 1
    assert passed <= 10 * span_s + 10
    assert clocks.forgotten < 100  # a key that came once is free again in a tenth of a second


def test_who_is_driven_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "KEYED", SET)
    clocks = Clocks()
    places = []
    for number in range(SET):
        places.append(clocks.place(b"x", b"%d" % number, 1.0))
        clocks.times[places[-1]] = 100.0 + number
    assert sorted(places) == list(range(ROWS, ROWS + SET))
    assert clocks.place(b"x", b"new", 1.0) == places[0]  # the one that would be free first
    assert clocks.forgotten == 1
    assert clocks.times[places[0]] == 0.0
    assert clocks.place(b"x", b"3", 1.0) == places[3]


def test_the_places_of_two_limits_are_apart() -> None:
    clocks = Clocks()
    assert clocks.place(b"one", b"k", 1.0) != clocks.place(b"two", b"k", 1.0)
    assert clocks.place(b"one", b"k", 1.0) == clocks.place(b"one", b"k", 2.0)


@pytest.mark.parametrize(
    ("fields", "trusted", "address"),
    [
        (b"X-Forwarded-For: 203.0.113.9\r\n", False, b"192.0.2.1"),
        (b"X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n", True, b"203.0.113.9"),
        (b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 203.0.113.9 \r\n", True, b"203.0.113.9"),
        (b"", True, b"192.0.2.1"),
    ],
)
def test_whose_address_counts(fields: bytes, trusted: bool, address: bytes) -> None:
    assert client_address(request(fields), origin(trusted=trusted)) == address


def test_an_address_that_is_none_is_its_own_prefix() -> None:
    assert client_prefix(b"unknown", 24, 64) == b"unknown"
    assert client_prefix(b"fe80::1%eth0", 24, 64) == b"fe80::/64"


def test_an_instance_without_limits_needs_no_rows() -> None:
    model = Model(instances={"main": Instance("main")}, listeners={"web": Listener("web", "main", Protocol.HTTP, 80)})
    assert rates.names(model) == []
    assert Demands.of_listener(model.listeners["web"]) is None
    assert Demands.of(Rule("r", "web"), None) is None
