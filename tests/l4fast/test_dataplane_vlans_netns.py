"""A node on a trunk: clients in one VLAN, a server in another, with real connections.

    client c0 ── pc ┐
                    ├ switch, an XDP program ── pn ── e0 node
    server s0 ── ps ┘

The kernel here knows no VLANs. So the switch is a program that puts the tag of its port on what the hosts send, and
takes it off again; and neighbours, which would be found over the node's VLAN links, are given.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.hops import Hop
from l4fast.interfaces import interface
from l4fast.loader import XDP_FLAGS, DataPlane, Program, XdpMode
from l4fast.tables import CLIENT_GATEWAY, CLIENT_GATEWAY6, Tables
from tests.l4fast.test_dataplane_arms_netns import serving, sh, within

pytestmark = pytest.mark.root

VIP = {4: "10.89.9.9", 6: "2001:db8:99::9"}
CLIENT = {4: "10.89.1.2", 6: "2001:db8:91::2"}
NODE = {4: ("10.89.1.1", "10.89.2.1"), 6: ("2001:db8:91::1", "2001:db8:92::1")}
SERVER = {4: "10.89.2.2", 6: "2001:db8:92::2"}
CLIENTS_VLAN, SERVERS_VLAN = 10, 20
PORT, REAL_PORT = 80, 8080
_serial = itertools.count()

SWITCH = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
struct macs { __u32 word[3]; };
struct tagged { struct macs macs; __be16 tpid; __be16 tci; };
BPF_TABLE("hash", __u32, __u32, vlan_of, 4);  /* port → VLAN */
BPF_TABLE("hash", __u32, __u32, port_of, 4);  /* VLAN → port; 0: the trunk */

int from_host(struct xdp_md *ctx)
{
    struct tagged *frame = (void *)(long)ctx->data;
    __u32 port = ctx->ingress_ifindex, none = 0;
    __u32 *vlan = vlan_of.lookup(&port), *trunk = port_of.lookup(&none);
    struct macs macs;

    if (!vlan || !trunk || (void *)(frame + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    macs = frame->macs;
    if (bpf_xdp_adjust_head(ctx, -4))
        return XDP_DROP;
    frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    frame->macs = macs;
    frame->tpid = bpf_htons(ETH_P_8021Q);
    frame->tci = bpf_htons(*vlan);
    return bpf_redirect(*trunk, 0);
}

int from_trunk(struct xdp_md *ctx)
{
    struct tagged *frame = (void *)(long)ctx->data;
    struct macs macs;
    __u32 vlan, *port;

    if ((void *)(frame + 1) > (void *)(long)ctx->data_end || frame->tpid != bpf_htons(ETH_P_8021Q))
        return XDP_DROP;
    vlan = bpf_ntohs(frame->tci);
    port = port_of.lookup(&vlan);
    macs = frame->macs;
    if (!vlan || !port || bpf_xdp_adjust_head(ctx, 4))
        return XDP_DROP;
    frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    frame->macs = macs;
    return bpf_redirect(*port, 0);
}

int pass(struct xdp_md *ctx)
{
    return XDP_PASS;
}
"""


def services() -> list[L4Service]:
    return [
        L4Service(
            f"{protocol}-{version}", VIP[version], PORT, protocol, Mode.NAT, Scheduler.MAGLEV,
            (Real(SERVER[version], REAL_PORT, 100, REAL_PORT),), None, 900,
        )
        for version in (4, 6)
        for protocol in ("tcp", "udp")
    ]  # fmt: skip


def wire(client: str, node: str, server: str, switch: str) -> None:
    for host, device, port in ((client, "c0", "pc"), (node, "e0", "pn"), (server, "s0", "ps")):
        sh(
            f"ip -n {host} link set lo up",
            f"ip -n {host} link add {device} type veth peer name {port} netns {switch}",
            f"ip netns exec {host} ethtool -K {device} tx off",
            f"ip netns exec {switch} ethtool -K {port} tx off",
            f"ip netns exec {host} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.{device}.accept_dad=0",
            f"ip -n {switch} link set {port} up",
            f"ip -n {host} link set {device} up",
        )
    with within(node):
        mac = interface("e0").mac.hex(":")
    for host, device, own, side in ((client, "c0", CLIENT, 0), (server, "s0", SERVER, 1)):
        for version, length in ((4, 24), (6, 64)):
            gateway = NODE[version][side]
            sh(
                f"ip -n {host} addr add {own[version]}/{length} dev {device}",
                f"ip -n {host} neigh replace {gateway} lladdr {mac} dev {device} nud permanent",
                f"ip -n {host} route add default via {gateway} dev {device}",
            )


@pytest.fixture(scope="module", params=["native", "generic"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tables]]:
    """The client's namespace, and the node's tables."""
    mode: XdpMode = request.param
    prefix = f"pftvl{os.getpid()}{next(_serial)}"
    client, node, server, switch = names = [f"{prefix}{role}" for role in ("-c", "-n", "-s", "-w")]
    source: Path = tmp_path_factory.mktemp("xdp") / "switch.c"
    source.write_text(SWITCH)
    with contextlib.ExitStack() as stack:
        for name in names:
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
        wire(client, node, server, switch)
        program = Program(source, ("from_host", "from_trunk", "pass"), {})
        stack.callback(program.close)
        vlan_of, port_of = program.map("vlan_of"), program.map("port_of")
        with within(switch):
            for port, vlan in (("pn", 0), ("pc", CLIENTS_VLAN), ("ps", SERVERS_VLAN)):
                index = socket.if_nametoindex(port)
                port_of.put(port_of.key(vlan), port_of.value(index))
                vlan_of.put(vlan_of.key(index), vlan_of.value(vlan))
                program.attach(port, "from_host" if vlan else "from_trunk", XDP_FLAGS[mode])
        macs = {}
        for name, device in ((client, "c0"), (server, "s0")):
            with within(name):
                program.attach(device, "pass", XDP_FLAGS[mode])
                macs[name] = interface(device).mac
        plane = DataPlane.load(sessions=1024, half_open=1024)
        stack.callback(plane.close)
        with within(node):
            plane.attach("e0", mode)
        tables = Tables(plane)
        tables.set_epoch(1_000_000)
        hops = dict.fromkeys(SERVER.values(), Hop(macs[server], "e0", SERVERS_VLAN))
        clients = dict.fromkeys((CLIENT_GATEWAY, CLIENT_GATEWAY6), Hop(macs[client], "e0", CLIENTS_VLAN))
        tables.apply(services(), set(), hops | clients)
        stack.enter_context(serving(*((server, version, SERVER[version], REAL_PORT) for version in (4, 6))))
        yield client, tables
        with within(node):
            plane.detach()


@pytest.mark.parametrize("version", [4, 6])
def test_tcp(site: tuple[str, Tables], version: int) -> None:
    client, tables = site
    payload = os.urandom(100_000)
    with within(client):
        sock = socket.create_connection((VIP[version], PORT), timeout=5)
    with sock:
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        received = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        sender.join()
    assert received == f"{CLIENT[version]}\n".encode() + payload
    assert tables.counters()["drop_internal"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_udp(site: tuple[str, Tables], version: int) -> None:
    client, _ = site
    with within(client):
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(5)
        for n in range(3):
            sock.sendto(b"%d" % n, (VIP[version], PORT))
            assert sock.recv(2048) == f"{CLIENT[version]} {n}".encode()
