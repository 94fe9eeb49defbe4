"""Real keepalived on two nodes: who has which VIP, and when.

The tests run in order: each begins where the one before has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from l4fast.announcing import Program
from l4fast.keepalived import Keepalived
from l4fast.shares import shares
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings, locate
from tests.l4fast.netns import Network
from tests.l4fast.pair import NODES, TRIES, Pair, longest_silence_s, ping
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

VIPS = ("10.77.0.100", "10.77.0.101", "fd77::100", "fd77::101")
NEW = "10.77.0.102"


def keepalived(node: str, home: Path, _address: str) -> Program:
    return Keepalived(locate("vrrp"), home, VipSettings("vrrp", grace_s=60), node, ["eth0"])


@pytest.fixture(scope="module")
def vrrp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Network(f"pftv{os.getpid()}") as network:
        pair = Pair(network, tmp_path_factory.mktemp("vrrp"), keepalived)
        pair.network.inside("router", lambda: subprocess.run(
            ["sysctl", "-qw", "net.ipv4.ping_group_range=0 0"], check=True))  # fmt: skip
        try:
            yield pair
        finally:
            pair.close()


def settled(pair: Pair, vips: Sequence[str]) -> bool:
    held = [pair.held(node) for node in NODES]
    return set.union(*held) == set(vips) and not set.intersection(*held)


def test_each_node_takes_its_share(vrrp: Pair) -> None:
    for node in NODES:
        vrrp.put(node, VIPS)
    eventually(lambda: settled(vrrp, VIPS) and all(len(vrrp.held(node)) == 2 for node in NODES))
    for node in NODES:
        first = {share.address for share in shares(VIPS, {}, NODES, node) if share.rank == 0}
        assert vrrp.held(node) == first
        eventually(lambda node=node, first=first: vrrp.here(node) == first)  # type: ignore[misc]
        assert vrrp.nodes[node].problems() == []


def test_only_the_owner_answers(vrrp: Pair) -> None:
    for vip in VIPS:
        owner = next(node for node in NODES if vip in vrrp.held(node))
        with vrrp.network.inside("router", lambda vip=vip: ping(vip)) as sock:  # type: ignore[misc]
            eventually(lambda sock=sock, vip=vip: answers(sock, vip))  # type: ignore[misc]
        assert vrrp.mac(owner) in vrrp.ip("router", "neigh", "show", vip)


def answers(sock: socket.socket, address: str) -> bool:
    try:
        sock.send(struct.pack("!BBHHH", 128 if ":" in address else 8, 0, 0, 0, 1))
        return bool(sock.recv(100))
    except OSError:
        return False


def test_a_vip_that_is_added_leaves_the_others_alone(vrrp: Pair) -> None:
    before = vrrp.transitions()
    for node in NODES:
        vrrp.put(node, (*VIPS, NEW))
    eventually(lambda: settled(vrrp, (*VIPS, NEW)))
    after = vrrp.transitions()
    assert {key: after[key] for key in before} == before
    for node in NODES:
        vrrp.put(node, VIPS)
    eventually(lambda: settled(vrrp, VIPS) and NEW not in vrrp.here("n1") | vrrp.here("n2"))
    assert vrrp.transitions() == before


def test_the_next_agent_goes_on_and_knows_the_states(vrrp: Pair) -> None:
    """The one before was killed: nothing of it was closed or ended."""
    before, held = vrrp.here("n1"), vrrp.held("n1")
    second = vrrp.network.inside("n1", lambda: keepalived("n1", vrrp.directory / "n1", ""))
    assert vrrp.network.inside("n1", second.adopt)
    first, vrrp.nodes["n1"] = vrrp.nodes["n1"], second
    first._keeper._process.returncode = 0  # type: ignore[attr-defined]  # or Popen would warn that it still runs
    first.close()
    assert (second.runs(), vrrp.held("n1")) == (True, held)
    for node in NODES:
        vrrp.put(node, (*VIPS, NEW))
    eventually(lambda: settled(vrrp, (*VIPS, NEW)))
    for node in NODES:
        vrrp.put(node, VIPS)
    eventually(lambda: settled(vrrp, VIPS) and vrrp.here("n1") == before)


def test_a_configuration_that_is_refused_changes_nothing(vrrp: Pair) -> None:
    before = (vrrp.directory / "n1/keepalived.conf").read_text()
    program = vrrp.nodes["n1"]
    program._interface = "pftnone"  # type: ignore[attr-defined]
    try:
        with pytest.raises(VipError, match=r"keepalived refuses its configuration .*pftnone"):
            vrrp.put("n1", (*VIPS, NEW))
    finally:
        program._interface = "eth0"  # type: ignore[attr-defined]
    assert (vrrp.directory / "n1/keepalived.conf").read_text() == before
    assert settled(vrrp, VIPS)


def advert(router_id: int, priority: int, source: str) -> bytes:
    """A VRRP advertisement of one address (RFC 9568, 5.1), with its checksum over the pseudo header."""
    body = struct.pack("!BBBBHH4s", 0x31, router_id, priority, 1, 10, 0, socket.inet_aton("10.77.0.100"))
    pseudo = socket.inet_aton(source) + socket.inet_aton("224.0.0.18") + struct.pack("!BBH", 0, 112, len(body))
    total = sum(struct.unpack(f"!{(len(pseudo) + len(body)) // 2}H", pseudo + body))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return body[:6] + struct.pack("!H", ~total & 0xFFFF) + body[8:]


def test_another_master_that_hears_nobody_is_a_problem(vrrp: Pair) -> None:
    owner = next(node for node in NODES if "10.77.0.100" in vrrp.held(node))

    def speak() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.77.0.1"))
        return sock

    packet = advert(100, 1, "10.77.0.1")
    with vrrp.network.inside("router", speak) as sock:

        def named() -> bool:
            sock.sendto(packet, ("224.0.0.18", 0))
            vrrp.states(owner)
            return any("two machines have the VIP 10.77.0.100" in text for text in vrrp.nodes[owner].problems())

        eventually(named)
    assert "10.77.0.100" in vrrp.held(owner)


def test_an_interface_that_is_down_gives_its_vips_up_at_once(vrrp: Pair) -> None:
    vrrp.network.ip("n2", "link set eth0 down")
    eventually(lambda: set(vrrp.states("n2").values()) == {"fault"})
    assert vrrp.here("n2") == set()
    assert all("was given up: an interface is down" in text for text in vrrp.nodes["n2"].problems())
    eventually(lambda: vrrp.held("n1") == set(VIPS))
    vrrp.network.ip("n2", "link set eth0 up")
    for address in ("fe80::12/64", "fd77::12/64"):
        vrrp.network.ip("n2", f"addr replace {address} dev eth0 nodad")
    eventually(lambda: settled(vrrp, VIPS) and len(vrrp.held("n2")) == 2)


def test_on_the_way_out_nobody_waits_for_the_heir(vrrp: Pair) -> None:
    vip = next(vip for vip in VIPS if vip in vrrp.held("n1"))
    silence_s = longest_silence_s(vrrp, vip, lambda: vrrp.run("n1", lambda program: program.withdraw()))
    assert silence_s < 1
    assert vrrp.here("n1") == set()
    assert not vrrp.nodes["n1"].runs()
    assert set(vrrp.states("n1").values()) == {"withdrawn"}
    eventually(lambda: vrrp.held("n2") == set(VIPS))
    vrrp.nodes["n1"].close()
    vrrp.begin("n1")
    vrrp.put("n1", VIPS)
    eventually(lambda: settled(vrrp, VIPS) and len(vrrp.held("n1")) == 2)


@pytest.mark.parametrize("ip", [4, 6])
def test_a_node_that_dies_is_replaced_within_a_second(vrrp: Pair, ip: int) -> None:
    vip = next(vip for vip in VIPS if (":" in vip) == (ip == 6))
    victim = "n1" if vip in vrrp.held("n1") else "n2"
    heir = "n1" if victim == "n2" else "n2"
    found = []
    for _ in range(TRIES):
        found.append(longest_silence_s(vrrp, vip, lambda: vrrp.die(victim)))
        assert vrrp.held(heir) == set(VIPS)
        assert vrrp.here(victim)  # nobody has taken them off
        vrrp.network.ip("sw", f"link set {victim} up")
        vrrp.nodes[victim].close()
        vrrp.begin(victim)
        assert vrrp.here(victim) == set()
        vrrp.put(victim, VIPS)
        eventually(lambda: settled(vrrp, VIPS) and len(vrrp.held(victim)) == 2)
        if found[-1] < 1:
            return
    pytest.fail(f"silences of {found} s")


def test_a_keepalived_that_cannot_run_holds_nothing(vrrp: Pair) -> None:
    home = vrrp.directory / "n2"
    (home / "keepalived.conf").write_text("vrrp_instance x {\n    interface pftnone\n    virtual_router_id 9\n}\n")
    os.kill(int((home / "keepalived.pid").read_text()), signal.SIGTERM)
    eventually(lambda: set(vrrp.states("n2").values()) == {"fault"})
    assert [text.partition(",")[0] for text in vrrp.nodes["n2"].problems()] == ["keepalived does not run"]
    eventually(lambda: vrrp.held("n1") == set(VIPS))
    (home / "keepalived.conf").unlink()
    with pytest.raises(VipError, match="keepalived does not run"):
        vrrp.put("n2", VIPS)
    eventually(lambda: settled(vrrp, VIPS) and len(vrrp.held("n2")) == 2)
    vrrp.put("n2", VIPS)
    assert vrrp.nodes["n2"].problems() == []


def test_without_an_agent_the_vips_go_after_the_grace(vrrp: Pair) -> None:
    """The agent is dead or stuck: it renews nothing."""
    vrrp.run("n1", lambda program: program.end())
    vrrp.nodes["n1"].close()
    home = vrrp.directory / "n1"
    vrrp.nodes["n1"] = vrrp.network.inside(
        "n1", lambda: Keepalived(locate("vrrp"), home, VipSettings("vrrp", grace_s=2), "n1", ["eth0"])
    )
    vrrp.put("n1", VIPS)
    eventually(lambda: settled(vrrp, VIPS) and len(vrrp.held("n1")) == 2)
    began = time.monotonic()
    eventually(lambda: vrrp.held("n2") == set(VIPS))
    assert time.monotonic() - began > 1  # not at once
    eventually(lambda: vrrp.here("n1") == set() and not vrrp.nodes["n1"].runs())
    assert "has not renewed its lease for 2 s" in (home / "log").read_text()


def test_a_node_with_two_interfaces_has_its_vips_on_both_and_needs_both(vrrp: Pair) -> None:
    """Servers behind the second one may use a VIP as their gateway."""
    vrrp.network.ip("n1", "link add eth1 type veth peer name eth1-end")
    for name in ("eth1", "eth1-end"):
        vrrp.network.ip("n1", f"link set {name} up")
    home = vrrp.directory / "n1"
    vrrp.nodes["n1"].close()
    vrrp.nodes["n1"] = vrrp.network.inside(
        "n1", lambda: Keepalived(locate("vrrp"), home, VipSettings("vrrp", grace_s=60), "n1", ["eth0", "eth1"])
    )
    vrrp.put("n1", VIPS)
    eventually(lambda: settled(vrrp, VIPS) and len(vrrp.held("n1")) == 2)

    def on_eth1() -> set[str]:
        shown = vrrp.ip("n1", "-o", "addr", "show", "dev", "eth1").split()
        return {word.partition("/")[0] for word in shown if word.endswith(("/32", "/128"))}

    eventually(lambda: on_eth1() == vrrp.here("n1") == vrrp.held("n1"))
    vrrp.network.ip("n1", "link set eth1-end down")
    eventually(lambda: set(vrrp.states("n1").values()) == {"fault"} and vrrp.here("n1") == on_eth1() == set())
    eventually(lambda: vrrp.held("n2") == set(VIPS))
