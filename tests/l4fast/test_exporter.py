"""What /metrics says: every reason of the program, every counter of session sync, everything of the report."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control.node.metrics import render
from l4fast.exporter import SYNC, SYNC_REFUSED, SYNC_UNSENT, action_of, families
from l4fast.sources import reasons
from l4fast.sync_status import COUNTERS

SERVER = {
    "packets_in": 1, "bytes_in": 2, "packets_out": 3, "bytes_out": 4, "sessions_made": 5, "sessions": 6,
    "connections": 7,
}  # fmt: skip
PEER: dict[str, Any] = {"sessions": 5, "records": 6, "dropped": 0}
NODE: dict[str, Any] = {
    "ready": True,
    "configuration": 4,
    "refused": False,
    "problems": ["one", "two"],
    "counters": {name: number for number, name in enumerate(reasons(), 1)},
    "early_fragments": {"held": 9, "sent": 8},
    "listeners": {
        "web": {
            "packets_in": 1, "bytes_in": 2, "packets_out": 3, "bytes_out": 4, "sessions_made": 5, "denied": 6,
            "over_connection_rate": 8,
            "sessions": 7, "connections": 4, "limit_connections": 50,
        },
        "free": dict.fromkeys(("packets_in", "bytes_in", "packets_out", "bytes_out", "sessions_made", "sessions"), 0),
    },
    "servers": {"web": {"10.0.1.1:80": SERVER}, "mail": {"10.0.1.1:25": {"connections": 9}}},
    "vip": {
        "method": "vrrp",
        "addresses": [{"address": "192.0.2.10", "held": True, "transitions": 3},
                      {"address": "2001:db8::10", "held": False, "transitions": 0}],
        "peers": [{"address": "10.0.0.1", "up": True}, {"address": "10.0.0.2", "up": False}],
    },
    "health": [
        {"server": "10.0.1.1:80/tcp", "healthy": True, "why": "connected"},
        {"server": "[2001:db8::1]:53/udp", "healthy": False, "why": "no answer"},
    ],
    "tables": {"sessions": {"4": {"used": 10, "size": 100}, "6": {"used": 1, "size": 100}}},
    "sync": {
        "complete": True,
        "overflowed": False,
        "peers": [
            PEER | {"name": "l4-2", "state": "synced", "heard_s": 0.4, "delay_ms": 12.5},
            PEER | {"name": "l4-3", "state": "silent", "heard_s": 9.0, "delay_ms": 0.0},
        ],
        "counters": {name: number for number, name in enumerate(COUNTERS, 1)},
    },
}  # fmt: skip


def scraped(node: dict[str, Any]) -> dict[tuple[str, ...], float]:
    text = b"".join(render(families(node))).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert len(found) == len(samples), "Prometheus refuses a scrape that says a thing twice"
    return found


def test_every_reason_is_there_with_its_action() -> None:
    found = scraped(NODE)
    for name, number in NODE["counters"].items():
        action = name.partition("_")[0]
        key = ("paifang_l4_events_total", name) if action == "event" else ("paifang_l4_packets_total", name, action)
        assert found[key] == number
    assert len(NODE["counters"]) > 40


def test_a_reason_without_action_is_an_error_of_ours() -> None:
    assert action_of("drop_no_real") == "drop"
    with pytest.raises(AssertionError):
        action_of("lost_somewhere")


def test_listeners_and_servers() -> None:
    found = scraped(NODE)
    assert found["paifang_l4_listener_packets_total", "web", "in"] == 1
    assert found["paifang_l4_listener_bytes_total", "web", "in"] == 2
    assert found["paifang_l4_listener_packets_total", "web", "out"] == 3
    assert found["paifang_l4_listener_bytes_total", "web", "out"] == 4
    assert found["paifang_l4_listener_new_sessions_total", "web"] == 5
    assert found["paifang_l4_listener_refused_packets_total", "web", "denied"] == 6
    assert found["paifang_l4_listener_refused_packets_total", "web", "over_connection_rate"] == 8
    assert found["paifang_l4_listener_sessions", "web"] == 7
    assert found["paifang_l4_listener_connections", "web"] == 4
    assert found["paifang_l4_listener_limit", "web", "connections"] == 50
    assert not [
        key for key in found if key[:2] in {(f"paifang_l4_listener_{n}", "free") for n in ("connections", "limit")}
    ]
    server = ("web", "10.0.1.1:80")
    assert found["paifang_l4_server_packets_total", *server, "in"] == 1
    assert found["paifang_l4_server_bytes_total", *server, "in"] == 2
    assert found["paifang_l4_server_packets_total", *server, "out"] == 3
    assert found["paifang_l4_server_bytes_total", *server, "out"] == 4
    assert found["paifang_l4_server_new_sessions_total", *server] == 5
    assert found["paifang_l4_server_sessions", *server] == 6
    assert found["paifang_l4_server_connections", *server] == 7
    assert found["paifang_l4_server_connections", "mail", "10.0.1.1:25"] == 9
    assert ("paifang_l4_server_sessions", "mail", "10.0.1.1:25") not in found


def test_the_node() -> None:
    found = scraped(NODE)
    assert found["paifang_l4_ready",] == 1
    assert found["paifang_l4_configuration_version",] == 4
    assert found["paifang_l4_configuration_refused",] == 0
    assert found["paifang_l4_problems",] == 2
    assert found["paifang_l4_server_up", "10.0.1.1:80", "tcp"] == 1
    assert found["paifang_l4_server_up", "[2001:db8::1]:53", "udp"] == 0
    assert found["paifang_l4_early_fragments_total", "held"] == 9
    assert found["paifang_l4_table_entries", "sessions", "4"] == 10
    assert found["paifang_l4_table_entries", "sessions", "6"] == 1
    assert found["paifang_l4_table_size", "sessions", "6"] == 100


def test_session_sync() -> None:
    found, counters = scraped(NODE), NODE["sync"]["counters"]
    assert {*SYNC, *SYNC_UNSENT, *SYNC_REFUSED} == set(COUNTERS)
    for name, (metric, _) in SYNC.items():
        assert found[f"paifang_l4_sync_{metric}_total",] == counters[name]
    for metric, names in (("unsent", SYNC_UNSENT), ("refused", SYNC_REFUSED)):
        for name in names:
            assert found[f"paifang_l4_sync_{metric}_datagrams_total", name] == counters[name]
    assert {"forged", "replayed", "clock", "layout", "version"} < set(SYNC_REFUSED)
    assert found["paifang_l4_sync_complete",] == 1
    assert [found["paifang_l4_sync_peers", state] for state in ("synced", "unsynced", "silent")] == [1, 0, 1]
    assert found["paifang_l4_sync_peer_delay_seconds", "l4-2"] == 0.0125
    assert found["paifang_l4_sync_peer_heard_seconds", "l4-3"] == 9.0


def test_a_node_that_has_nothing_says_what_there_is() -> None:
    found = scraped(NODE | {"listeners": {}, "servers": {}, "health": [], "tables": {}})
    assert ("paifang_l4_ready",) in found
    assert not [key for key in found if "listener" in key[0]]


def test_who_has_the_vips() -> None:
    found = scraped(NODE)
    assert found["paifang_l4_vip_held", "192.0.2.10", "vrrp"] == 1
    assert found["paifang_l4_vip_held", "2001:db8::10", "vrrp"] == 0
    assert found["paifang_l4_vip_transitions_total", "192.0.2.10", "vrrp"] == 3
    assert found["paifang_l4_bgp_session_up", "10.0.0.1"] == 1
    assert found["paifang_l4_bgp_session_up", "10.0.0.2"] == 0
