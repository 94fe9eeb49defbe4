"""A node between two networks: clients behind one interface, servers behind the other, with real connections.

    client c0 ── e0 node e1 ── s0 server

In nat the server answers through the node's XDP, in dr through the node's kernel, which is a router here. Behind a VIP
of its own the node is a server itself. The far ends carry an XDP program in native mode, without which a veth takes no
redirected frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyroute2 import netns

from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.loader import XDP_FLAGS, DataPlane, Program, XdpMode
from l4fast.neighbours import Neighbours
from l4fast.tables import Tables

pytestmark = pytest.mark.root

VIP = {4: "10.88.9.9", 6: "2001:db8:89::9"}
CLIENT = {4: "10.88.1.2", 6: "2001:db8:81::2"}
NODE = {4: ("10.88.1.1", "10.88.2.1"), 6: ("2001:db8:81::1", "2001:db8:82::1")}
SERVER = {4: "10.88.2.2", 6: "2001:db8:82::2"}
VIP_HERE = {4: "10.88.9.10", 6: "2001:db8:89::10"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
LENGTH = {4: 24, 6: 64}
NAT_PORT, DR_PORT, REAL_PORT, HERE_PORT, LOOPBACK_PORT = 80, 81, 8080, 82, 83
WAYS = pytest.mark.parametrize(
    ("version", "port"),
    [(version, port) for version in (4, 6) for port in (NAT_PORT, DR_PORT, HERE_PORT, LOOPBACK_PORT)],
    ids=[f"{name}-ipv{version}" for version in (4, 6) for name in ("nat", "dr", "here", "loopback")],
)  # fmt: skip
PASS = "#include <linux/bpf.h>\nint pass(struct xdp_md *ctx) { return XDP_PASS; }\n"
_serial = itertools.count()


def sh(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True, text=True)


@contextlib.contextmanager
def within(namespace: str) -> Iterator[None]:
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


class TcpEcho(socketserver.BaseRequestHandler):
    """Says whom it sees, then sends back what it gets."""

    def handle(self) -> None:
        self.request.sendall(f"{self.client_address[0]}\n".encode())
        with contextlib.suppress(ConnectionResetError):
            while data := self.request.recv(65536):
                self.request.sendall(data)


class UdpEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(self.client_address[0].encode() + b" " + data, self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextlib.contextmanager
def serving(*listening: tuple[str, int, str, int]) -> Iterator[None]:
    """Servers of TCP and UDP at (namespace, IP version, address, port)."""
    running: list[socketserver.BaseServer] = []
    try:
        for namespace, version, address, port in listening:
            family = {"address_family": socket.AF_INET if version == 4 else socket.AF_INET6}
            for kind, handler in ((TcpServer, TcpEcho), (socketserver.UDPServer, UdpEcho)):
                with within(namespace):
                    running.append(type("Server", (kind,), family)((address, port), handler))
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in running]
        for thread in threads:
            thread.start()
        yield
        for server in running:
            server.shutdown()
        for thread in threads:
            thread.join()
    finally:
        for server in running:
            server.server_close()


def services() -> list[L4Service]:
    return [
        L4Service(
            f"{protocol}-{port}-{version}", VIP[version], port, protocol, mode, Scheduler.MAGLEV,
            (Real(SERVER[version], real_port, 100, real_port),), None, 900,
        )
        for version in (4, 6)
        for port, real_port, mode in ((NAT_PORT, REAL_PORT, Mode.NAT), (DR_PORT, DR_PORT, Mode.DR))
        for protocol in ("tcp", "udp")
    ] + [
        L4Service(
            f"{protocol}-{port}-{version}", VIP_HERE[version], port, protocol, Mode.DR, Scheduler.RR,
            (Real(address, port, 100, port),), None, 900,
        )
        for version in (4, 6)
        for port, address in ((HERE_PORT, NODE[version][0]), (LOOPBACK_PORT, LOOPBACK[version]))
        for protocol in ("tcp", "udp")
    ]  # fmt: skip


def wire(client: str, node: str, server: str) -> None:
    for name in (client, node, server):
        sh(
            f"ip -n {name} link set lo up",
            f"ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.rp_filter=0"
            " net.ipv4.conf.default.rp_filter=0 net.ipv4.ip_forward=0",
        )
    sh(
        f"ip -n {client} link add c0 type veth peer name e0 netns {node}",
        f"ip -n {node} link add e1 type veth peer name s0 netns {server}",
        f"ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )
    for name, device, side in ((client, "c0", CLIENT), (node, "e0", None), (node, "e1", None), (server, "s0", SERVER)):
        for version in (4, 6):
            address = side[version] if side else NODE[version][int(device[1])]
            sh(f"ip -n {name} addr add {address}/{LENGTH[version]} dev {device}")
        sh(f"ip netns exec {name} ethtool -K {device} tx off", f"ip -n {name} link set {device} up")
    for version in (4, 6):
        sh(
            f"ip -n {client} route add default via {NODE[version][0]}",
            f"ip -n {server} route add default via {NODE[version][1]}",
            f"ip -n {server} addr add {VIP[version]}/{32 if version == 4 else 128} dev lo",
            f"ip -n {node} addr add {VIP_HERE[version]}/{32 if version == 4 else 128} dev lo",
        )


@dataclass
class Site:
    client: str
    node: str
    server: str
    tables: Tables


@pytest.fixture(scope="module", params=["native", "generic"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mode: XdpMode = request.param
    prefix = f"pftar{os.getpid()}{next(_serial)}"
    client, node, server = names = [f"{prefix}{role}" for role in ("-c", "-n", "-s")]
    source: Path = tmp_path_factory.mktemp("xdp") / "pass.c"
    source.write_text(PASS)
    with contextlib.ExitStack() as stack:
        for name in names:
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
        wire(client, node, server)
        plane = DataPlane.load(sessions=1024, half_open=1024)
        stack.callback(plane.close)
        far_end = Program(source, ("pass",), {})
        stack.callback(far_end.close)
        for name, device in ((client, "c0"), (server, "s0")):
            with within(name):
                far_end.attach(device, "pass", XDP_FLAGS[mode])
        tables = Tables(plane)
        with within(node):
            plane.attach("e0", mode)
            plane.attach("e1", mode)
            hops = Neighbours("e0", "e1", clients=CLIENT[4], clients6=CLIENT[6])
            asyncio.run(hops.watch({real.address for service in services() for real in service.reals}))
        tables.set_epoch(1_000_000)
        tables.set_local(*([NODE[version][number] for version in (4, 6)] for number in range(2)))
        tables.apply(services(), set(), hops.hops())
        listening = [
            (server, version, address, port)
            for version in (4, 6)
            for address, port in ((SERVER[version], REAL_PORT), (VIP[version], DR_PORT))
        ]
        listening += [
            (node, version, VIP_HERE[version], port) for version in (4, 6) for port in (HERE_PORT, LOOPBACK_PORT)
        ]
        stack.enter_context(serving(*listening))
        yield Site(client, node, server, tables)
        with within(node):
            plane.detach()


def connect(site: Site, version: int, port: int) -> socket.socket:
    with within(site.client):
        return socket.create_connection((vip(version, port), port), timeout=5)


def vip(version: int, port: int) -> str:
    return (VIP_HERE if port in (HERE_PORT, LOOPBACK_PORT) else VIP)[version]


def counted(site: Site, name: str) -> tuple[int, int]:
    row = site.tables.listener_counters()[name]
    return row["packets_in"], row["packets_out"]


@WAYS
def test_tcp(site: Site, version: int, port: int) -> None:
    name = f"tcp-{port}-{version}"
    before = counted(site, name)
    payload = os.urandom(100_000)
    with connect(site, version, port) as sock:
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        received = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        sender.join()
    assert received == f"{CLIENT[version]}\n".encode() + payload
    after = counted(site, name)
    assert after[0] > before[0] + 3  # through XDP, not by the node's kernel
    assert (after[1] > before[1] + 3) is (port == NAT_PORT)


@WAYS
def test_udp(site: Site, version: int, port: int) -> None:
    with within(site.client):
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(5)
        for n in range(3):
            sock.sendto(b"%d" % n, (vip(version, port), port))
            answer, sender = sock.recvfrom(2048)
            assert (answer, sender[:2]) == (f"{CLIENT[version]} {n}".encode(), (vip(version, port), port))
    assert counted(site, f"udp-{port}-{version}")[0] >= 3


def test_what_the_node_serves_goes_up(site: Site) -> None:
    before = site.tables.counters()["pass_served_here"]
    for version in (4, 6):
        with connect(site, version, HERE_PORT) as sock:
            assert sock.recv(100) == f"{CLIENT[version]}\n".encode()
        (view,) = [
            view for view in site.tables.sessions() if view.client.startswith(("[" + CLIENT[6], CLIENT[4])) and
            sock_port(view.vip) == HERE_PORT and view.protocol == "tcp" and view.state == "fin-wait" and
            (":" in view.vip.rpartition(":")[0]) is (version == 6)
        ][:1]  # fmt: skip
        assert view.real.startswith(("[" + NODE[6][0], NODE[4][0]))
    assert site.tables.counters()["pass_served_here"] >= before + 8


def sock_port(end: str) -> int:
    return int(end.rpartition(":")[2])


def test_fragments_for_the_node_itself(site: Site) -> None:
    """They reach the kernel, which puts them together."""
    payload = os.urandom(6000)
    for version in (4, 6):
        with within(site.client):
            sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(5)
            sock.sendto(payload, (VIP_HERE[version], HERE_PORT))
            assert sock.recv(65535) == CLIENT[version].encode() + b" " + payload


def test_the_node_reaches_its_servers(site: Site) -> None:
    """As a health check does."""
    before = site.tables.counters()["pass_local"]
    for version in (4, 6):
        with within(site.node), socket.create_connection((SERVER[version], REAL_PORT), timeout=5) as sock:
            assert sock.recv(100) == f"{NODE[version][1]}\n".encode()
    assert site.tables.counters()["pass_local"] > before
