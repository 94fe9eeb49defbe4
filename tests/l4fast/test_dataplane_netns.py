"""Real TCP and UDP through the data plane: a client, a node and two servers on one bridge, each in its own namespace.

The client stands in for the router: it is the node's default route, and has two addresses behind itself. Servers send
answers for the one (nat) through the node and for the other (dr) straight to the client. Offloaded checksums are off,
since XDP's incremental updates need finished ones; in native mode the bridge's end of the node's link carries an
XDP_PASS program, without which the kernel does not deliver XDP_TX over veth.
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
from typing import Literal

import pytest
from pyroute2 import netns

from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.decap import Decap
from l4fast.loader import XDP_FLAGS, DataPlane, Program
from l4fast.neighbours import Neighbours
from l4fast.tables import Tables

pytestmark = pytest.mark.root

VIP = "10.77.0.100"
NODE, SERVERS = "10.77.0.2", ("10.77.0.11", "10.77.0.12")
VIA_NODE, DIRECT = "198.51.100.1", "198.51.100.2"
NAT_PORT, DR_PORT, TUNNEL_PORT, FULLNAT_PORT, REAL_PORT = 80, 81, 82, 83, 8080
POOL = "10.77.9.1"
WAYS = [(VIA_NODE, NAT_PORT), (DIRECT, DR_PORT), (DIRECT, TUNNEL_PORT), (DIRECT, FULLNAT_PORT)]
IDS = ["nat", "dr", "tunnel", "fullnat"]
FRAGMENTED = [way for way in WAYS if way[1] != TUNNEL_PORT]  # a full frame does not fit into a tunnel
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14  # <linux/in.h>
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
        self.request.sendall(f"{self.server.name} {self.client_address[0]}\n".encode())  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionResetError):  # a client that closes with our greeting unread
            while data := self.request.recv(65536):
                self.request.sendall(data)


class UdpEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(f"{self.server.name} {self.client_address[0]} ".encode() + data, self.client_address)  # type: ignore[attr-defined]


class TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class UdpServer(socketserver.UDPServer):
    max_packet_size = 65535


@dataclass
class Lan:
    client: str
    node: str
    servers: tuple[str, ...]
    switch: str
    plane: DataPlane
    tables: Tables
    decap: Decap


def link(host: str, switch: str, address: str) -> None:
    end = f"to-{host[-2:]}"
    sh(
        f"ip -n {host} link add e0 type veth peer name {end} netns {switch}",
        f"ip -n {host} addr add {address}/24 dev e0",
        f"ip -n {host} link set e0 up",
        f"ip -n {host} link set lo up",
        f"ip -n {switch} link set {end} master br0 up",
        f"ip netns exec {host} ethtool -K e0 tx off",
        f"ip netns exec {switch} ethtool -K {end} tx off",
        f"ip netns exec {host} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.e0.rp_filter=0"
        " net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
    )


def wire(client: str, node: str, servers: tuple[str, ...], switch: str) -> None:
    sh(f"ip -n {switch} link add br0 type bridge", f"ip -n {switch} link set br0 up")
    for host, address in zip((client, node, *servers), ("10.77.0.1", NODE, *SERVERS), strict=True):
        link(host, switch, address)
    sh(
        f"ip -n {client} addr add {VIA_NODE}/32 dev lo",
        f"ip -n {client} addr add {DIRECT}/32 dev lo",
        f"ip -n {client} route add {VIP}/32 via {NODE}",
        f"ip -n {node} route add default via 10.77.0.1",
    )
    for server in servers:
        sh(
            f"ip -n {server} addr add {VIP}/32 dev lo",
            f"ip -n {server} route add {VIA_NODE}/32 via {NODE}",
            f"ip -n {server} route add {POOL}/32 via {NODE}",
            f"ip -n {server} route add default via 10.77.0.1",
        )


def services() -> list[L4Service]:
    def of(port: int, mode: Mode, protocol: str, scheduler: Scheduler, real_port: int) -> L4Service:
        reals = tuple(Real(address, real_port, 100, real_port) for address in SERVERS)
        return L4Service(f"{protocol}-{port}", VIP, port, protocol, mode, scheduler, reals, None, 900)

    return [
        of(NAT_PORT, Mode.NAT, "tcp", Scheduler.WRR, REAL_PORT),
        of(NAT_PORT, Mode.NAT, "udp", Scheduler.MAGLEV, REAL_PORT),
        of(DR_PORT, Mode.DR, "tcp", Scheduler.MAGLEV, DR_PORT),
        of(DR_PORT, Mode.DR, "udp", Scheduler.RR, DR_PORT),
        of(TUNNEL_PORT, Mode.TUNNEL, "tcp", Scheduler.WRR, TUNNEL_PORT),
        of(TUNNEL_PORT, Mode.TUNNEL, "udp", Scheduler.MAGLEV, TUNNEL_PORT),
        of(FULLNAT_PORT, Mode.FULLNAT, "tcp", Scheduler.MAGLEV, REAL_PORT),
        of(FULLNAT_PORT, Mode.FULLNAT, "udp", Scheduler.WRR, REAL_PORT),
    ]


@contextlib.contextmanager
def serving(servers: tuple[str, ...]) -> Iterator[None]:
    running: list[socketserver.BaseServer] = []
    try:
        for name in servers:
            for port, address in ((REAL_PORT, ""), (DR_PORT, VIP), (TUNNEL_PORT, VIP)):
                with within(name):
                    for server in (TcpServer((address, port), TcpEcho), UdpServer((address, port), UdpEcho)):
                        server.name = name  # type: ignore[union-attr]
                        running.append(server)
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


PASS = "#include <linux/bpf.h>\nint pass(struct xdp_md *ctx) { return XDP_PASS; }\n"


@pytest.fixture(scope="module", params=["native", "generic"])
def lan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    mode: Literal["native", "generic"] = request.param
    prefix = f"pftb{os.getpid()}{next(_serial)}"
    client, node, one, two, switch = names = [f"{prefix}{role}" for role in ("-c", "-n", "-1", "-2", "-s")]
    source: Path = tmp_path_factory.mktemp("xdp") / "pass.c"
    source.write_text(PASS)
    with contextlib.ExitStack() as stack:
        for name in names:
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
        wire(client, node, (one, two), switch)
        plane = DataPlane.load(sessions=4096)
        stack.callback(plane.close)
        other_end = Program(source, ("pass",), {})
        stack.callback(other_end.close)
        with within(switch):
            other_end.attach("to--n", "pass", 1 << 2 if mode == "native" else 1 << 1)
        tables = Tables(plane)
        decap = Decap([VIP], [NODE])
        stack.callback(decap.program.close)
        for server in (one, two):
            with within(server):
                decap.attach("e0", mode)
                stack.callback(detach, decap, server, mode)
        with within(node):
            plane.attach("e0", mode)
            hops = Neighbours("e0")
            asyncio.run(hops.watch(set(SERVERS)))
        tables.set_epoch(1_000_000)
        tables.set_local([NODE])
        tables.set_pools([POOL], ())
        tables.apply(services(), set(), hops.macs())
        stack.enter_context(serving((one, two)))
        yield Lan(client, node, (one, two), switch, plane, tables, decap)
        with within(node):
            plane.detach()


def detach(decap: Decap, server: str, mode: Literal["native", "generic"]) -> None:
    with within(server):
        decap.program.detach("e0", XDP_FLAGS[mode])


def connect(lan: Lan, source: str, port: int) -> socket.socket:
    with within(lan.client):
        return socket.create_connection((VIP, port), timeout=5, source_address=(source, 0))


def checksum_errors(lan: Lan) -> int:
    """InCsumErrors of TCP and UDP everywhere."""
    total = 0
    for name in (lan.client, *lan.servers):
        with within(name):
            lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
        for head, values in itertools.pairwise(lines):
            if head[0] == values[0] and head[0] in ("Tcp:", "Udp:"):
                total += int(values[head.index("InCsumErrors")])
    return total


@pytest.mark.parametrize(("source", "port"), WAYS, ids=IDS)
def test_tcp(lan: Lan, source: str, port: int) -> None:
    seen = set()
    for _ in range(16):
        with connect(lan, source, port) as sock, sock.makefile("rwb") as stream:
            name, address = stream.readline().decode().split()
            seen.add(name)
            assert address == (POOL if port == FULLNAT_PORT else source)
            for word in (b"one\n", b"two\n", b"three\n"):
                stream.write(word)
                stream.flush()
                assert stream.readline() == word
    assert seen == set(lan.servers)
    views = [view for view in lan.tables.sessions() if view.vip == f"{VIP}:{port}" and view.protocol == "tcp"]
    assert len(views) == 16
    assert {view.state for view in views} == {"fin-wait"}
    assert checksum_errors(lan) == 0


@pytest.mark.parametrize(("source", "port"), WAYS, ids=IDS)
def test_a_megabyte_each_way(lan: Lan, source: str, port: int) -> None:
    payload = os.urandom(1 << 20)
    with connect(lan, source, port) as sock:
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        received = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        sender.join()
    assert received.partition(b"\n")[2] == payload
    assert checksum_errors(lan) == 0
    assert lan.tables.counters()["drop_too_big"] == 0


@pytest.mark.parametrize(("source", "port"), WAYS, ids=IDS)
def test_udp(lan: Lan, source: str, port: int) -> None:
    seen = set()
    for _ in range(16):
        with within(lan.client):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.bind((source, 0))
            sock.settimeout(5)
            names = set()
            for n in range(3):
                sock.sendto(b"%d" % n, (VIP, port))
                answer, sender = sock.recvfrom(2048)
                name, address, data = answer.decode().split()
                assert (address, data, sender) == (POOL if port == FULLNAT_PORT else source, str(n), (VIP, port))
                names.add(name)
            assert len(names) == 1
            seen |= names
    assert seen == set(lan.servers)
    assert checksum_errors(lan) == 0


@pytest.mark.parametrize(("source", "port"), FRAGMENTED, ids=[IDS[WAYS.index(way)] for way in FRAGMENTED])
def test_fragments_both_ways(lan: Lan, source: str, port: int) -> None:
    """Datagrams of six fragments, from several clients at once, so that their fragments mix."""
    before = lan.tables.counters()
    payload = os.urandom(8000)
    with contextlib.ExitStack() as stack:
        with within(lan.client):
            socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(8)]
        for sock in socks:
            sock.bind((source, 0))
            sock.settimeout(5)
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)
            sock.sendto(payload, (VIP, port))
        for sock in socks:
            answer, sender = sock.recvfrom(65535)
            assert (answer.split(b" ", 2)[2], sender) == (payload, (VIP, port))
    after = lan.tables.counters()
    ways = 1 if port == DR_PORT else 2
    assert after["tx_fragment"] == before["tx_fragment"] + ways * 8 * 5
    assert after["drop_fragment"] == before["drop_fragment"]
    assert checksum_errors(lan) == 0


def test_a_tunnel_tells_the_largest_packet_to_clients(lan: Lan) -> None:
    """Path MTU discovery: the kernel believes the answer and cuts its packets to it."""
    before = lan.tables.counters()["tx_too_big"], lan.decap.counters()["pass_opened"]
    with within(lan.client):
        sh("ip route flush cache")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((DIRECT, 0))
        sock.settimeout(5)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((VIP, TUNNEL_PORT))
        sock.send(bytes(1472))
        with pytest.raises(OSError, match="Message too long"):
            sock.recv(2048)
        assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1480
        sock.send(bytes(1452))
        assert sock.recv(2048).endswith(bytes(1452))
    assert lan.tables.counters()["tx_too_big"] == before[0] + 1
    assert lan.decap.counters()["pass_opened"] > before[1]
    assert checksum_errors(lan) == 0


def test_only_nat_answers_come_back_through_the_node(lan: Lan) -> None:
    def out() -> tuple[int, int]:
        counters = lan.tables.listener_counters()
        return counters[f"tcp-{NAT_PORT}"]["packets_out"], counters[f"tcp-{DR_PORT}"]["packets_out"]

    before = out()
    for source, port in ((VIA_NODE, NAT_PORT), (DIRECT, DR_PORT)):
        with connect(lan, source, port) as sock:
            assert sock.recv(1)
    after = out()
    assert after[0] >= before[0] + 2
    assert after[1] == 0


def test_the_node_itself_reaches_its_servers(lan: Lan) -> None:
    """As a health check does: the answer comes from a nat real's port and is not a client's."""
    before = lan.tables.counters()["pass_local"]
    with within(lan.node):
        sock = socket.create_connection((SERVERS[0], REAL_PORT), timeout=5)
    with sock:
        assert sock.recv(100).decode().split()[1] == NODE
    assert lan.tables.counters()["pass_local"] > before


def test_connections_outlive_a_change_of_configuration(lan: Lan) -> None:
    with connect(lan, VIA_NODE, NAT_PORT) as sock, sock.makefile("rwb") as stream:
        name = stream.readline().decode().split()[0]
        real = SERVERS[lan.servers.index(name)]
        with within(lan.node):
            hops = Neighbours("e0")
            asyncio.run(hops.watch(set(SERVERS)))
        lan.tables.apply(services(), {(real, REAL_PORT, "tcp")}, hops.macs())
        try:
            stream.write(b"still here\n")
            stream.flush()
            assert stream.readline() == b"still here\n"
            for _ in range(4):
                with connect(lan, VIA_NODE, NAT_PORT) as other:
                    assert other.recv(100).decode().split()[0] != name
        finally:
            lan.tables.apply(services(), set(), hops.macs())
