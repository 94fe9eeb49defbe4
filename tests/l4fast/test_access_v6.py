"""Access lists of IPv6 in the data plane, and beside those of IPv4."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.model import Acl, Mode
from core.prefixes import Prefixes
from core.resolve import Access
from tests.packets import ACK, FIN, SYN, Harness, Packet, service

pytestmark = pytest.mark.root

LISTED, STRANGER = "2001:db8:7::1", "2001:db8:8::1"
LISTED4 = "198.51.100.7"


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset()
    return roomy


def access(acl: Acl, *networks: str) -> Access:
    return Access(acl, Prefixes.of(networks, 6))


def verdict(harness: Harness, source: str, flags: int = SYN) -> str:
    packet = Packet(flags=flags).as_version(6)
    return harness.run(replace(packet, source=source))[0]


@pytest.mark.parametrize(
    ("acl", "networks", "admitted"),
    [
        (Acl.WHITE, ("2001:db8:7::/48",), {LISTED}),
        (Acl.BLACK, ("2001:db8:7::/48",), {STRANGER}),
        (Acl.WHITE, (), set()),
        (Acl.BLACK, (), {LISTED, STRANGER}),
        (Acl.WHITE, ("::/0",), {LISTED, STRANGER}),
        (Acl.BLACK, ("2001:db8:7::1/128",), {STRANGER}),
        (Acl.BLACK, ("2001:db8:7::/127",), {STRANGER}),
        (Acl.WHITE, ("2001:db8:7::", "2001:db8:7::2/127"), set()),
        (Acl.BLACK, ("2001:db8::/44",), set()),
        (Acl.WHITE, ("2001:db8:7::/64", "2001:db8:7::/48", "10.0.0.0/8"), {LISTED}),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_who_is_denied(harness: Harness, acl: Acl, networks: tuple[str, ...], admitted: set[str], mode: Mode) -> None:
    harness.reset([service(80, mode, access=access(acl, *networks), version=6)])
    for client in (LISTED, STRANGER):
        for flags in (SYN, ACK, ACK | FIN):
            assert (verdict(harness, client, flags) != "drop_denied") == (client in admitted)
    assert harness.tables.listener_counters()["tcp-80"]["denied"] == 3 * (2 - len(admitted))


def test_each_version_has_lists_of_its_own(harness: Harness) -> None:
    of6 = service(80, access=access(Acl.BLACK, "2001:db8:7::/48"), version=6)
    of4 = service(80, access=Access(Acl.WHITE, Prefixes.of(["198.51.100.0/24"])))
    harness.reset([of4, of6])
    assert (verdict(harness, LISTED), verdict(harness, STRANGER)) == ("drop_denied", "tx_syn")
    assert harness.run(Packet(source=LISTED4))[0] == "tx_syn"
    assert harness.run(Packet(source="203.0.113.9"))[0] == "drop_denied"


def test_a_session_ends_when_its_client_is_denied(harness: Harness) -> None:
    of = service(80, version=6)
    harness.reset([of])
    assert verdict(harness, LISTED, ACK) == "tx_new_session"
    assert verdict(harness, LISTED, ACK) == "tx_session"
    harness.tables.apply([replace(of, access=access(Acl.BLACK, "2001:db8:7::/48"))], set(), harness.macs)
    assert verdict(harness, LISTED, ACK) == "drop_denied"
    assert harness.tables.sessions() == []


def test_100_000_networks(harness: Harness) -> None:
    networks = [f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::/64" for n in range(0, 200_000, 2)]
    harness.reset([service(80, access=access(Acl.BLACK, *networks), version=6)])
    for n in (0, 100_000, 199_998):
        assert verdict(harness, f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}:1:2:3:4") == "drop_denied"
        assert verdict(harness, f"2001:db8:{n + 1 >> 16:x}:{n + 1 & 0xFFFF:x}:1:2:3:4") == "tx_syn"
