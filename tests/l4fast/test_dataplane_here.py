"""Servers on the L4 node itself, packet by packet: what goes up to the kernel, and what two nodes hand each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from l4fast.hops import HERE
from tests.packets import (
    ACK,
    CLIENT,
    ICMP_PROTOCOL,
    REAL_MACS,
    REALS,
    TCP,
    UDP,
    VIP,
    XDP_TX,
    Case,
    Harness,
    Packet,
    as_version,
    icmp_error,
    service,
    six,
)

pytestmark = pytest.mark.root

MINE, OTHER = REALS[:2]
VERSIONS = pytest.mark.parametrize("version", [4, 6])
SERVICES = [
    of
    for version in (4, 6)
    for of in (
        service(80, Mode.DR, reals=[MINE], version=version, name=f"dr-{version}"),
        service(53, Mode.DR, protocol="udp", reals=[MINE], version=version, name=f"dns-{version}"),
        service(81, Mode.DR, Scheduler.RR, reals=[OTHER, MINE], version=version, name=f"rr-{version}"),
        service(82, Mode.DR, Scheduler.LC, reals=[OTHER, MINE], version=version, name=f"lc-{version}"),
        service(83, Mode.TUNNEL, reals=[MINE], version=version, name=f"tunnel-{version}"),
        service(84, reals=[MINE, OTHER], version=version, scheduler=Scheduler.RR, real_port=84, name=f"nat-{version}"),
        service(85, Mode.DR, reals=[MINE], version=version, stateless=True, vip="10.0.0.101", name=f"hash-{version}"),
    )
]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=256, half_open=256)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    """The address MINE is this node's."""
    loaded.reset()
    use(loaded, here=True)
    return loaded


def use(harness: Harness, *, here: bool) -> None:
    hops = dict(harness.macs) | (dict.fromkeys((MINE, six(MINE)), HERE) if here else {})
    harness.tables.apply(SERVICES, set(), hops)


def up(description: str, packet: Packet) -> Case:
    """Unchanged."""
    return Case(description, packet.frame(), "pass_served_here")


def mac_of(version: int, real: str) -> bytes:
    return REAL_MACS[as_version(version, real)[0]]


def reals_of_sessions(harness: Harness) -> list[str]:
    return [view.real for view in harness.tables.sessions()]


@VERSIONS
def test_packets_for_a_server_here_go_up(harness: Harness, version: int) -> None:
    syn = Packet().as_version(version)
    harness.check(up("a SYN", syn))
    assert harness.session(syn) is None
    for description in ("the handshake's end", "data", "more data"):
        harness.check(up(description, replace(syn, flags=ACK, ttl=1)))
    session = harness.session(syn)
    assert session is not None
    assert (session["packets"], session["state"]) == (3, 0)
    query = Packet(protocol=UDP, port=53, payload=b"question").as_version(version)
    harness.check(up("a datagram", query))
    assert harness.session(query) is not None
    counters = harness.tables.listener_counters()[f"dr-{version}"]
    assert (counters["packets_in"], counters["sessions_made"]) == (4, 1)


@VERSIONS
def test_without_sessions(harness: Harness, version: int) -> None:
    packet = Packet(destination="10.0.0.101", port=85, flags=ACK).as_version(version)
    harness.check(up("any packet", packet))
    assert reals_of_sessions(harness) == []


@VERSIONS
@pytest.mark.parametrize("port", [81, 82])
def test_the_scheduler_takes_turns_with_other_servers(harness: Harness, version: int, port: int) -> None:
    reasons = []
    for source_port in range(40000, 40006):
        syn = Packet(source_port=source_port, port=port).as_version(version)
        reason, after = harness.run(syn)
        reasons.append(reason)
        expected = syn.frame() if reason == "pass_served_here" else syn.to_mac(mac_of(version, OTHER)).frame()
        assert after == expected
        assert harness.run(replace(syn, flags=ACK, sequence=1001)) == (
            ("pass_served_here" if reason == "pass_served_here" else "tx_new_session"),
            replace(expected_packet(syn, reason, version), flags=ACK, sequence=1001).frame(),
        )
    assert sorted(reasons) == ["pass_served_here"] * 3 + ["tx_syn"] * 3


def expected_packet(packet: Packet, reason: str, version: int) -> Packet:
    return packet if reason == "pass_served_here" else packet.to_mac(mac_of(version, OTHER))


@VERSIONS
@pytest.mark.parametrize("port", [81, 82])
def test_what_another_node_has_sent_is_served_here(harness: Harness, version: int, port: int) -> None:
    """Whosever turn it is: nodes that hand a packet to each other would do so for ever."""
    for source_port in range(40000, 40004):
        syn = Packet(source_port=source_port, port=port, eth_source=mac_of(version, OTHER)).as_version(version)
        harness.check(up("a SYN", syn))
        harness.check(up("the next", replace(syn, flags=ACK, sequence=1001)))
    (mine,) = as_version(version, MINE)
    assert reals_of_sessions(harness) == [f"[{mine}]:{port}" if version == 6 else f"{mine}:{port}"] * 4


@VERSIONS
def test_nor_does_a_session_send_it_back(harness: Harness, version: int) -> None:
    """Two nodes that disagree: this one has a session with the other."""
    for source_port in range(40000, 40002):
        syn = Packet(source_port=source_port, port=81).as_version(version)
        if harness.run(syn)[0] == "tx_syn":
            break
    data = replace(syn, flags=ACK, sequence=1001)
    assert harness.run(data)[0] == "tx_new_session"
    harness.check(up("from the other", replace(data, eth_source=mac_of(version, OTHER))))
    assert harness.run(data)[0] == "tx_session"


@VERSIONS
def test_other_modes_do_not_lead_here(harness: Harness, version: int) -> None:
    harness.check(Case("tunnel", Packet(port=83).as_version(version).frame(), "drop_no_neighbour"))
    outcomes = {harness.run(Packet(port=84, source_port=n).as_version(version))[0] for n in (40000, 40001)}
    assert outcomes == {"drop_no_neighbour", "tx_syn"}


@VERSIONS
def test_a_session_of_a_server_that_is_found_to_be_here(harness: Harness, version: int) -> None:
    """As one that a peer has told: to the peer the server is another machine."""
    use(harness, here=False)
    in_nat = [Packet(port=84, source_port=n).as_version(version) for n in (40000, 40001)]
    in_dr = Packet(flags=ACK).as_version(version)
    assert harness.run(in_dr)[0] == "tx_new_session"
    for syn in in_nat:
        harness.run(syn)
        assert harness.run(replace(syn, flags=ACK, sequence=1001))[0] == "tx_new_session"
    use(harness, here=True)
    harness.check(up("dr", in_dr))
    harness.tables.apply(SERVICES[::-1], set(), dict(harness.macs) | dict.fromkeys((MINE, six(MINE)), HERE))
    raised(harness, version)
    outcomes = {harness.run(replace(syn, flags=ACK, sequence=1002))[0] for syn in in_nat}
    assert outcomes == {"drop_no_neighbour", "tx_session"}


def raised(harness: Harness, version: int) -> None:
    """Every session is cold."""
    settings = harness.plane.settings[version]
    harness.plane.set(version, generation=settings.generation + 1)


@VERSIONS
def test_fragments_follow(harness: Harness, version: int) -> None:
    first, later = Packet(port=53, protocol=UDP, payload=bytes(48)).as_version(version).fragments(24)
    harness.check(Case("the first", first, "pass_served_here"))
    harness.check(Case("a later one", later, "pass_served_here"))
    assert harness.plane.run(later, "release", version) == (XDP_TX | 0x10 << 8, later)
    (alone,) = as_version(version, "198.51.100.8")
    stranger = replace(Packet(port=53, protocol=UDP, payload=bytes(48)).as_version(version), source=alone)
    assert harness.run(stranger.fragments(24)[1])[0] in ("drop_fragment", "drop_held_fragment")


@VERSIONS
def test_errors_about_its_answers(harness: Harness, version: int) -> None:
    vip, client, router = as_version(version, VIP, CLIENT, "192.0.2.1")
    answer = Packet(vip, client, 80, 40000, TCP, ACK, payload=bytes(40))
    error = icmp_error(answer, "too big", source=router, mtu=1400)
    assert error.protocol == ICMP_PROTOCOL[version]
    harness.check(up("too big", error))
