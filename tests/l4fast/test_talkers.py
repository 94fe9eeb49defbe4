"""Who talks through an L4 node: by the sweep over its real tables, and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from l4fast import talkers as module
from l4fast.expiry import expire
from l4fast.talkers import Talkers
from tests.packets import ACK, NOW_S, UDP, Harness, Packet, service

pytestmark = pytest.mark.root
WHOLE = 1 << 20
TCP = Packet(flags=ACK)
QUERY = Packet(protocol=UDP, port=53)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Node:
    """A data plane and its sweeps."""

    def __init__(self, harness: Harness, **how: Any) -> None:
        self.harness, self.clock = harness, Clock()
        self.talkers = Talkers(self.clock, **how)

    def sweep(self) -> None:
        self.clock.now += 2.0
        expire(self.harness.tables, NOW_S, WHOLE, self.talkers)

    def ask(self, by: str) -> Any:
        return self.talkers.ask({"by": by})


@pytest.fixture
def node(roomy: Harness) -> Node:
    roomy.reset((service(80, idle_timeout_s=600), service(53, protocol="udp", idle_timeout_s=30)))
    return Node(roomy)


def test_nobody_asks(node: Node) -> None:
    node.harness.run(QUERY)
    node.sweep()
    assert (node.talkers.on, node.talkers._seen, node.talkers._before) == (False, {}, None)


def test_who_talks(node: Node) -> None:
    for _ in range(3):
        node.harness.run(TCP)
    node.harness.run(QUERY)
    assert node.ask("client") == {"ready": False}
    node.sweep()
    assert node.ask("flow") == {"ready": False}, "nothing is known of one sweep"
    before = node.harness.session(TCP)
    for _ in range(8):
        node.harness.run(TCP)
    after = node.harness.session(TCP)
    assert before
    assert after
    moved = (after["bytes"] - before["bytes"]) / 2
    node.sweep()
    flows = node.ask("flow")
    assert (flows["ready"], flows["window_s"], flows["share"]) == (True, 2.0, 1)
    [flow] = flows["talkers"]
    assert (flow["packets_in_per_s"], flow["bytes_in_per_s"]) == (4.0, moved)
    assert (flow["client"], flow["protocol"]) == (f"{TCP.source}:{TCP.source_port}", "tcp")
    assert flow["server"].endswith(":8080")
    clients = node.ask("client")["talkers"]
    assert [(each["client"], each["packets_in_per_s"]) for each in clients] == [(TCP.source, 4.0)]
    assert clients[0]["sessions"] == 2
    servers = node.ask("server")["talkers"]
    assert sum(each["sessions"] for each in servers) == 2
    assert servers[0]["server"] == flow["server"]
    assert sorted((each["state"], each["sessions"]) for each in flows["sessions"]) == [("established", 1), ("udp", 1)]


def test_a_session_that_is_new_counts_whole(node: Node) -> None:
    node.ask("flow")
    node.sweep()
    for _ in range(2):
        node.harness.run(QUERY)
    node.sweep()
    assert [each["packets_in_per_s"] for each in node.ask("flow")["talkers"]] == [1.0]


def test_it_ends_when_nobody_asks_any_more(node: Node) -> None:
    node.ask("flow")
    node.sweep()
    node.clock.now += module.ASKED_S
    node.sweep()
    assert (node.talkers.on, node.talkers._before) == (False, None)
    assert node.ask("flow") == {"ready": False}


def test_many_sessions_are_sampled(roomy: Harness) -> None:
    roomy.reset((service(53, protocol="udp", idle_timeout_s=30),))
    node = Node(roomy, looked_most=64)
    flows = [replace(QUERY, source_port=1024 + n) for n in range(512)]
    node.ask("client")
    for packet in flows:
        roomy.run(packet)
    for _ in range(5):
        node.sweep()
    for packet in flows:
        roomy.run(packet)
    node.sweep()
    found = node.ask("client")
    assert found["share"] == 8
    assert len(node.talkers._before or ()) <= 64
    assert found["talkers"][0]["packets_in_per_s"] == pytest.approx(256, rel=0.5), "an estimate"
    assert [each["sessions"] for each in found["sessions"]] == [512], "these are counted all"


@pytest.mark.parametrize("by", ["", "listener", 3], ids=str)
def test_what_cannot_be_asked(node: Node, by: object) -> None:
    with pytest.raises(ValueError, match="by is one of client, server, flow"):
        node.talkers.ask({"by": by})
