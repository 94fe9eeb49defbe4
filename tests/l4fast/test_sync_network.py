"""Session sync on networks that lose, reorder, double and part: three nodes and five, and strangers on the line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4fast.sync_codec import Type, parse_header, seal
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peers import RETURN_S
from tests.l4fast.memory_table import key_of
from tests.l4fast.merging import FIN_WAIT
from tests.l4fast.simulated import WALL_S, Network, Node, Wire

OTHER_KEY = ClusterKey(b"\1" * 32)


def cluster(count: int, seed: int, wire: Wire | None = None, ahead_s: tuple[float, ...] = (0, 0, 0, 0, 0)) -> Network:
    """Nodes that know each other."""
    network = Network(seed, wire or Wire())
    for number in range(count):
        network.node(f"l4-{number}", ahead_s=ahead_s[number])
    network.run(4.0)
    return network


def establish(network: Network, flows: int, per_s: float, *, nodes: list[Node] | None = None, first: int = 0) -> None:
    """Connections with three packets, by turns at each node."""
    nodes = nodes or network.nodes
    for flow in range(first, first + flows):
        at = network.now + (flow - first) / per_s
        network.at(at, nodes[flow % len(nodes)].opened, flow, flow % 5)
    network.run(network.now + flows / per_s)


def missing(network: Network, flows: int) -> dict[str, int]:
    """How many of the flows each node does not know."""
    return {node.name: sum(not node.knows(flow) for flow in range(flows)) for node in network.nodes}


def nobody(network: Network) -> dict[str, int]:
    return dict.fromkeys((node.name for node in network.nodes), 0)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_one_datagram_in_twenty_lost_and_none_missing_a_second_later(count: int, seed: int) -> None:
    network = cluster(count, seed, Wire(loss=0.05))
    snapshots = network.snapshots
    establish(network, 20_000, 20_000)
    network.run(network.now + 1.0)
    assert missing(network, 20_000) == nobody(network)
    assert network.snapshots == snapshots, "repeats were enough"
    assert sum(node.sync.counters["missing"] for node in network.nodes) > 100


@pytest.mark.parametrize("count", [3, 5])
def test_one_datagram_in_five_lost_and_none_missing_in_the_end(count: int) -> None:
    network = cluster(count, 1, Wire(loss=0.2))
    establish(network, 20_000, 20_000)
    network.run(network.now + 1.0)
    assert max(missing(network, 20_000).values()) <= 20
    network.run(network.now + 14.0)  # two snapshots, with the pause between them
    assert missing(network, 20_000) == nobody(network)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_a_million_sessions_arrive(loss: float) -> None:
    network = cluster(3, 1, Wire(loss=loss))
    establish(network, 1_000_000, 200_000)
    network.run(network.now + 1.0)
    assert max(missing(network, 1_000_000).values()) <= (0 if loss == 0.05 else 1000)
    network.run(network.now + 20.0)
    assert missing(network, 1_000_000) == nobody(network)


def test_reordered_and_doubled_datagrams_cost_nothing() -> None:
    network = cluster(3, 1, Wire(delay_s=(0.0001, 0.015), doubled=0.5))
    establish(network, 10_000, 10_000)
    network.run(network.now + 1.0)
    assert missing(network, 10_000) == nobody(network)
    for node in network.nodes:
        assert node.sync.counters["received_late"] > 100
        assert node.sync.counters["replayed"] > 100
        assert node.sync.counters["lost"] == 0 == node.sync.counters["resend_asked"]


def test_a_slow_peer_falls_behind_catches_up_and_holds_up_nobody() -> None:
    """It takes 400 datagrams a second out of a buffer for 64, and is sent 1,000."""
    network = cluster(2, 1)
    slow = network.node("slow", buffer=64, per_s=400)
    network.run(10.0)
    assert network.settled()
    establish(network, 60_000, 20_000, nodes=network.nodes[:2])
    network.run(network.now + 0.1)
    assert not slow.complete()
    assert slow.sync.counters["lost"] > 0
    assert [missing(network, 60_000)[name] for name in ("l4-0", "l4-1")] == [0, 0]
    assert all(node.complete() for node in network.nodes[:2])
    network.run(network.now + 30.0)
    assert missing(network, 60_000) == nobody(network)
    assert slow.complete()


@pytest.mark.parametrize("seed", range(3))
def test_a_peer_that_returns_after_a_minute_knows_what_it_missed_and_what_is_idle(seed: int) -> None:
    network = cluster(3, seed, Wire(loss=0.02))
    establish(network, 2_000, 4_000)
    network.run(network.now + 1.0)
    network.part({"l4-2"})
    establish(network, 3_000, 4_000, nodes=network.nodes[:2], first=2_000)
    for flow in range(0, 2_000, 3):
        network.nodes[flow % 2].packet(flow, 9, FIN_WAIT)
    network.run(network.now + 60.0)
    away = network.nodes[2]
    assert missing(network, 5_000)["l4-2"] == 3_000
    network.part()
    network.run(network.now + 1.2)
    assert not network.settled() or network.snapshots > 2
    network.run(network.now + 3.0)
    assert network.settled()
    assert missing(network, 5_000) == nobody(network)
    assert [away.table.entries[4][key_of(flow)].state for flow in (3, 6, 9)] == [FIN_WAIT] * 3


def test_a_short_silence_needs_no_snapshot() -> None:
    network = cluster(2, 1)
    before = network.snapshots
    network.part({"l4-1"})
    establish(network, 500, 500, nodes=network.nodes[:1])
    network.run(network.now + RETURN_S / 3)
    network.part()
    network.run(network.now + 2.0)
    assert missing(network, 500) == nobody(network)
    assert network.snapshots == before


@pytest.mark.parametrize("count", [3, 5])
def test_a_node_that_restarts_under_load_is_complete_in_a_moment(count: int) -> None:
    network = cluster(count, 1, Wire(loss=0.01))
    establish(network, 20_000, 40_000)
    network.run(network.now + 0.5)
    node = network.nodes[0]
    network.restart(node)
    establish(network, 5_000, 5_000, nodes=network.nodes[1:], first=20_000)
    network.run(network.now + 0.5)
    assert node.complete()
    assert missing(network, 25_000) == nobody(network)


def test_all_start_at_once() -> None:
    network = Network(1)
    for number in range(5):
        network.node(f"l4-{number}")
    network.run(3.4)
    assert network.settled(), "and not after a refresh period"


def test_two_clusters_on_one_group_do_not_see_each_other() -> None:
    network = Network(1)
    ours = [network.node(f"l4-{number}") for number in range(2)]
    theirs = [network.node(f"l4-{number}b", OTHER_KEY) for number in range(2)]
    network.run(4.0)
    for number, nodes in enumerate((ours, theirs)):
        establish(network, 1_000, 10_000, nodes=nodes, first=number * 1_000)
    network.run(network.now + 1.0)
    for number, nodes in enumerate((ours, theirs)):
        for node in nodes:
            assert [node.knows(flow) for flow in range(2_000)] == [flow // 1_000 == number for flow in range(2_000)]
            assert len(node.sync.peers) == 1
            assert node.sync.counters["foreign_cluster"] > 50
    assert network.settled()


def test_a_stranger_who_forges_replays_and_floods_changes_nothing() -> None:
    """He hears everything, answers each datagram with five of his own, and goes on long after."""
    tables = []
    for hostile in (False, True):
        network = cluster(3, 1, Wire(delay_s=(0.0002, 0.0002)))
        chance = random.Random(2)
        recorded: list[bytes] = []

        def attack(
            datagram: bytes, network: Network = network, chance: random.Random = chance,
            recorded: list[bytes] = recorded,
        ) -> None:  # fmt: skip
            recorded.append(datagram)
            header = parse_header(datagram)
            flipped = bytearray(datagram)
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            newer = header._replace(sequence=header.sequence + chance.randrange(1, 10_000)).pack()
            reborn = header._replace(boot=header.boot + 1).pack()
            foreign = header._replace(type=Type.HELLO, cluster=OTHER_KEY.id, ip=0, count=0, size=0, ends=0)
            for bad in (
                chance.choice(recorded), bytes(flipped), newer + datagram[56:], reborn + datagram[56:],
                seal(OTHER_KEY.cipher(header.node, header.boot, header.salt), foreign, bytes(30)),
                chance.randbytes(chance.randrange(1500)),
            ):  # fmt: skip
                for node in network.nodes:
                    network.at(network.now + 0.001, node.arrive, bad, "stranger")

        network.tap = attack if hostile else None
        establish(network, 4_000, 20_000)
        network.nodes[0].kill(7, 8)
        network.run(network.now + 40.0)
        tables.append([node.table.entries for node in network.nodes])
        for node in network.nodes:
            assert node.complete()
            assert len(node.sync.peers) == 2
            assert {peer.boot for peer in node.sync.peers.values()} == {1}
            assert {peer.address for peer in node.sync.peers.values()} <= {each.name for each in network.nodes}
        if hostile:
            for node in network.nodes:
                for reason in ("replayed", "forged", "foreign_cluster", "malformed"):
                    assert node.sync.counters[reason] > 100, reason
    assert tables[0] == tables[1]


def test_a_flood_that_fills_the_socket_is_survived() -> None:
    """What it pushes out is lost like anything else, and comes again."""
    network = cluster(2, 1)
    victim = network.node("l4-9", buffer=200, per_s=20_000)
    network.run(8.0)
    chance = random.Random(1)
    for n in range(100_000):
        network.at(network.now + n / 30_000, victim.arrive, chance.randbytes(100), "stranger")
    establish(network, 2_000, 2_000, nodes=network.nodes[:2])
    network.run(network.now + 15.0)
    assert victim.sync.counters["malformed"] > 10_000
    assert missing(network, 2_000) == nobody(network)
    assert victim.complete()


# Ends


def test_a_session_that_is_killed_is_gone_everywhere_and_stays_away() -> None:
    network = cluster(3, 1, Wire(loss=0.2))
    a, b, c = network.nodes
    establish(network, 3_000, 6_000)
    network.run(network.now + 15.0)
    network.part({"l4-2"})  # which is not told
    for flow in range(100):
        b.packet(flow, 0)
    a.kill(*range(100))
    network.run(network.now + 3.0)
    for node in (a, b):
        assert not any(node.knows(flow) for flow in range(100))
    network.run(network.now + 60.0)
    assert all(c.knows(flow) for flow in range(100))
    c.packet(50, 0)  # and this one is in use there
    network.part()
    network.run(network.now + 30.0)
    for node in network.nodes:
        assert [flow for flow in range(100) if node.knows(flow)] == [50]
    network.restart(b)
    network.run(network.now + 5.0)
    assert [flow for flow in range(100) if b.knows(flow)] == [50]


def test_a_record_that_was_under_way_does_not_bring_it_back() -> None:
    network = cluster(2, 1, Wire(delay_s=(0.001, 0.001)))
    a, b = network.nodes
    b.opened(1, 0)
    b.flush()
    network.run(network.now + 0.5)
    b.packet(1, 0, FIN_WAIT)  # is staged, and told in 15 ms …
    a.kill(1)  # … of which b hears in one
    b_staged = list(b.staged)
    assert b_staged
    b.flush()
    network.run(network.now + 0.01)
    assert a.knows(1), "here it is back"
    network.run(network.now + 2.0)
    assert not a.knows(1)
    assert not b.knows(1)


@pytest.mark.parametrize("ahead_s", [(0, 20, -9), (12, 0, 0), (-12, 0, 0)])
def test_clocks_that_differ_change_no_order_and_no_age(ahead_s: tuple[float, ...]) -> None:
    """A record of a fast clock is no newer for that."""
    network = cluster(3, 1, ahead_s=ahead_s)
    a, b, c = network.nodes
    for node in network.nodes:
        node.opened(1, 5)
        network.run(network.now + 2.0)
        node.packet(1, 5)
        network.run(network.now + 0.5)
        node.opened(1, 6)  # a new connection with another server, wherever it comes
        network.run(network.now + 1.5)
        assert [each.table.entries[4][key_of(1)].way for each in network.nodes] == [6, 6, 6]
    network.run(network.now + 30.0)
    ages = [node.wall_s - node.table.entries[4][key_of(1)].last_s for node in network.nodes]
    assert max(ages) - min(ages) <= 1
    network.restart(b)
    network.run(network.now + 5.0)
    assert b.complete()
    assert abs(b.wall_s - b.table.entries[4][key_of(1)].last_s - ages[0] - 5) <= 1
    a.kill(1)
    network.run(network.now + 2.0)
    assert not any(node.knows(1) for node in network.nodes)
    assert any("check NTP" in problem for problem in c.sync.problems(network.now)) is (
        abs(ahead_s[0] - ahead_s[2]) >= 5
    )
    network.restart(c)
    network.run(network.now + 5.0)
    assert not c.knows(1)


# Split brain


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_sides_that_were_parted_agree_when_they_meet_again(data: st.DataObject) -> None:
    """Both take traffic of one VIP: old connections end, new ones begin on the same ports with other servers. No packet
    of a client that stays with its node ever goes to another server, and in the end everybody knows the last one."""
    clocks = data.draw(st.sampled_from([(0, 0, 0), (0, 9, -13), (-20, 0, 0), (0, 0, 20)]))
    network = cluster(3, data.draw(st.integers(0, 99)), Wire(loss=0.1, delay_s=(0.0001, 0.004)), clocks)
    flows = 60
    establish(network, flows, 1_000)
    network.run(network.now + 2.0)
    network.part({"l4-2"})
    truth = {flow: flow % 5 for flow in range(flows)}
    last_s: dict[int, int] = {}
    where: dict[int, Node] = {}
    moves = data.draw(st.lists(st.tuples(st.integers(0, flows - 1), st.integers(0, 2), st.booleans()), max_size=60))
    for flow, at, anew in moves:
        network.run(network.now + data.draw(st.sampled_from([0.01, 0.4, 1.1])))
        node = network.nodes[at]
        if anew or flow not in where:
            if last_s.get(flow) == network.wall_s:
                network.run(network.now + 1.0)  # nobody can order two connections of one second: TIME_WAIT sees to it
            truth[flow] = truth[flow] + 10
            node.opened(flow, truth[flow])
            where[flow] = node
        else:
            assert where[flow].packet(flow, -1) == truth[flow]
        last_s[flow] = network.wall_s
    network.run(network.now + max(0.0, RETURN_S + 1 - network.now % 1))
    network.part()
    for _ in range(8):
        network.run(network.now + 1.0)
        for flow, node in where.items():
            if flow % 2:  # some go on, some are idle
                assert node.packet(flow, -1) == truth[flow]
    network.run(network.now + 8.0)
    for node in network.nodes:
        ways = {flow: node.table.entries[4][key_of(flow)].way for flow in range(flows)}
        assert ways == truth, node.name
    assert network.settled()


def test_what_began_while_the_nodes_were_apart_is_known_at_once_when_they_meet() -> None:
    """Before VRRP has moved the VIPs, or soon after: with a hello a second it took up to a second."""
    for apart_s in (5.0, 25.0):
        network = cluster(3, 1, Wire(delay_s=(0.0001, 0.004)), (0, 0, 0))
        establish(network, 60, 1_000)
        network.run(network.now + 2.0)
        network.part({"l4-2"})
        network.run(network.now + apart_s)
        network.nodes[2].opened(0, 30)
        network.nodes[0].opened(1, 31)
        network.run(network.now + 0.5)
        network.part()
        network.run(network.now + 0.25)
        for node in network.nodes:
            assert [node.table.entries[4][key_of(flow)].way for flow in (0, 1)] == [30, 31], (apart_s, node.name)


def test_what_is_sent_again_a_second_later_is_of_its_own_second() -> None:
    """The first record of a flow is lost here and comes again together with the next: clocks are not apart for that."""
    network = cluster(3, 0, Wire(loss=0.1, delay_s=(0.0001, 0.004)), (0, 0, 0))
    establish(network, 60, 1_000)
    network.run(network.now + 2.0)
    network.part({"l4-2"})
    network.run(network.now + 0.01)
    for way in (10, 20):
        network.nodes[1].opened(0, way)
        network.run(network.now + 1.01)
    network.run(network.now + 2.0)
    assert network.nodes[0].table.entries[4][key_of(0)].way == 20
    assert {peer.shift_s for node in network.nodes for peer in node.sync.peers.values()} == {0}


def test_the_clock_of_the_story_is_its_own() -> None:
    network = cluster(2, 5)
    assert network.wall_s == WALL_S + 4
    assert [cluster(2, 5).nodes[0].sync.counters for _ in range(2)] == [network.nodes[0].sync.counters] * 2
