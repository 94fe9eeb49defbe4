"""Rates from pairs of reports: by the node's clock, never negative, never made up."""

from __future__ import annotations

from typing import Any

import pytest

from control.rates import Fill, Flow, Health, Meter, Meters, Picture, Reason


def row(**changes: int) -> dict[str, int]:
    return (
        dict.fromkeys(("packets_in", "bytes_in", "packets_out", "bytes_out", "sessions_made", "denied", "sessions"), 0)
        | changes
    )


def facts(at_s: float, **changes: Any) -> dict[str, Any]:
    """What an L4 node reports."""
    return {
        "started": 1.0, "at_s": at_s, "counters": {}, "listeners": {}, "servers": {}, "health": [], "tables": {},
    } | changes  # fmt: skip


def test_rates_are_per_second_of_the_nodes_clock() -> None:
    meter = Meter()
    meter.feed(
        facts(10.0, listeners={"web": row(packets_in=100, bytes_in=1000, sessions_made=5, denied=1, sessions=7)})
    )
    after = row(
        packets_in=300,
        bytes_in=2000,
        packets_out=50,
        bytes_out=100,
        sessions_made=6,
        denied=3,
        over_connection_rate=1,
        sessions=9,
    )
    view = meter.feed(facts(12.0, listeners={"web": after}))
    assert view.listeners["web"] == Flow(
        packets_in=100, packets_out=25, bits_in=4000, bits_out=400, new=0.5, refused=1.5, sessions=9
    )
    assert view.total == view.listeners["web"]


def test_one_report_makes_no_rates() -> None:
    view = Meter().feed(facts(10.0, counters={"tx_session": 5}, listeners={"web": row(sessions=7)}))
    assert view.listeners["web"] == Flow(sessions=7)
    assert view.reasons == {"tx_session": Reason(5, None)}
    assert (view.packets, view.drops) == (None, None)


def test_a_report_seen_again_changes_nothing() -> None:
    meter = Meter()
    meter.feed(facts(10.0, counters={"tx_session": 0}))
    once = meter.feed(facts(11.0, counters={"tx_session": 8}))
    assert once.reasons["tx_session"].per_s == 8
    assert meter.feed(facts(11.0, counters={"tx_session": 8})) == once


def test_a_node_that_started_anew_has_no_rates_until_its_second_report() -> None:
    meter = Meter()
    meter.feed(facts(10.0, counters={"tx_session": 1000}))
    meter.feed(facts(11.0, counters={"tx_session": 2000}))
    reborn = meter.feed(facts(12.0, started=2.0, counters={"tx_session": 30}))
    assert reborn.reasons["tx_session"] == Reason(30, None)
    assert meter.feed(facts(13.0, started=2.0, counters={"tx_session": 40})).reasons["tx_session"] == Reason(40, 10)


def test_a_machine_that_booted_has_an_earlier_clock() -> None:
    meter = Meter()
    meter.feed(facts(10_000.0, counters={"tx_session": 1000}))
    meter.feed(facts(5.0, started=2.0, counters={"tx_session": 30}))
    assert meter.feed(facts(6.0, started=2.0, counters={"tx_session": 40})).reasons["tx_session"].per_s == 10


def test_a_listener_that_was_removed_and_added_counts_from_zero() -> None:
    meter = Meter()
    meter.feed(facts(10.0, listeners={"web": row(packets_in=1000), "mail": row()}))
    view = meter.feed(facts(11.0, listeners={"web": row(packets_in=30), "new": row(packets_in=4)}))
    assert view.listeners["web"].packets_in == 30
    assert view.listeners["new"].packets_in == 4
    assert "mail" not in view.listeners


def test_packets_are_all_verdicts_and_drops_some_of_them() -> None:
    meter = Meter()
    meter.feed(
        facts(0.0, counters={"tx_session": 0, "pass_local": 0, "drop_ttl": 0, "drop_no_real": 0, "event_warmed": 0})
    )
    view = meter.feed(
        facts(1.0, counters={"tx_session": 5, "pass_local": 4, "drop_ttl": 3, "drop_no_real": 2, "event_warmed": 100})
    )
    assert (view.packets, view.drops) == (14, 5)


def test_servers_have_what_is_counted_of_them() -> None:
    meter = Meter()
    meter.feed(facts(0.0, servers={"web": {"10.0.1.1:80": {"connections": 3}, "10.0.1.2:80": row(packets_out=10)}}))
    view = meter.feed(
        facts(1.0, servers={"web": {"10.0.1.1:80": {"connections": 4}, "10.0.1.2:80": row(packets_out=30)}})
    )
    assert view.servers["web", "10.0.1.1:80"] == Flow(connections=4)
    assert view.servers["web", "10.0.1.2:80"].packets_out == 20


def test_health_and_tables() -> None:
    health = [
        {"server": "10.0.1.1:53/tcp", "healthy": False, "why": "refused"},
        {"server": "10.0.1.1:53/udp", "healthy": True, "why": "answered"},
        {"server": "10.0.1.2:53/udp", "healthy": True, "why": "answered"},
    ]
    for entries in (health, health[::-1]):
        view = Meter().feed(facts(0.0, health=entries, tables={"sessions": {"4": {"used": 3, "size": 8}}}))
        assert view.health == {"10.0.1.1:53": Health(1, 1, "refused"), "10.0.1.2:53": Health(1, 0, "")}
    assert view.tables == {"sessions": {"4": Fill(3, 8)}}


def node(name: str, facts: dict[str, Any], step: str = "in step", role: str = "l4") -> dict[str, Any]:
    return {"role": role, "name": name, "step": step, "why": "", "listed": True, "facts": facts}


def feed(meters: Meters, *nodes: dict[str, Any]) -> Picture:
    return meters.feed({"version": 3, "nodes": list(nodes)}, lambda node: [node["why"]] if node["why"] else [])


def test_over_the_nodes_rates_add_up_and_sessions_do_not() -> None:
    meters = Meters()
    before = {"web": row(sessions=10)}
    feed(meters, node("l4-1", facts(0.0, listeners=before)), node("l4-2", facts(50.0, listeners=before)))
    picture = feed(
        meters,
        node("l4-1", facts(1.0, counters={"drop_ttl": 2}, listeners={"web": row(packets_in=10, sessions=10)})),
        node(
            "l4-2",
            facts(
                52.0, counters={"drop_ttl": 2}, listeners={"web": row(packets_in=10, sessions=12), "b": row(sessions=1)}
            ),
        ),
    )
    assert picture.version == 3
    together = picture.together
    assert (together.listeners["web"].packets_in, together.listeners["web"].sessions) == (15, 12)
    assert (together.total.packets_in, together.total.sessions) == (15, 13)
    assert together.reasons == {"drop_ttl": Reason(4, 3)}
    assert together.drops == 3


def test_a_servers_sessions_are_those_that_pass_a_node_and_add_up() -> None:
    first, second = ({"web": {"s:1": {"sessions": n, "connections": 9}}} for n in (3, 4))
    picture = feed(Meters(), node("l4-1", facts(0.0, servers=first)), node("l4-2", facts(0.0, servers=second)))
    assert picture.together.servers["web", "s:1"] == Flow(sessions=7, connections=9)


def test_health_over_the_nodes() -> None:
    up, down = ({"server": "s:1/tcp", "healthy": healthy, "why": why} for healthy, why in ((True, "ok"), (False, "no")))
    picture = feed(Meters(), node("l4-1", facts(0.0, health=[up])), node("l4-2", facts(0.0, health=[down])))
    assert picture.together.health == {"s:1": Health(2, 1, "no")}


@pytest.mark.parametrize(
    "other",
    [node("l7-1", {"counters": {"requests": 5}}, role="l7"), node("l4-9", {}), node("l4-1", facts(0.0), step="silent")],
    ids=["another tier", "never reported", "silent"],
)
def test_nodes_that_do_not_count_are_shown_without_rates(other: dict[str, Any]) -> None:
    picture = feed(Meters(), other)
    assert not picture.nodes[0].counts
    assert picture.nodes[0].name == other["name"]
    assert picture.together.packets is None
    assert picture.together.reasons == {}


def test_a_node_that_has_gone_is_forgotten() -> None:
    meters = Meters()
    feed(meters, node("l4-1", facts(0.0, counters={"tx_syn": 1})))
    feed(meters)
    picture = feed(meters, node("l4-1", facts(1.0, counters={"tx_syn": 2})))
    assert picture.nodes[0].view.reasons["tx_syn"].per_s is None
