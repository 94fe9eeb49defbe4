"""Path MTU discovery and ping through real routers: narrow links between the clients and the node, and between the node
and a server, in nat, dr and tunnel.

    client ──1300── router ──┬── node
                             ├── near (server)
                             └── middle ──1300── far (server)

The client has two addresses, as in test_dataplane_netns.py: answers for the one come back through the node (nat), for
the other straight to the router.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.decap import Decap
from l4fast.loader import XDP_FLAGS, DataPlane, Program
from l4fast.neighbours import Neighbours
from l4fast.tables import Tables
from tests.l4fast.netns import Network

pytestmark = pytest.mark.root

VIP = "10.88.0.100"
NODE, ROUTER, NEAR, MIDDLE, FAR = "10.88.0.2", "10.88.0.1", "10.88.0.11", "10.88.0.3", "10.89.0.2"
VIA_NODE, DIRECT = "198.51.100.1", "198.51.100.2"
NARROW = 1300
PORTS = {Mode.NAT: 80, Mode.DR: 81, Mode.TUNNEL: 82}
FAR_PORTS = {Mode.NAT: 90, Mode.TUNNEL: 92}
REAL_PORT = 8080
SOURCES = {Mode.NAT: VIA_NODE, Mode.DR: DIRECT, Mode.TUNNEL: DIRECT}
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14  # <linux/in.h>
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
    def of(port: int, mode: Mode, protocol: str, address: str) -> L4Service:
        real_port = REAL_PORT if mode is Mode.NAT else port
        real = Real(address, real_port, 100, real_port)
        return L4Service(f"{protocol}-{port}", VIP, port, protocol, mode, Scheduler.MAGLEV, (real,), None, 900)

    places = [(mode, port, NEAR) for mode, port in PORTS.items()] + [
        (mode, port, FAR) for mode, port in FAR_PORTS.items()
    ]
    return [of(port, mode, protocol, address) for mode, port, address in places for protocol in ("tcp", "udp")]


def wire(network: Network) -> None:
    for name, address in (("router", ROUTER), ("node", NODE), ("near", NEAR), ("middle", MIDDLE)):
        network.host(name, f"{address}/24")
    for name in ("client", "far"):
        network._namespace(name)
    for one, other, device in (("router", "client", "c0"), ("middle", "far", "f0")):
        network.ip(one, f"link add {device} mtu {NARROW} type veth peer name eth0 netns {network.prefix}-{other}")
        for host, name in ((one, device), (other, "eth0")):
            network.inside(host, lambda name=name: sh("ethtool", "-K", name, "tx", "off"))  # type: ignore[misc]
            network.ip(host, f"link set {name} up")
    network.ip("router", "addr add 203.0.113.1/24 dev c0")
    network.ip("client", "addr add 203.0.113.2/24 dev eth0")
    network.ip("middle", "addr add 10.89.0.1/24 dev f0")
    network.ip("far", f"addr add {FAR}/24 dev eth0")
    for address in (VIA_NODE, DIRECT):
        network.ip("client", f"addr add {address}/32 dev lo")
        network.ip("router", f"route add {address}/32 via 203.0.113.2")
    network.ip("client", "route add default via 203.0.113.1")
    network.ip("far", "route add default via 10.89.0.1")
    network.ip("router", f"route add {VIP}/32 via {NODE}")
    network.ip("node", f"route add default via {ROUTER}")
    network.ip("node", f"route add {FAR}/32 via {MIDDLE}")
    for host in ("near", "middle"):
        network.ip(host, f"route add {VIA_NODE}/32 via {NODE}")
        network.ip(host, f"route add default via {ROUTER}")
    for host in ("near", "far"):
        network.ip(host, f"addr add {VIP}/32 dev lo")
    settings = [f"net.ipv4.conf.{name}.rp_filter=0" for name in ("all", "default", "eth0")]
    settings += ["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2", "net.ipv4.icmp_ratelimit=0"]
    for host in ("router", "node", "near", "middle", "far", "client"):
        forward = ["net.ipv4.ip_forward=1"] if host in ("router", "middle") else []
        redirects = [f"net.ipv4.conf.{name}.send_redirects=0" for name in ("all", "eth0")]
        network.inside(host, lambda all=settings + forward + redirects: sh("sysctl", "-qw", *all))  # type: ignore[misc]


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
        for host, address, ports in (("near", NEAR, PORTS), ("far", FAR, FAR_PORTS)):
            for mode, port in ports.items():
                at = (address, REAL_PORT) if mode is Mode.NAT else (VIP, port)
                tcp = network.inside(host, lambda at=at: socket.create_server(at))  # type: ignore[misc]
                udp = network.inside(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                stop = network.inside(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
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
        decap = Decap([VIP], [NODE])
        stack.callback(decap.program.close)
        for server in ("near", "far"):
            network.inside(server, lambda: decap.attach("eth0", mode))
            stack.callback(network.inside, server, lambda: decap.program.detach("eth0", XDP_FLAGS[mode]))
        tables = Tables(plane)
        hops = Neighbours("eth0")

        def attach() -> None:
            plane.attach("eth0", mode)
            asyncio.run(hops.watch({NEAR, FAR}))

        network.inside("node", attach)
        stack.callback(network.inside, "node", plane.detach)
        tables.set_epoch(1_000_000)
        tables.set_local([NODE])
        tables.apply(services(), set(), hops.hops())
        stack.enter_context(serving(network))
        yield Site(network, tables)


def connect(site: Site, source: str, port: int) -> socket.socket:
    return site.network.inside(
        "client", lambda: socket.create_connection((VIP, port), timeout=10, source_address=(source, 0))
    )


def test_ping(site: Site) -> None:
    before = site.tables.counters()
    site.network.inside("client", lambda: sh("ping", "-c", "3", "-i", "0.02", "-W", "2", "-s", "100", VIP))
    assert site.gained("tx_echo", before) == 3


@pytest.mark.parametrize("mode", PORTS, ids=[mode.value for mode in PORTS])
def test_servers_learn_of_a_narrow_link_to_the_client(site: Site, mode: Mode) -> None:
    """The router refuses the server's full-sized segments by an error to the VIP, which is where they came from."""
    site.network.ip("near", "route flush cache")
    before = site.tables.counters()
    with connect(site, SOURCES[mode], PORTS[mode]) as sock:
        assert b"".join(iter(lambda: sock.recv(1 << 16), b"")) == DOWNLOAD
    assert site.gained("tx_error", before) > 0
    routes = subprocess.run(
        ["ip", "-n", f"{site.network.prefix}-near", "route", "get", SOURCES[mode],
         *(() if mode is Mode.NAT else ("from", VIP))], check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert f"mtu {NARROW}" in routes


@pytest.mark.parametrize(("mode", "left"), [(Mode.NAT, NARROW), (Mode.TUNNEL, NARROW - 20)], ids=["nat", "tunnel"])
def test_clients_learn_of_a_narrow_link_to_the_server(site: Site, mode: Mode, left: int) -> None:
    before = site.tables.counters()
    site.network.ip("client", "route flush cache")
    site.network.ip("router", "link set c0 mtu 1500")
    try:
        with site.network.inside("client", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind((SOURCES[mode], 0))
            sock.settimeout(5)
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sock.connect((VIP, FAR_PORTS[mode]))
            sock.send(bytes(1440))
            with pytest.raises(OSError, match="Message too long"):
                sock.recv(2048)
            assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == left
            sock.send(bytes(left - 28))
            assert sock.recv(2048) == bytes(left - 28)
    finally:
        site.network.ip("router", f"link set c0 mtu {NARROW}")
    assert site.gained("tx_reply_error" if mode is Mode.NAT else "tx_too_big", before) == 1


def test_a_closed_port_is_told_to_the_client(site: Site) -> None:
    """The server's kernel answers a datagram that nobody takes by an error, which the client's socket reports."""
    of = services()
    closed = L4Service("closed", VIP, 99, "udp", Mode.NAT, Scheduler.MAGLEV, (Real(NEAR, 9, 100, 9),), None, 900)
    hops = Neighbours("eth0")
    site.network.inside("node", lambda: asyncio.run(hops.watch({NEAR, FAR})))
    site.tables.apply([*of, closed], set(), hops.hops())
    try:
        with site.network.inside("client", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind((VIA_NODE, 0))
            sock.settimeout(5)
            sock.connect((VIP, 99))
            sock.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
    finally:
        site.tables.apply(of, set(), hops.hops())
