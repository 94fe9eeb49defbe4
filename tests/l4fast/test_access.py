"""Access lists in the data plane: who is denied, and that a change of list leaves no gap."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from core.model import Acl, Mode, Scheduler
from core.prefixes import Prefixes
from core.resolve import Access
from l4fast.errors import TablesError
from tests.packets import ACK, FIN, SYN, UDP, Harness, Packet, service

pytestmark = pytest.mark.root

LISTED, STRANGER = "198.51.100.7", "203.0.113.9"
LIST = ("198.51.100.0/24", "192.0.2.0/25")


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset()
    return roomy


def access(acl: Acl, *networks: str) -> Access:
    return Access(acl, Prefixes.of(networks))


def verdict(harness: Harness, source: str, **changed: int) -> str:
    return harness.run(replace(Packet(source=source), **changed))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("acl", "networks", "admitted"),
    [
        (Acl.WHITE, LIST, {LISTED}),
        (Acl.BLACK, LIST, {STRANGER}),
        (Acl.WHITE, (), set()),
        (Acl.BLACK, (), {LISTED, STRANGER}),
        (Acl.WHITE, ("0.0.0.0/0",), {LISTED, STRANGER}),
        (Acl.BLACK, ("198.0.0.0/7",), {STRANGER}),
        (Acl.BLACK, ("198.51.100.7/32",), {STRANGER}),
        (Acl.WHITE, ("198.51.100.6", "198.51.100.8/29"), set()),
        (Acl.WHITE, ("198.51.100.0/28", "198.51.0.0/16"), {LISTED}),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_who_is_denied(harness: Harness, acl: Acl, networks: tuple[str, ...], admitted: set[str], mode: Mode) -> None:
    harness.reset([service(80, mode, access=access(acl, *networks))])
    for client in (LISTED, STRANGER):
        for flags in (SYN, ACK, ACK | FIN):
            assert (verdict(harness, client, flags=flags) != "drop_denied") == (client in admitted)
    assert harness.tables.listener_counters()["tcp-80"]["denied"] == 3 * (2 - len(admitted))


def test_stateless_listeners_ask_of_every_packet(harness: Harness) -> None:
    harness.reset([service(80, stateless=True, access=access(Acl.BLACK, *LIST))])
    for flags in (SYN, ACK, ACK | FIN):
        assert verdict(harness, LISTED, flags=flags) == "drop_denied"
        assert verdict(harness, STRANGER, flags=flags) == "tx_stateless"


def test_udp_and_half_open_flows(harness: Harness) -> None:
    listed = access(Acl.BLACK, *LIST)
    wrr = service(80, scheduler=Scheduler.WRR)
    harness.reset([service(53, protocol="udp", access=listed), wrr])
    assert verdict(harness, LISTED, protocol=UDP, port=53) == "drop_denied"
    assert verdict(harness, STRANGER, protocol=UDP, port=53) == "tx_new_session"
    assert verdict(harness, LISTED) == "tx_syn"
    harness.tables.apply([replace(wrr, access=listed)], set(), harness.macs)
    assert verdict(harness, LISTED, flags=ACK, sequence=1001) == "drop_denied"


def test_listeners_have_lists_of_their_own(harness: Harness) -> None:
    harness.reset(
        [service(80, access=access(Acl.WHITE, *LIST)), service(81, access=access(Acl.BLACK, *LIST)), service(82)]
    )
    assert [verdict(harness, LISTED, port=port) for port in (80, 81, 82)] == ["tx_syn", "drop_denied", "tx_syn"]
    assert [verdict(harness, STRANGER, port=port) for port in (80, 81, 82)] == ["drop_denied", "tx_syn", "tx_syn"]


def test_an_established_session_ends_with_its_next_packet(harness: Harness) -> None:
    of = service(80)
    data = Packet(source=LISTED, flags=ACK)
    others = replace(data, source=STRANGER)
    harness.reset([of])
    for packet in (data, others):
        harness.run(packet)
        assert harness.run(packet)[0] == "tx_session"
    harness.tables.apply([replace(of, access=access(Acl.BLACK, *LIST))], set(), harness.macs)
    assert harness.run(data)[0] == "drop_denied"
    assert harness.session(data) is None
    assert harness.run(data)[0] == "drop_denied"
    assert harness.events(lambda: harness.run(others))["event_warmed"] == 1
    assert harness.events(lambda: harness.run(others)) == {"tx_session": 1}
    # White instead of black, with the same list: the other one's turn.
    harness.tables.apply([replace(of, access=access(Acl.WHITE, *LIST))], set(), harness.macs)
    assert harness.run(others)[0] == "drop_denied"
    assert harness.run(data)[0] == "tx_new_session"


def test_a_session_learnt_from_a_peer_is_asked_too(harness: Harness) -> None:
    harness.reset([service(80)])
    packet = Packet(source=LISTED, flags=ACK)
    harness.run(packet)
    ((keys, values, count),) = list(harness.tables.versions[4].session_map.blocks(16))
    learnt = harness.tables.versions[4].session_map.value.from_buffer_copy(values)
    learnt.generation = learnt.listener = 0
    harness.tables.apply([service(80, access=access(Acl.BLACK, *LIST))], set(), harness.macs)
    harness.tables.versions[4].session_map.put_many(keys, bytes(learnt), count)
    assert harness.run(packet)[0] == "drop_denied"


def test_the_same_state_again_writes_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    of = service(80, access=access(Acl.BLACK, *LIST))
    harness.reset([of])
    generation = harness.plane.settings[4].generation

    def refuse(*_: object) -> int:
        raise AssertionError("written again")

    harness.tables.apply([of], set(), harness.macs)  # frees what the reset released
    monkeypatch.setattr("l4fast.bpf.syscall.create_map", refuse)
    again = Access(Acl.BLACK, Prefixes.of(reversed(LIST)))
    harness.tables.apply([replace(of, access=again)], set(), harness.macs)
    assert harness.plane.settings[4].generation == generation


def test_lists_come_and_go_without_end(harness: Harness) -> None:
    """Twice as many numbers as lists: those in use and those that replace them."""
    for n in range(10):
        first, second = access(Acl.BLACK, f"10.{n}.0.0/16"), access(Acl.BLACK, f"11.{n}.0.0/16")
        harness.tables.apply([service(80, access=first), service(81, access=second)], set(), harness.macs)
        assert verdict(harness, f"10.{n}.1.1") == verdict(harness, f"11.{n}.1.1", port=81) == "drop_denied"
        assert verdict(harness, f"11.{n}.1.1") == verdict(harness, f"10.{n}.1.1", port=81) == "tx_syn"


def test_too_many_lists_are_refused_and_nothing_changes(harness: Harness) -> None:
    harness.reset([service(80)])
    three = [service(80 + n, access=access(Acl.WHITE, f"10.{n}.0.0/16")) for n in range(3)]
    with pytest.raises(TablesError, match="3 access lists do not fit"):
        harness.tables.apply(three, set(), harness.macs)
    assert verdict(harness, STRANGER) == "tx_syn"
    assert verdict(harness, STRANGER, port=81) == "pass_not_for_vip"


def test_a_change_of_list_leaves_no_gap(harness: Harness) -> None:
    """A client in both lists is denied before, during and after the change; each list takes a while to write."""
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(20_000)]
    lists = [access(Acl.BLACK, *LIST, *networks), access(Acl.BLACK, *LIST, *networks[1:])]
    harness.reset([service(80, access=lists[0])])
    frame = Packet(source=LISTED).frame()
    seen: list[int] = []
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            seen.append(harness.plane.run(frame)[0])

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        for n in range(1, 9):
            harness.tables.apply([service(80, access=lists[n % 2])], set(), harness.macs)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 100
    assert set(seen) == {1}


def test_100_000_networks(harness: Harness) -> None:
    networks = [f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24" for n in range(1 << 16 | 1, (1 << 16) + 200_000, 2)]
    assert len(networks) == 100_000
    harness.reset([service(80, access=access(Acl.BLACK, *networks))])
    for network in (networks[0], networks[50_000], networks[-1]):
        inside = network.replace(".0/24", ".77")
        a, b, c, d = map(int, inside.split("."))
        assert verdict(harness, inside) == "drop_denied"
        beside = (a << 16 | b << 8 | c) - 1
        assert verdict(harness, f"{beside >> 16}.{beside >> 8 & 255}.{beside & 255}.{d}") == "tx_syn"


def test_replies_are_not_asked(harness: Harness) -> None:
    """The list is about who may connect; what a server answers is for a client that was admitted."""
    of = service(80, reals=("10.0.1.1",), access=access(Acl.WHITE))
    harness.reset([of])
    answer = Packet(source="10.0.1.1", source_port=8080, destination=LISTED, port=40000, flags=ACK)
    assert harness.run(answer)[0] == "tx_reply"
