"""Who is in the lab, where, and how it is wired.

    client ──10.81.1.0/24── router ──10.81.0.0/24── every other host, on one bridge
             fd81:0:0:1::/64  │      fd81::/64
                              │
                              └── 10.81.2.100 and fd81:0:0:2::100 (the VIPs) by ECMP to the L4 nodes,
                                  10.81.3.11…, fd81:0:0:3::11… (their source pools) to the node that has it

Every host has an address of each IP version, with the same last part, and a fixed link-local one. Routes of IPv6 lead
to link-local addresses, as router advertisements would make them. Nobody waits for an address to be found unique.

Each host is a network namespace `<lab>-<host>`; the bridge has one of its own, `<lab>-lan`, because a bridge in the
root namespace is subject to that machine's packet filter. Addresses exist in these namespaces only.

The network has three properties that the cluster asks of any network (docs/lab.md):
  * The VIPs are *routed* to the L4 nodes and nobody answers ARP for them. L7 nodes and servers carry them hidden, on
    lo: for IPv6 that alone is enough.
  * Servers send the answers of nat listeners through some L4 node, their gateway towards clients; answers whose source
    is a VIP (dr) go straight to the router.
  * Frames have complete checksums: veth would leave them unfinished, and an incremental update would break them.

This module is pure: `plan` says for each namespace what `ip -batch` and a few shell lines have to do in it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from core.endpoints import version

Role = Literal["client", "router", "l4", "l7", "keyserver", "control", "backend"]
Xdp = Literal["native", "generic"]
VipMethod = Literal["static", "vrrp", "bgp"]

LAN = "10.81.0"
CLIENTS = "10.81.1"
POOLS = "10.81.3"
VIP = "10.81.2.100"
ROUTER = f"{LAN}.1"
ROUTER_CLIENT_SIDE = f"{CLIENTS}.1"
CLIENT = f"{CLIENTS}.2"
CONTROL = f"{LAN}.2"
# The same of IPv6 (RFC 4193): prefixes up to the last part.
LAN6 = "fd81::"
CLIENTS6 = "fd81:0:0:1::"
POOLS6 = "fd81:0:0:3::"
VIP6 = "fd81:0:0:2::100"
CLIENT6 = f"{CLIENTS6}2"
VIPS = (VIP, VIP6)

DEVICE = "eth0"  # the name of a host's only interface; the router's second one, towards the client, is eth1
BRIDGE = "br0"
BRIDGE_HOST = "lan"

# Last octets: where the hosts of a role begin, and how many there may be.
FIRST_OCTET: dict[Role, int] = {"l4": 11, "l7": 21, "keyserver": 31, "backend": 101}
MOST: dict[Role, int] = {"l4": 9, "l7": 9, "keyserver": 9, "backend": 99}
_HOST_PREFIX: dict[Role, str] = {"l4": "l4", "l7": "l7", "keyserver": "key", "backend": "be"}

# Ids on the router and on the servers, by IP version: of the next-hop group of all live L4 nodes …
L4_GROUP = {4: 100, 6: 106}
# … and of the group whose one member gets what goes to the source pool of node 1; 201 of node 2 …
POOL_GROUPS = {4: 200, 6: 260}
# What is added to a node's number for the id of its next hop.
HOPS = {4: 0, 6: 60}
ANSWERS_TABLE = 101  # on the router that the nodes announce the VIPs to: what servers send to clients
# The servers' addresses (FIRST_OCTET), the clients', those of VIPs and pools.
SERVER_NETWORKS = {4: ("10.81.0.96/27", "10.81.0.128/25"), 6: ("fd81::100/120",)}
CLIENT_NETWORKS = {4: "10.81.1.0/24", 6: "fd81:0:0:1::/64"}
VIP_NETWORKS = {4: ("10.81.2.0/24", "10.81.3.0/24"), 6: ("fd81:0:0:2::/64", "fd81:0:0:3::/64")}
VIP_TABLE = 100  # routing table for packets whose source is the VIP
# Flows stay on their L4 node when another node goes; buckets move to a node that came back once idle for this long.
BUCKETS = 128
BUCKET_IDLE_S = 2


DEFAULT_LAB = "pf"
_LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")


def lab_name(text: str) -> str:
    """A lab's name, as argparse reads it. Raises argparse.ArgumentTypeError."""
    if not _LAB_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("a name has up to 16 lower-case letters and digits, a letter first")
    return text


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace. `name` is what the user types; `netns` is under /run/netns; its eth0 has the addresses."""

    name: str
    role: Role
    netns: str
    address: str

    @property
    def address_v6(self) -> str:
        """With the same last part as `address`."""
        return (CLIENTS6 if self.role == "client" else LAN6) + last_part(self.address)


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole lab. `lab` prefixes every namespace, so that two labs can stand side by side."""

    lab: str
    l4: int = 2
    l7: int = 2
    keyservers: int = 1
    backends: int = 3
    xdp: Xdp = "native"
    vip: VipMethod = "static"

    def hosts(self) -> tuple[Host, ...]:
        """Every host, in the order in which they are listed to the user."""
        counts: tuple[tuple[Role, int], ...] = (
            ("l4", self.l4), ("l7", self.l7), ("keyserver", self.keyservers), ("backend", self.backends),
        )  # fmt: skip
        fixed = (
            Host("client", "client", f"{self.lab}-client", CLIENT),
            Host("router", "router", f"{self.lab}-router", ROUTER),
            Host("control", "control", f"{self.lab}-control", CONTROL),
        )
        numbered = (self._numbered(role, number) for role, count in counts for number in range(1, count + 1))
        return (*fixed, *numbered)

    def of(self, role: Role) -> tuple[Host, ...]:
        """The hosts of one role."""
        return tuple(host for host in self.hosts() if host.role == role)

    def host(self, name: str) -> Host | None:
        """The host that the user calls `name`."""
        return next((host for host in self.hosts() if host.name == name), None)

    @property
    def bridge_netns(self) -> str:
        """The namespace that holds the bridge and the switch-side ends of all cables."""
        return f"{self.lab}-{BRIDGE_HOST}"

    def namespaces(self) -> tuple[str, ...]:
        return (self.bridge_netns, *(host.netns for host in self.hosts()))

    def _numbered(self, role: Role, number: int) -> Host:
        name = f"{_HOST_PREFIX[role]}-{number}"
        return Host(name, role, f"{self.lab}-{name}", f"{LAN}.{FIRST_OCTET[role] + number - 1}")


@dataclass(frozen=True, slots=True)
class Script:
    """What to do in one namespace: lines for `ip -batch`, then lines for sh."""

    netns: str
    ip: tuple[str, ...]
    sh: tuple[str, ...]


def last_part(address: str) -> str:
    return address.rpartition(".")[2]


def link_local(address: str) -> str:
    """Of the link that has this IPv4 address."""
    return f"fe80::{last_part(address)}"


def pool_of(node: Host) -> tuple[str, str]:
    """The source addresses of fullnat that an L4 node has, one of each IP version."""
    last = last_part(node.address)
    return f"{POOLS}.{last}", f"{POOLS6}{last}"


def of_link(device: str, address: str, address_v6: str) -> list[str]:
    """What brings a link up with its addresses, the link-local one too."""
    return [
        f"link set {device} addrgenmode none",
        f"addr add {address}/24 dev {device}",
        f"addr add {link_local(address)}/64 dev {device} nodad",
        f"addr add {address_v6}/64 dev {device} nodad",
        f"link set {device} up",
    ]


def port_of(host: Host) -> str:
    """The switch-side end of a host's cable, in the bridge's namespace."""
    return host.name


def mac_of(address: str) -> str:
    """A fixed, locally administered MAC address, so that captures read well and a host keeps it."""
    return "02:81:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))


def cables(topology: Topology) -> Script:
    """Make the bridge and lay a cable from it to every host but the client, whose cable ends at the router."""
    switch = [f"link add {BRIDGE} type bridge forward_delay 0", f"link set {BRIDGE} up", "link set lo up"]
    ports = []
    for host in topology.hosts():
        if host.role == "client":
            continue
        port = port_of(host)
        switch.append(f"link add {port} type veth peer name {DEVICE} address {mac_of(host.address)} netns {host.netns}")
        switch.append(f"link set {port} master {BRIDGE}")
        switch.append(f"link set {port} up")
        ports.append(port)
    client, router = f"{topology.lab}-client", f"{topology.lab}-router"
    switch.append(
        f"link add {DEVICE} netns {client} address {mac_of(CLIENT)} type veth"
        f" peer name eth1 address {mac_of(ROUTER_CLIENT_SIDE)} netns {router}"
    )
    return Script(topology.bridge_netns, tuple(switch), tuple(f"ethtool -K {port} tx off" for port in ports))


def host_script(topology: Topology, host: Host) -> Script:
    """Addresses, routes and settings of one host; its cable lies already."""
    ip = ["link set lo up", *of_link(DEVICE, host.address, host.address_v6)]
    settings = ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
    extra = [f"ethtool -K {DEVICE} tx off"]
    if host.role == "client":
        ip += default_routes(ROUTER_CLIENT_SIDE)
    elif host.role == "router":
        ip += of_link("eth1", ROUTER_CLIENT_SIDE, f"{CLIENTS6}1")
        ip += routes_to_nodes(topology) if topology.vip == "static" else router_lines(topology)[0]
        extra += () if topology.vip == "static" else router_lines(topology)[1]
        settings += ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", *HASH_PORTS]
        settings += ["net.ipv4.ping_group_range=0 0"]  # ICMP sockets for deploy/lab/router.py
        settings += ["net.ipv4.conf.all.send_redirects=0", f"net.ipv4.conf.{DEVICE}.send_redirects=0"]
        extra.append("ethtool -K eth1 tx off")
    elif host.role == "backend":
        ip += [*hidden_vips(), *(through_nodes(topology) if topology.vip == "static" else default_routes(ROUTER))]
        ip += [f"{route} table {VIP_TABLE}" for route in default_routes(ROUTER)]
        ip.append(f"rule add from {VIP} lookup {VIP_TABLE}")
        extra.append(f"ip -6 rule add from {VIP6} lookup {VIP_TABLE}")  # a batch has rules of one version only
        settings += [*HIDE_VIP, *HASH_PORTS, "net.ipv4.ip_unprivileged_port_start=0"]
    else:
        ip += default_routes(ROUTER)
        settings.append("net.ipv4.ip_unprivileged_port_start=0")
        if host.role == "l7":
            ip += hidden_vips()
            settings += HIDE_VIP
    quoted = " ".join(f"'{setting}'" for setting in settings)
    return Script(host.netns, tuple(ip), (f"sysctl -qw {quoted}", *extra))


# A host that carries the VIP must not answer ARP for it, nor ask with it as the sender (Linux Virtual Server HOWTO).
# Nobody answers for an IPv6 address that another link has.
HIDE_VIP = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
# Flows are spread by addresses and ports.
HASH_PORTS = ("net.ipv4.fib_multipath_hash_policy=1", "net.ipv6.fib_multipath_hash_policy=1")
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def hidden_vips() -> tuple[str, ...]:
    return f"addr add {VIP}/32 dev lo", f"addr add {VIP6}/128 dev lo nodad"


def default_routes(router: str) -> list[str]:
    """To a router with this IPv4 address, of both versions."""
    return [f"route add default via {router}", f"route add default via {link_local(router)} dev {DEVICE}"]


def l4_group(topology: Topology) -> tuple[str, ...]:
    """The next hops of one host towards all L4 nodes, as a group that keeps flows in place when a member goes, and as
    one group for each pool."""
    nodes = topology.of("l4")
    hops = [
        f"nexthop add id {HOPS[ip] + number} via {via} dev {DEVICE}"
        for number, node in enumerate(nodes, 1)
        for ip, via in ((4, node.address), (6, link_local(node.address)))
    ]
    numbers = list(range(1, len(nodes) + 1))
    return (*hops, *group_lines("add", numbers), *pool_lines("add", len(nodes), numbers))


def routes_to_nodes(topology: Topology) -> tuple[str, ...]:
    """The router's routes to the VIPs and the pools."""
    vips = (f"route add {vip} nhid {L4_GROUP[version(vip)]}" for vip in VIPS)
    return (*l4_group(topology), *vips, *pool_routes(topology))


def through_nodes(topology: Topology) -> tuple[str, ...]:
    """A server's routes: whatever it answers goes through an L4 node."""
    everything = (f"route add {every} nhid {L4_GROUP[ip_version]}" for ip_version, every in EVERYWHERE.items())
    return (*l4_group(topology), *pool_routes(topology), *everything)


def router_lines(topology: Topology) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the router does where the nodes announce the VIPs: lines of `ip -batch`, then those of sh."""
    on_link = [f"route add {network} dev {DEVICE}" for networks in VIP_NETWORKS.values() for network in networks]
    on_link += [f"route add default via {vip} dev {DEVICE} table {ANSWERS_TABLE} onlink" for vip in VIPS]
    rules = [
        f"rule add iif {DEVICE} from {servers} to {CLIENT_NETWORKS[ip]} lookup {ANSWERS_TABLE}"
        for ip, networks in SERVER_NETWORKS.items()
        for servers in networks
    ]
    # A batch has rules of one version only.
    v4, v6 = rules[: len(SERVER_NETWORKS[4])], rules[len(SERVER_NETWORKS[4]) :]
    lines = (*(on_link if topology.vip == "vrrp" else ()), *v4)
    return lines, tuple(f"ip -6 {rule}" for rule in v6)


def pool_routes(topology: Topology) -> tuple[str, ...]:
    """What goes to a pool goes to its group."""
    return tuple(
        f"route add {pool} nhid {POOL_GROUPS[version(pool)] + number}"
        for number, node in enumerate(topology.of("l4"))
        for pool in pool_of(node)
    )


def pool_lines(verb: Literal["add", "replace"], nodes: int, live: Sequence[int]) -> tuple[str, ...]:
    """The `ip` commands that give each pool's traffic to its node, or to another live one if that is dead."""
    heirs = [number if number in live else live[number % len(live)] for number in range(1, nodes + 1)]
    return tuple(
        f"nexthop {verb} id {POOL_GROUPS[ip] + index} group {HOPS[ip] + heir}"
        for ip in HOPS
        for index, heir in enumerate(heirs)
    )


def group_lines(verb: Literal["add", "replace"], members: Sequence[int]) -> tuple[str, ...]:
    """The `ip` commands that make or change the groups of both IP versions; at least one member."""
    kind = f"type resilient buckets {BUCKETS} idle_timer {BUCKET_IDLE_S}"
    return tuple(
        f"nexthop {verb} id {L4_GROUP[ip]} group {'/'.join(str(HOPS[ip] + number) for number in members)} {kind}"
        for ip in HOPS
    )


def scripts(topology: Topology) -> Iterator[Script]:
    """What each host has to do for itself once the cables lie."""
    for host in topology.hosts():
        yield host_script(topology, host)
