"""Real keepalived and real BIRD on two nodes and a router, without a data plane: who has which address, and when.

    router ── 10.77.0.1, fd77::1
    n1, n2 ── 10.77.0.11 and .12, fd77::11 and ::12

One network for each method. The tests of a method run in order: each begins where the one before has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import namespaces
from l4fast.announcing import Program
from l4fast.bgp import ESTABLISHED, Neighbour
from l4fast.bird import Bird
from l4fast.keepalived import Keepalived, take_off_leftovers
from l4fast.keeper import end_old
from l4fast.shares import shares
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings, locate
from l4fast.vip_states import VipState
from tests.l4fast.netns import Network, sh

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NODES = ("n1", "n2")
VIPS = ("10.77.0.100", "10.77.0.101", "fd77::100", "fd77::101")
NEW = "10.77.0.102"
LAST = {"router": 1, "n1": 11, "n2": 12}
TRIES = 3  # of what has to be quick: a busy machine may be late once


class Pair:
    """Two nodes that announce, and a router that listens."""

    def __init__(self, network: Network, directory: Path, make: Callable[[str, Path, str], Program]) -> None:
        self.network, self.directory, self._make = network, directory, make
        self.nodes: dict[str, Program] = {}
        self.pools: dict[str, Sequence[str]] = {}
        for host, last in LAST.items():
            network.host(host, f"10.77.0.{last}/24", "link set eth0 down", "link set eth0 addrgenmode none",
                         f"addr add fe80::{last}/64 dev eth0 nodad", f"addr add fd77::{last}/64 dev eth0 nodad",
                         "link set eth0 up")  # fmt: skip
            network.inside(host, lambda: sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0"))
        for node in NODES:
            self.begin(node)

    def begin(self, node: str) -> None:
        """As an agent that starts: what an earlier one has left goes first."""
        home = self.directory / node
        home.mkdir(exist_ok=True)
        end_old(home)
        self.network.inside(node, lambda: take_off_leftovers(home))
        self.nodes[node] = self.network.inside(node, lambda: self._make(node, home, f"10.77.0.{LAST[node]}"))

    def put(self, node: str, vips: Sequence[str]) -> None:
        everyones = frozenset(address for pool in self.pools.values() for address in pool)
        found = shares(vips, self.pools, NODES, node)
        self.run(node, lambda program: program.put(found, everyones))

    def run(self, node: str, call: Callable[[Program], Any]) -> None:
        """Calls a method of the node's program in its namespace and waits for it."""

        async def wait() -> None:
            await call(self.nodes[node])

        self.network.inside(node, lambda: asyncio.run(wait()))

    def states(self, node: str) -> dict[str, str]:
        program = self.nodes[node]
        program.renew()
        self.run(node, lambda program: program.poll())
        return {str(each["address"]): str(each["state"]) for each in program.states.report()}

    def held(self, node: str) -> set[str]:
        return {address for address, state in self.states(node).items() if state in ("master", "announced")}

    def transitions(self) -> dict[tuple[str, str], object]:
        return {
            (node, str(each["address"])): each["transitions"]
            for node in NODES
            for each in self.nodes[node].states.report()
        }

    def ip(self, host: str, *words: str) -> str:
        command = ["ip", "-n", f"{self.network.prefix}-{host}", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def here(self, node: str) -> set[str]:
        """The VIPs that are addresses of the node."""
        shown = self.ip(node, "-o", "addr", "show", "dev", "eth0")
        return {vip for vip in (*VIPS, NEW) if f" {vip}/" in shown}

    def mac(self, node: str) -> str:
        return self.ip(node, "-o", "link", "show", "dev", "eth0").split("link/ether ")[1].split()[0]

    def die(self, node: str) -> None:
        """The death of a machine: nothing of it does anything any more, not even on its link's end."""
        inside = [f"{self.network.prefix}-{node}"]
        for pid in namespaces.inhabitants(inside):
            os.kill(pid, signal.SIGSTOP)
        self.network.ip("sw", f"link set {node} down")
        namespaces.kill(inside)
        process = self.nodes[node]._keeper._process  # type: ignore[attr-defined]
        if process is not None:
            process.wait(10)

    def close(self) -> None:
        for node, program in self.nodes.items():
            if program.runs():
                self.run(node, lambda program: program.end())
            end_old(self.directory / node)
            program.close()
        namespaces.end([f"{self.network.prefix}-{host}" for host in LAST], grace_s=3.0)


def until(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ping(address: str) -> socket.socket:
    """A socket that asks an address for echoes; in the namespace of the calling thread."""
    family, protocol = (socket.AF_INET6, 58) if ":" in address else (socket.AF_INET, 1)
    sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    sock.settimeout(0.02)
    sock.connect((address, 0))
    return sock


def longest_silence_s(pair: Pair, address: str, meanwhile: Callable[[], None], for_s: float = 2.0) -> float:
    """How long the address did not answer the router, while something happened to its owner."""
    kind = 128 if ":" in address else 8
    sock = pair.network.inside("router", lambda: ping(address))
    worker = threading.Thread(target=meanwhile)
    began = last = time.monotonic()
    longest = 0.0
    started = False
    with sock:
        while time.monotonic() - began < for_s + 0.5:
            if not started and time.monotonic() - began > 0.3:
                worker.start()
                started = True
            try:
                sock.send(struct.pack("!BBHHH", kind, 0, 0, 0, 1))
                sock.recv(100)
            except OSError:
                pass
            else:
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
            time.sleep(0.01)
    worker.join()
    return max(longest, time.monotonic() - last)


# VRRP


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
    until(lambda: settled(vrrp, VIPS) and all(len(vrrp.held(node)) == 2 for node in NODES))
    for node in NODES:
        first = {share.address for share in shares(VIPS, {}, NODES, node) if share.rank == 0}
        assert vrrp.held(node) == first
        until(lambda node=node, first=first: vrrp.here(node) == first)  # type: ignore[misc]
        assert vrrp.nodes[node].problems() == []


def test_only_the_owner_answers(vrrp: Pair) -> None:
    for vip in VIPS:
        owner = next(node for node in NODES if vip in vrrp.held(node))
        with vrrp.network.inside("router", lambda vip=vip: ping(vip)) as sock:  # type: ignore[misc]
            until(lambda sock=sock, vip=vip: answers(sock, vip))  # type: ignore[misc]
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
    until(lambda: settled(vrrp, (*VIPS, NEW)))
    after = vrrp.transitions()
    assert {key: after[key] for key in before} == before
    for node in NODES:
        vrrp.put(node, VIPS)
    until(lambda: settled(vrrp, VIPS) and NEW not in vrrp.here("n1") | vrrp.here("n2"))
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
    until(lambda: settled(vrrp, (*VIPS, NEW)))
    for node in NODES:
        vrrp.put(node, VIPS)
    until(lambda: settled(vrrp, VIPS) and vrrp.here("n1") == before)


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

        until(named)
    assert "10.77.0.100" in vrrp.held(owner)


def test_an_interface_that_is_down_gives_its_vips_up_at_once(vrrp: Pair) -> None:
    vrrp.network.ip("n2", "link set eth0 down")
    until(lambda: set(vrrp.states("n2").values()) == {"fault"})
    assert vrrp.here("n2") == set()
    assert all("was given up: an interface is down" in text for text in vrrp.nodes["n2"].problems())
    until(lambda: vrrp.held("n1") == set(VIPS))
    vrrp.network.ip("n2", "link set eth0 up")
    for address in ("fe80::12/64", "fd77::12/64"):
        vrrp.network.ip("n2", f"addr replace {address} dev eth0 nodad")
    until(lambda: settled(vrrp, VIPS) and len(vrrp.held("n2")) == 2)


def test_on_the_way_out_nobody_waits_for_the_heir(vrrp: Pair) -> None:
    vip = next(vip for vip in VIPS if vip in vrrp.held("n1"))
    silence_s = longest_silence_s(vrrp, vip, lambda: vrrp.run("n1", lambda program: program.withdraw()))
    assert silence_s < 1
    assert vrrp.here("n1") == set()
    assert not vrrp.nodes["n1"].runs()
    assert set(vrrp.states("n1").values()) == {"withdrawn"}
    until(lambda: vrrp.held("n2") == set(VIPS))
    vrrp.nodes["n1"].close()
    vrrp.begin("n1")
    vrrp.put("n1", VIPS)
    until(lambda: settled(vrrp, VIPS) and len(vrrp.held("n1")) == 2)


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
        until(lambda: settled(vrrp, VIPS) and len(vrrp.held(victim)) == 2)
        if found[-1] < 1:
            return
    pytest.fail(f"silences of {found} s")


# BGP

ROUTER = """\
log stderr all;
router id 10.77.0.1;
protocol device { scan time 1; }
protocol bfd { interface "eth0" { interval 100 ms; multiplier 3; }; }
protocol kernel { ipv4 { import none; export all; }; merge paths on; }
protocol kernel { ipv6 { import none; export all; }; merge paths on; }
"""
ROUTED = ("203.0.113.80", "2001:db8:113::80")
ADDED = "203.0.113.81"


def bird(node: str, home: Path, address: str) -> Program:
    settings = VipSettings(
        "bgp", grace_s=60, local_as=65000 + LAST[node],
        neighbours=(Neighbour("10.77.0.1", 65000), Neighbour("fd77::1", 65000)), router_id=address,
    )  # fmt: skip
    return Bird(locate("bgp"), home, settings, node, "")


@pytest.fixture(scope="module")
def bgp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Network(f"pftb{os.getpid()}") as network:
        home = tmp_path_factory.mktemp("bgp")
        pair = Pair(network, home, bird)
        pair.pools = {"n1": ("10.77.9.1",), "n2": ("10.77.9.2",)}
        text = ROUTER
        for node in NODES:
            for ip, ours, theirs in ((4, "10.77.0.1", f"10.77.0.{LAST[node]}"), (6, "fd77::1", f"fd77::{LAST[node]}")):
                number = 65000 + LAST[node]
                text += (f"protocol bgp {node}_{ip} {{ local {ours} as 65000; neighbor {theirs} as {number}; "
                         f"bfd on; error wait time 1, 2; ipv{ip} {{ import all; export none; }}; }}\n")  # fmt: skip
        (home / "bird.conf").write_text(text)
        router = ["nsenter", f"--net={network.path('router')}", "bird", "-f", "-c", str(home / "bird.conf"),
                  "-s", str(home / "bird.ctl")]  # fmt: skip
        with (home / "log").open("wb") as log, subprocess.Popen(router, stderr=log) as process:
            try:
                yield pair
            finally:
                process.terminate()
                pair.close()


def hops(pair: Pair, address: str) -> set[str]:
    """The nodes to which the router sends what is for the address."""
    shown = pair.ip("router", "-6" if ":" in address else "-4", "route", "show", address)
    return {node for node in NODES for of in (f"10.77.0.{LAST[node]} ", f"fd77::{LAST[node]} ") if of in shown}


def sessions(pair: Pair, node: str) -> list[tuple[object, object]]:
    return [(peer["state"], peer["since"]) for peer in pair.nodes[node].peers()]


def test_routers_spread_over_the_nodes(bgp: Pair) -> None:
    for node in NODES:
        bgp.put(node, ROUTED)
    until(lambda: all(set(bgp.states(node).values()) == {"announced"} for node in NODES))
    for address in ROUTED:
        until(lambda address=address: hops(bgp, address) == set(NODES))  # type: ignore[misc]
    until(lambda: [hops(bgp, pool) for pool in ("10.77.9.1", "10.77.9.2")] == [{"n1"}, {"n2"}])
    for node in NODES:
        until(lambda node=node: bgp.states(node) and {p["bfd"] for p in bgp.nodes[node].peers()} == {"Up"})  # type: ignore[misc]
        assert {state for state, _ in sessions(bgp, node)} == {ESTABLISHED}
        assert bgp.nodes[node].problems() == []


def test_a_route_that_is_added_leaves_sessions_and_routes_alone(bgp: Pair) -> None:
    before, changes = [sessions(bgp, node) for node in NODES], bgp.transitions()
    for node in NODES:
        bgp.put(node, (*ROUTED, ADDED))
    until(lambda: hops(bgp, ADDED) == set(NODES))
    for node in NODES:
        bgp.states(node)
    assert [sessions(bgp, node) for node in NODES] == before
    after = bgp.transitions()
    assert {key: after[key] for key in changes} == changes


def test_routes_that_bird_refuses_change_nothing(bgp: Pair) -> None:
    program = bgp.nodes["n1"]
    program._password = '"'  # type: ignore[attr-defined]
    try:
        with pytest.raises(VipError, match="BIRD refuses its configuration"):
            bgp.put("n1", ROUTED)
    finally:
        program._password = ""  # type: ignore[attr-defined]
    assert hops(bgp, ADDED) == set(NODES)


def test_on_the_way_out_routes_go_while_the_session_stays(bgp: Pair) -> None:
    bgp.run("n1", lambda program: program.withdraw())
    until(lambda: all(hops(bgp, address) == {"n2"} for address in (*ROUTED, "10.77.9.1")))
    assert set(bgp.states("n1").values()) == {"withdrawn"}
    assert {state for state, _ in sessions(bgp, "n1")} == {ESTABLISHED}
    bgp.run("n1", lambda program: program.end())
    assert not bgp.nodes["n1"].runs()
    bgp.put("n1", ROUTED)
    until(lambda: all(hops(bgp, address) == set(NODES) for address in ROUTED))


def test_bfd_finds_a_dead_node_within_half_a_second(bgp: Pair) -> None:
    found = []
    for _ in range(TRIES):
        until(lambda: hops(bgp, ROUTED[0]) == set(NODES) == hops(bgp, ROUTED[1]))
        until(lambda: bgp.states("n2") and {peer["bfd"] for peer in bgp.nodes["n2"].peers()} == {"Up"})
        began = time.monotonic()
        bgp.network.ip("sw", "link set n2 down")
        while hops(bgp, ROUTED[0]) | hops(bgp, ROUTED[1]) != {"n1"}:
            assert time.monotonic() - began < 5
            time.sleep(0.005)
        found.append(time.monotonic() - began)
        bgp.die("n2")
        bgp.network.ip("sw", "link set n2 up")
        bgp.begin("n2")
        bgp.put("n2", ROUTED)
        if found[-1] <= 0.5:
            return
    pytest.fail(f"{found} s")


def test_without_a_router_nobody_hears(bgp: Pair) -> None:
    until(lambda: bgp.held("n2"))
    bgp.network.ip("router", "link set eth0 down")
    until(lambda: set(bgp.states("n2").values()) == {VipState.UNHEARD})
    assert {peer["up"] for peer in bgp.nodes["n2"].peers()} == {False}


def test_a_bird_that_is_killed_announces_the_same_again(bgp: Pair) -> None:
    bgp.network.ip("router", "link set eth0 up")
    bgp.network.ip("router", "addr replace fd77::1/64 dev eth0 nodad")
    bgp.network.ip("router", "addr replace fe80::1/64 dev eth0 nodad")
    until(lambda: all(hops(bgp, address) == set(NODES) for address in ROUTED), limit_s=30)
    os.kill(int((bgp.directory / "n1/bird.pid").read_text()), signal.SIGKILL)
    until(lambda: hops(bgp, ROUTED[0]) == {"n2"})
    until(lambda: all(hops(bgp, address) == set(NODES) for address in ROUTED), limit_s=30)
