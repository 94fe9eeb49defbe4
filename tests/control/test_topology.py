"""The picture of the cluster: rates from tables of reports, states of servers, links, bounds."""

from __future__ import annotations

import time
from typing import Any

import pytest

from control.reconcile import NodeStatus, Step
from control.sight import NONE, Sight
from control.topology import SERVERS_MOST, document
from control.window import Window
from core.config import from_dict
from core.model import Model
from tests.control.api_user import SITE, User

CLUSTER: dict[str, Any] = {
    "nodes": [
        {"name": "l4-1", "role": "l4", "address": "10.0.0.1"},
        {"name": "l4-2", "role": "l4", "address": "10.0.0.2"},
        {"name": "l7-1", "role": "l7", "address": "10.0.0.11"},
    ],
    "server_groups": [
        {"name": "g", "servers": [{"address": "10.0.1.1", "port": 80},
                                  {"address": "10.0.1.2", "port": 80, "weight": 0}]},
        {"name": "t", "servers": [{"address": "10.0.2.1", "port": 25}, {"address": "10.0.2.2", "port": 25}]},
    ],
    "backend_services": [
        {"name": "b", "protocol": "http", "server_group": "g"},
        {"name": "mails", "protocol": "tcp", "server_group": "t"},
    ],
    "instances": [{"name": "i", "vips": ["192.0.2.10"]}, {"name": "j", "type": "nlb", "vips": ["192.0.2.11"]}],
    "listeners": [
        {"name": "web", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"},
        {"name": "mail", "instance": "j", "protocol": "tcp", "port": 25, "backend_service": "mails"},
    ],
}  # fmt: skip


def l4_row(each: int, sessions: int = 0) -> dict[str, int]:
    names = ("packets_in", "packets_out", "bytes_in", "bytes_out", "sessions_made")
    return {**dict.fromkeys(names, each), "sessions": sessions}


def l4_facts(at_s: float, each: int, **more: Any) -> dict[str, Any]:
    """Of a node on which `each` of everything has passed for `mail`, and a tenth of it for `web`."""
    return {
        "started": 1.0, "at_s": at_s, "sessions": 12, "health": [],
        "listeners": {"mail": l4_row(each, 7), "web": l4_row(each // 10, 5)},
        "servers": {"mail": {"10.0.2.1:25": l4_row(each, 7)}, "web": {"10.0.0.11:80": l4_row(each // 10)}},
    } | more  # fmt: skip


def l7_facts(at_s: float, requests: int, **more: Any) -> dict[str, Any]:
    row = {"statuses": [0, 0, requests, 0, 0, requests // 10], "buckets": [requests]}
    listener = {**row, "open": 3, "tls": [0, 0, 0], "moved": [10 * requests, 100 * requests, requests // 2]}
    upstream = {"service": "b", "server": "10.0.1.1:80", "requests": requests, "failures": 1, "errors": requests // 10,
                "active": 2, "idle": 3, "ejected": 0}  # fmt: skip
    services = {"b": {**row, "moved": [10 * requests, 100 * requests]}}
    traffic = {"started": 1.0, "at_s": at_s, "listeners": {"web": listener}, "services": services}
    return {"traffic": traffic, "upstreams": [upstream], "health": []} | more


def status(role: str, name: str, facts: Any, step: Step = Step.IN_STEP) -> NodeStatus:
    return NodeStatus(role, name, step, "", 8, 0.1, facts, True)


def picture(*times: list[NodeStatus], model: Model | None = None, **how: Any) -> Any:
    """After reports at several times."""
    window = Window()
    for statuses in times:
        window.take(statuses)
    return document(8, 1.0, Sight(model or from_dict(CLUSTER), times[-1], window), **how)


def two(*, step: Step = Step.IN_STEP) -> Any:
    """What two L4 nodes and an L7 node make of 10 s."""
    return picture(
        *(
            [
                status("l4", "l4-1", l4_facts(at, int(100 * at))),
                status("l4", "l4-2", l4_facts(1000 + at, int(300 * at)), step),
                status("l7", "l7-1", l7_facts(50 + at, int(20 * at))),
            ]
            for at in (0, 5, 10)
        )
    )


def named(rows: list[Any], name: str) -> Any:
    return next(row for row in rows if row["name"] == name)


def test_a_listener_is_counted_at_its_own_tier() -> None:
    found = two()
    mail, web = named(found["listeners"], "mail"), named(found["listeners"], "web")
    assert (mail["tier"], web["tier"]) == ("l4", "l7")
    assert mail["rates"] == {
        **NONE, "bytes_in_per_s": 400, "bytes_out_per_s": 400, "packets_in_per_s": 400, "connections_per_s": 400,
        "connections": 7,
    }, "sessions are shared by the nodes"  # fmt: skip
    assert web["rates"] == {
        **NONE, "bytes_in_per_s": 200, "bytes_out_per_s": 2000, "connections_per_s": 10, "connections": 3,
        "requests_per_s": 22, "errors_per_s": 2,
    }  # fmt: skip
    assert web["groups"] == [{"kind": "server_groups", "name": "g"}]
    assert found["clients"] == {
        "bytes_in_per_s": 600, "bytes_out_per_s": 2400, "connections_per_s": 410, "requests_per_s": 22,
        "connections": 10,
    }, "what http brings to the L4 nodes is not counted twice"  # fmt: skip


def test_what_is_not_counted_or_not_known_yet_is_null() -> None:
    once = picture([status("l4", "l4-1", l4_facts(0, 100)), status("l7", "l7-1", l7_facts(0, 20))])
    mail = named(once["listeners"], "mail")["rates"]
    assert mail == {**NONE, "connections": 7}
    assert named(once["listeners"], "web")["rates"] == {**NONE, "connections": 3}
    assert named(once["nodes"], "l7-1")["sessions"] is None
    assert named(once["nodes"], "l4-1")["sessions"] == 12
    assert once["clients"]["bytes_in_per_s"] is None


def test_a_silent_node_carries_nothing() -> None:
    found = two(step=Step.SILENT)
    assert named(found["listeners"], "mail")["rates"]["bytes_in_per_s"] == 100
    assert named(found["nodes"], "l4-2")["rates"] == NONE


def test_a_node_that_began_anew_counts_from_then_on() -> None:
    reports = [l4_facts(0, 1000), l4_facts(5, 2000), l4_facts(7, 10, started=2.0), l4_facts(9, 30, started=2.0)]
    found = picture(*([status("l4", "l4-1", each)] for each in reports))
    assert named(found["listeners"], "mail")["rates"]["bytes_in_per_s"] == 10


def test_counters_of_the_process_before_are_not_compared_with() -> None:
    """Its first report comes between two looks, with a clock that went on and counters that are higher already."""
    window = Window()
    for at in (0, 5):
        window.take([status("l4", "l4-1", l4_facts(at, 10))])
    reborn = status("l4", "l4-1", l4_facts(11, 500, started=2.0))
    found = document(8, 1.0, Sight(from_dict(CLUSTER), [reborn], window))
    assert named(found["listeners"], "mail")["rates"] == {**NONE, "connections": 7}


def test_rates_are_of_the_last_seconds_alone() -> None:
    reports = [l4_facts(at, 0 if at < 50 else 100 * (at - 50)) for at in range(60)]
    found = picture(*([status("l4", "l4-1", each)] for each in reports))
    assert named(found["listeners"], "mail")["rates"]["packets_in_per_s"] == 100


def test_reports_that_are_brought_up_to_date_in_place() -> None:
    window, facts = Window(), l4_facts(0, 0)
    for at in (0.0, 3.0, 6.0):
        facts["at_s"] = at
        for row in (
            *facts["listeners"].values(),
            *(each for rows in facts["servers"].values() for each in rows.values()),
        ):
            row.update(l4_row(int(10 * at)))
        window.take([status("l4", "l4-1", facts)])
    found = document(8, 1.0, Sight(from_dict(CLUSTER), [status("l4", "l4-1", facts)], window))
    assert named(found["listeners"], "mail")["rates"]["packets_in_per_s"] == 10
    assert named(found["groups"], "t")["servers"][0]["rates"]["packets_in_per_s"] == 10


@pytest.mark.parametrize(
    "facts",
    [{}, {"at_s": 1.0, "started": 1.0}, l4_facts(1.0, 1) | {"listeners": {"mail": 3}},
     l4_facts(1.0, 1) | {"servers": []}, {"traffic": {}},
     l7_facts(1.0, 1) | {"upstreams": [{}], "health": [1, {"healthy": False}]},
     {"traffic": {"started": 1, "at_s": "x"}}],
    ids=["nothing", "no rows", "no row", "a list", "no traffic", "no server", "no clock"],
)  # fmt: skip
def test_a_report_that_is_none_harms_nobody(facts: dict[str, Any]) -> None:
    good = [status("l4", "l4-1", l4_facts(at, int(100 * at))) for at in (0, 5)]
    found = picture(*([each, status("l7", "l7-1", facts), status("l4", "l4-2", facts)] for each in good))
    assert named(found["listeners"], "mail")["rates"]["packets_in_per_s"] == 100


def test_servers_have_a_state_and_who_says_so() -> None:
    down = {"server": "10.0.2.1:25/tcp", "healthy": False, "why": "connection refused"}
    up = {"server": "10.0.2.1:25/tcp", "healthy": True, "why": ""}
    unasked = {"server": "10.0.2.2:25/tcp", "healthy": True, "why": "not probed yet"}
    found = picture(
        [
            status("l4", "l4-1", l4_facts(1, 1, health=[up, unasked])),
            status("l4", "l4-2", l4_facts(1, 1, health=[down])),
            status("l7", "l7-1", l7_facts(1, 1, health=[{**up, "service": "b", "server": "10.0.1.1:80"}])),
        ]
    )
    first, second = named(found["groups"], "t")["servers"]
    assert (first["state"], first["down_on"], first["why"]) == ("down", ["l4-2"], "connection refused")
    assert (second["state"], second["down_on"]) == ("unknown", [])
    assert [each["state"] for each in named(found["groups"], "g")["servers"]] == ["up", "draining"]
    assert named(found["groups"], "g")["servers_by_state"] == {"up": 1, "down": 0, "draining": 1, "unknown": 0}


def test_servers_and_groups_have_the_rates_of_both_tiers() -> None:
    groups = two()["groups"]
    assert named(groups, "t")["rates"]["bytes_in_per_s"] == 400
    assert named(groups, "t")["servers"][0]["rates"]["connections"] == 14, "those of each node's own packets"
    g = named(groups, "g")
    assert (g["rates"]["requests_per_s"], g["rates"]["bytes_out_per_s"], g["backend_services"]) == (22, 2000, ["b"])
    assert g["servers"][0]["rates"] == {**NONE, "requests_per_s": 20, "errors_per_s": 2, "connections": 5}


def test_links_lead_from_clients_to_servers() -> None:
    links = {(each["from"]["name"], each["to"]["name"]): each for each in two()["links"]}
    assert set(links) == {
        ("clients", "192.0.2.10"), ("clients", "192.0.2.11"), ("192.0.2.10", "l4-1"), ("192.0.2.10", "l4-2"),
        ("192.0.2.11", "l4-1"), ("192.0.2.11", "l4-2"), ("l4-1", "l7-1"), ("l4-2", "l7-1"), ("l4-1", "t"),
        ("l4-2", "t"), ("l7-1", "g"),
    }  # fmt: skip
    assert links["l4-2", "t"]["bytes_per_s"] == 600
    assert links["l4-2", "t"]["requests_per_s"] is None
    assert links["l4-1", "l7-1"]["connections_per_s"] == 10
    assert links["l7-1", "g"] == {
        "from": {"kind": "l7", "name": "l7-1"}, "to": {"kind": "group", "name": "g", "group_kind": "server_groups"},
        "bytes_per_s": 2200, "requests_per_s": 22, "connections_per_s": None,
    }  # fmt: skip


def test_without_an_l4_tier_clients_reach_l7_nodes() -> None:
    site = {**CLUSTER, "instances": [{"name": "i"}, {"name": "j", "type": "nlb", "vips": ["192.0.2.11"]}]}
    reports = [[status("l7", "l7-1", l7_facts(at, 20 * at))] for at in (0, 5)]
    found = picture(*reports, model=from_dict(site))
    assert [(each["from"]["kind"], each["to"]["kind"]) for each in found["links"]] == [
        ("clients", "l7"), ("clients", "vip"), ("l7", "group"),
    ]  # fmt: skip


def test_one_instance() -> None:
    found = picture([status("l4", "l4-1", l4_facts(0, 1))], instance="j")
    assert [each["name"] for each in found["listeners"]] == ["mail"]
    assert [each["name"] for each in found["groups"]] == ["t"]
    assert [each["name"] for each in found["instances"]] == ["j"]


def test_it_is_bounded() -> None:
    servers = [{"address": f"10.{n >> 8}.{n & 255}.1", "port": 80} for n in range(10_000)]
    site = {**CLUSTER, "server_groups": [{"name": "g", "servers": servers}, {"name": "t"}]}
    down = {"server": "10.39.15.1:80", "service": "b", "healthy": False, "why": "x"}  # the last
    model, node = from_dict(site), status("l7", "l7-1", l7_facts(0, 1, health=[down]))
    group = named(picture([node], model=model)["groups"], "g")
    assert (group["servers_total"], len(group["servers"]), group["servers"][0]["state"]) == (10_000, 200, "down")
    assert sum(group["servers_by_state"].values()) == 10_000
    assert len(named(picture([node], model=model, limit=5000)["groups"], "g")["servers"]) == SERVERS_MOST
    few = picture([node], limit=1)
    assert (len(few["listeners"]), few["listeners_total"], len(few["groups"]), few["groups_total"]) == (1, 2, 1, 2)


async def test_by_the_api(user: User) -> None:
    await user.ask("PUT", "/v1/config", SITE)
    empty = await user.ask("GET", "/v1/topology")
    assert (empty["version"], empty["nodes"], empty["listeners"][0]["rates"]) == (1, [], NONE)
    assert abs(empty["at"] - time.time()) < 60
    await user.ask("GET", "/v1/topology?instance=none", status=404)
    await user.ask("GET", "/v1/topology?limit=0", status=400)
    one = await user.ask("GET", "/v1/topology?instance=i&limit=1")
    assert one["instances"] == [{"name": "i", "type": "alb", "vips": []}]
