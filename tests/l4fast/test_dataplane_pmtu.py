"""Path MTU discovery and ping through real routers: narrow links between the clients and the node, and between the node
and a server, in nat, dr and tunnel.

    client ──1340── router ──┬── node
                             ├── near (server)
                             └── middle ──1340── far (server)

Everything is there in IPv4 and in IPv6. (With links of less than 1,320 a tunnel would have no room for the 1,280 bytes
that every IPv6 packet may have.) The client has two addresses, as in test_dataplane_netns.py: answers for the one come
back through the node (nat), for the other straight to the router.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.decap import Decap
from l4fast.hops import Hop
from l4fast.loader import XDP_FLAGS, DataPlane, Program
from l4fast.neighbours import Neighbours
from l4fast.tables import Tables
from tests.l4fast.netns import Network

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Addresses:
    """Of one IP version: `lan` is what hosts on the bridge have before their number, `header` the size of an IP header,
    `level` … `mtu` the socket options of path MTU discovery."""

    family: socket.AddressFamily
    length: int
    lan: str
    lan_length: int
    uplink: str
    behind: str
    vip: str
    via_node: str
    direct: str
    header: int
    level: int
    discover: int
    mtu: int

    def of(self, host: str) -> str:
        return self.behind + "2" if host == "far" else f"{self.lan}{NUMBERS[host]}"

    def source(self, mode: Mode) -> str:
        return self.via_node if mode is Mode.NAT else self.direct


NUMBERS = {"router": 1, "node": 2, "middle": 3, "near": 11}
# The numbers of the options are those of <linux/in.h> and <linux/in6.h>.
VERSIONS = {
    4: Addresses(
        socket.AF_INET, 32, "10.88.0.", 24, "203.0.113.", "10.89.0.", "10.88.0.100", "198.51.100.1", "198.51.100.2",
        20, socket.IPPROTO_IP, 10, 14,
    ),
    6: Addresses(
        socket.AF_INET6, 128, "2001:db8:88::", 64, "2001:db8:113::", "2001:db8:89::", "2001:db8:88::100",
        "2001:db8:5::1", "2001:db8:5::2", 40, socket.IPPROTO_IPV6, 23, 24,
    ),
}  # fmt: skip
IP_PMTUDISC_DO = 2
NARROW = 1340
PORTS = {Mode.NAT: 80, Mode.DR: 81, Mode.TUNNEL: 82}
FAR_PORTS = {Mode.NAT: 90, Mode.TUNNEL: 92}
REAL_PORT = 8080
PASS = "#include <linux/bpf.h>\nint pass(struct xdp_md *ctx) { return XDP_PASS; }\n"
DOWNLOAD = os.urandom(200_000)
_serial = itertools.count()


@dataclass
class Site:
    network: Network
    tables: Tables

    def gained(self, name: str, before: dict[str, int]) -> int:
        return self.tables.counters()[name] - before[name]


def services() -> list[L4Service]:
    def of(at: Addresses, port: int, mode: Mode, protocol: str, host: str) -> L4Service:
        real_port = REAL_PORT if mode is Mode.NAT else port
        real = Real(at.of(host), real_port, 100, real_port)
        name = f"{protocol}-{port}-{at.family.name}"
        return L4Service(name, at.vip, port, protocol, mode, Scheduler.MAGLEV, (real,), None, 900)

    places = [(mode, port, "near") for mode, port in PORTS.items()]
    places += [(mode, port, "far") for mode, port in FAR_PORTS.items()]
    return [
        of(at, port, mode, protocol, host)
        for at in VERSIONS.values()
        for mode, port, host in places
        for protocol in ("tcp", "udp")
    ]


def wire(network: Network) -> None:
    for name, number in NUMBERS.items():
        network.host(name, f"10.88.0.{number}/24", f"addr add fe80::{number}/64 dev eth0 nodad")
    for name in ("client", "far"):
        network._namespace(name)
    for one, other, device in (("router", "client", "c0"), ("middle", "far", "f0")):
        network.ip(one, f"link add {device} mtu {NARROW} type veth peer name eth0 netns {network.prefix}-{other}")
        for host, name in ((one, device), (other, "eth0")):
            network.inside(host, lambda name=name: sh("ethtool", "-K", name, "tx", "off"))  # type: ignore[misc]
            network.ip(host, f"link set {name} up")
    for number, (host, name) in enumerate((("router", "c0"), ("client", "eth0"), ("middle", "f0"), ("far", "eth0"))):
        network.ip(host, f"addr add fe80::{number % 2 + 1}/64 dev {name} nodad")
    for at in VERSIONS.values():
        route(network, at)
    settings = [f"net.ipv4.conf.{name}.rp_filter=0" for name in ("all", "default", "eth0")]
    settings += ["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2", "net.ipv4.icmp_ratelimit=0"]
    settings += ["net.ipv6.icmp.ratelimit=0"]
    for host in ("router", "node", "near", "middle", "far", "client"):
        forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] if host in ("router", "middle") else []
        redirects = [f"net.ipv4.conf.{name}.send_redirects=0" for name in ("all", "eth0")]
        network.inside(host, lambda all=settings + forward + redirects: sh("sysctl", "-qw", *all))  # type: ignore[misc]


def route(network: Network, at: Addresses) -> None:
    """The addresses and routes of one version."""
    own, lan = at.length, f"{at.lan_length} dev eth0" + " nodad" * (at.family == socket.AF_INET6)
    if at.family == socket.AF_INET6:
        for host in NUMBERS:
            network.ip(host, f"addr add {at.of(host)}/{lan}")
    network.ip("router", f"addr add {at.uplink}1/{lan.replace('eth0', 'c0')}")
    network.ip("client", f"addr add {at.uplink}2/{lan}")
    network.ip("middle", f"addr add {at.behind}1/{lan.replace('eth0', 'f0')}")
    network.ip("far", f"addr add {at.behind}2/{lan}")
    for address in (at.via_node, at.direct):
        network.ip("client", f"addr add {address}/{own} dev lo")
        network.ip("router", f"route add {address}/{own} via {at.uplink}2")
    network.ip("client", f"route add default via {at.uplink}1")
    network.ip("far", f"route add default via {at.behind}1")
    network.ip("router", f"route add {at.vip}/{own} via {at.of('node')}")
    network.ip("node", f"route add default via {at.of('router')}")
    network.ip("node", f"route add {at.of('far')}/{own} via {at.of('middle')}")
    for host in ("near", "middle"):
        network.ip(host, f"route add {at.via_node}/{own} via {at.of('node')}")
        network.ip(host, f"route add default via {at.of('router')}")
    for host in ("near", "far"):
        network.ip(host, f"addr add {at.vip}/{own} dev lo")


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def serve_tcp(listening: socket.socket) -> None:
    """A download for everybody who connects, until the socket is shut down."""
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        with sock, contextlib.suppress(OSError):
            sock.sendall(DOWNLOAD)


def serve_udp(sock: socket.socket) -> None:
    """Echo, until an empty datagram comes."""
    while True:
        data, sender = sock.recvfrom(65535)
        if not data:
            return
        sock.sendto(data, sender)


@contextlib.contextmanager
def serving(network: Network) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        places = (
            (of, host, ports) for of in VERSIONS.values() for host, ports in (("near", PORTS), ("far", FAR_PORTS))
        )
        for of, host, ports in places:
            for mode, port in ports.items():
                at, family = (of.of(host), REAL_PORT) if mode is Mode.NAT else (of.vip, port), of.family
                tcp = network.inside(host, lambda at=at, of=family: socket.create_server(at, family=of))  # type: ignore[misc]
                udp, stop = (
                    network.inside(host, lambda of=family: socket.socket(of, socket.SOCK_DGRAM))  # type: ignore[misc]
                    for _ in range(2)
                )
                udp.bind(at)
                for sock, run in ((tcp, serve_tcp), (udp, serve_udp)):
                    stack.enter_context(sock)
                    thread = threading.Thread(target=run, args=(sock,))
                    thread.start()
                    stack.callback(thread.join)
                stack.enter_context(stop)
                stack.callback(stop.sendto, b"", at)
                stack.callback(tcp.shutdown, socket.SHUT_RDWR)
        yield


@pytest.fixture(scope="module", params=["native", "generic"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mode: Literal["native", "generic"] = request.param
    source: Path = tmp_path_factory.mktemp("xdp") / "pass.c"
    source.write_text(PASS)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(f"pftm{os.getpid()}{next(_serial)}"))
        wire(network)
        plane = DataPlane.load(sessions=4096)
        stack.callback(plane.close)
        other_end = Program(source, ("pass",), {})
        stack.callback(other_end.close)
        network.inside("sw", lambda: other_end.attach("node", "pass", XDP_FLAGS[mode]))
        decap = Decap([at.vip for at in VERSIONS.values()], [at.of("node") for at in VERSIONS.values()])
        stack.callback(decap.program.close)
        for server in ("near", "far"):
            network.inside(server, lambda: decap.attach("eth0", mode))
            stack.callback(network.inside, server, lambda: decap.program.detach("eth0", XDP_FLAGS[mode]))
        tables = Tables(plane)
        network.inside("node", lambda: plane.attach("eth0", mode))
        stack.callback(network.inside, "node", plane.detach)
        tables.set_epoch(1_000_000)
        tables.set_local([at.of("node") for at in VERSIONS.values()])
        tables.apply(services(), set(), network.inside("node", resolved))
        stack.enter_context(serving(network))
        yield Site(network, tables)


def resolved() -> Mapping[str, Hop]:
    """Next hops, as seen from within the node."""
    hops = Neighbours("eth0")
    asyncio.run(hops.watch({at.of(host) for at in VERSIONS.values() for host in ("near", "far")}))
    return hops.hops()


@pytest.fixture(params=VERSIONS, ids=["ipv4", "ipv6"])
def at(request: pytest.FixtureRequest) -> Addresses:
    return VERSIONS[request.param]


def connect(site: Site, at: Addresses, mode: Mode) -> socket.socket:
    return site.network.inside(
        "client",
        lambda: socket.create_connection((at.vip, PORTS[mode]), timeout=10, source_address=(at.source(mode), 0)),
    )


def forget(site: Site, host: str) -> None:
    """What path MTU discovery has taught the host."""
    for version in ("-4", "-6"):
        site.network.ip(host, f"{version} route flush cache")


def test_ping(site: Site, at: Addresses) -> None:
    before = site.tables.counters()
    site.network.inside("client", lambda: sh("ping", "-c", "3", "-i", "0.02", "-W", "2", "-s", "100", at.vip))
    assert site.gained("tx_echo", before) == 3


@pytest.mark.parametrize("mode", PORTS, ids=[mode.value for mode in PORTS])
def test_servers_learn_of_a_narrow_link_to_the_client(site: Site, at: Addresses, mode: Mode) -> None:
    """The router refuses the server's full-sized segments by an error to the VIP, which is where they came from."""
    forget(site, "near")
    before = site.tables.counters()
    with connect(site, at, mode) as sock:
        assert b"".join(iter(lambda: sock.recv(1 << 16), b"")) == DOWNLOAD
    assert site.gained("tx_error", before) > 0
    routes = subprocess.run(
        ["ip", "-n", f"{site.network.prefix}-near", "route", "get", at.source(mode),
         *(() if mode is Mode.NAT else ("from", at.vip))], check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert f"mtu {NARROW}" in routes


@pytest.mark.parametrize("mode", [Mode.NAT, Mode.TUNNEL], ids=["nat", "tunnel"])
def test_clients_learn_of_a_narrow_link_to_the_server(site: Site, at: Addresses, mode: Mode) -> None:
    left = NARROW - (at.header if mode is Mode.TUNNEL else 0)
    before = site.tables.counters()
    forget(site, "client")
    site.network.ip("router", "link set c0 mtu 1500")
    try:
        with site.network.inside("client", lambda: socket.socket(at.family, socket.SOCK_DGRAM)) as sock:
            sock.bind((at.source(mode), 0))
            sock.settimeout(5)
            sock.setsockopt(at.level, at.discover, IP_PMTUDISC_DO)
            sock.connect((at.vip, FAR_PORTS[mode]))
            sock.send(bytes(1400))  # fits the node's own link, with the tunnel's header too
            with pytest.raises(OSError, match="Message too long"):
                sock.recv(2048)
            assert sock.getsockopt(at.level, at.mtu) == left
            fits = bytes(left - at.header - 8)
            sock.send(fits)
            assert sock.recv(2048) == fits
    finally:
        site.network.ip("router", f"link set c0 mtu {NARROW}")
    assert site.gained("tx_reply_error" if mode is Mode.NAT else "tx_too_big", before) == 1


def test_a_closed_port_is_told_to_the_client(site: Site, at: Addresses) -> None:
    """The server's kernel answers a datagram that nobody takes by an error, which the client's socket reports."""
    of = services()
    reals = (Real(at.of("near"), 9, 100, 9),)
    closed = L4Service("closed", at.vip, 99, "udp", Mode.NAT, Scheduler.MAGLEV, reals, None, 900)
    hops = site.network.inside("node", resolved)
    site.tables.apply([*of, closed], set(), hops)
    try:
        with site.network.inside("client", lambda: socket.socket(at.family, socket.SOCK_DGRAM)) as sock:
            sock.bind((at.via_node, 0))
            sock.settimeout(5)
            sock.connect((at.vip, 99))
            sock.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
    finally:
        site.tables.apply(of, set(), hops)
