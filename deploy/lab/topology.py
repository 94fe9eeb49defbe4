"""Who is in the lab, where, and how it is wired.

    client ──10.81.1.0/24── router ──10.81.0.0/24── every other host, on one bridge
                              │
                              └── 10.81.2.100 (the VIP) by ECMP to the L4 nodes,
                                  10.81.3.11… (their source pools) to the node that has it

Each host is a network namespace `<lab>-<host>`; the bridge has one of its own, `<lab>-lan`, because a bridge in the
root namespace is subject to that machine's packet filter. Addresses exist in these namespaces only.

The network has three properties that the cluster asks of any network (docs/lab.md):
  * The VIP is *routed* to the L4 nodes and nobody answers ARP for it. L7 nodes and servers carry it hidden, on lo.
  * Servers send the answers of nat listeners through some L4 node, their gateway towards clients; answers whose source
    is the VIP (dr) go straight to the router.
  * Frames have complete checksums: veth would leave them unfinished, and an incremental update would break them.

This module is pure: `plan` says for each namespace what `ip -batch` and a few shell lines have to do in it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["client", "router", "l4", "l7", "keyserver", "control", "backend"]
Xdp = Literal["native", "generic"]

LAN = "10.81.0"
CLIENTS = "10.81.1"
POOLS = "10.81.3"
VIP = "10.81.2.100"
ROUTER = f"{LAN}.1"
ROUTER_CLIENT_SIDE = f"{CLIENTS}.1"
CLIENT = f"{CLIENTS}.2"
CONTROL = f"{LAN}.2"

DEVICE = "eth0"  # the name of a host's only interface; the router's second one, towards the client, is eth1
BRIDGE = "br0"
BRIDGE_HOST = "lan"

# Last octets: where the hosts of a role begin, and how many there may be.
FIRST_OCTET: dict[Role, int] = {"l4": 11, "l7": 21, "keyserver": 31, "backend": 101}
MOST: dict[Role, int] = {"l4": 9, "l7": 9, "keyserver": 9, "backend": 99}
_HOST_PREFIX: dict[Role, str] = {"l4": "l4", "l7": "l7", "keyserver": "key", "backend": "be"}

L4_GROUP = 100  # id of the next-hop group of all live L4 nodes, on the router and on the servers
POOL_GROUPS = 200  # and of the group whose one member gets what goes to the source pool of node 1; 201 of node 2 …
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
    """One namespace. `name` is what the user types; `netns` is under /run/netns; `address` is on its eth0."""

    name: str
    role: Role
    netns: str
    address: str


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole lab. `lab` prefixes every namespace, so that two labs can stand side by side."""

    lab: str
    l4: int = 2
    l7: int = 2
    keyservers: int = 1
    backends: int = 3
    xdp: Xdp = "native"

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


def pool_of(node: Host) -> str:
    """The source address of fullnat that an L4 node has."""
    return f"{POOLS}.{node.address.rpartition('.')[2]}"


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
    ip = ["link set lo up", f"addr add {host.address}/24 dev {DEVICE}", f"link set {DEVICE} up"]
    settings = ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
    extra = [f"ethtool -K {DEVICE} tx off"]
    if host.role == "client":
        ip.append(f"route add default via {ROUTER_CLIENT_SIDE}")
    elif host.role == "router":
        ip += [f"addr add {ROUTER_CLIENT_SIDE}/24 dev eth1", "link set eth1 up", *l4_group(topology)]
        ip += [f"route add {VIP} nhid {L4_GROUP}", *pool_routes(topology)]
        settings += ["net.ipv4.ip_forward=1", "net.ipv4.fib_multipath_hash_policy=1"]
        settings += ["net.ipv4.ping_group_range=0 0"]  # ICMP sockets for deploy/lab/router.py
        settings += ["net.ipv4.conf.all.send_redirects=0", f"net.ipv4.conf.{DEVICE}.send_redirects=0"]
        extra.append("ethtool -K eth1 tx off")
    elif host.role == "backend":
        ip += [*hidden_vip(), *l4_group(topology), f"route add default nhid {L4_GROUP}", *pool_routes(topology)]
        ip += [f"route add default via {ROUTER} table {VIP_TABLE}", f"rule add from {VIP} lookup {VIP_TABLE}"]
        settings += [*HIDE_VIP, "net.ipv4.fib_multipath_hash_policy=1", "net.ipv4.ip_unprivileged_port_start=0"]
    else:
        ip.append(f"route add default via {ROUTER}")
        settings.append("net.ipv4.ip_unprivileged_port_start=0")
        if host.role == "l7":
            ip += hidden_vip()
            settings += HIDE_VIP
    quoted = " ".join(f"'{setting}'" for setting in settings)
    return Script(host.netns, tuple(ip), (f"sysctl -qw {quoted}", *extra))


# A host that carries the VIP must not answer ARP for it, nor ask with it as the sender (Linux Virtual Server HOWTO).
HIDE_VIP = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")


def hidden_vip() -> tuple[str, ...]:
    return (f"addr add {VIP}/32 dev lo",)


def l4_group(topology: Topology) -> tuple[str, ...]:
    """The next hops of one host towards all L4 nodes, as a group that keeps flows in place when a member goes, and as
    one group for each pool."""
    nodes = topology.of("l4")
    hops = [f"nexthop add id {number} via {node.address} dev {DEVICE}" for number, node in enumerate(nodes, 1)]
    numbers = list(range(1, len(nodes) + 1))
    return (*hops, group_line("add", numbers), *pool_lines("add", len(nodes), numbers))


def pool_routes(topology: Topology) -> tuple[str, ...]:
    """What goes to a pool goes to its group."""
    nodes = topology.of("l4")
    return tuple(f"route add {pool_of(node)} nhid {POOL_GROUPS + number}" for number, node in enumerate(nodes))


def pool_lines(verb: Literal["add", "replace"], nodes: int, live: Sequence[int]) -> tuple[str, ...]:
    """The `ip` commands that give each pool's traffic to its node, or to another live one if that is dead."""
    heirs = [number if number in live else live[number % len(live)] for number in range(1, nodes + 1)]
    return tuple(f"nexthop {verb} id {POOL_GROUPS + index} group {heir}" for index, heir in enumerate(heirs))


def group_line(verb: Literal["add", "replace"], members: range | list[int]) -> str:
    """The `ip` command that makes or changes the group; at least one member."""
    ids = "/".join(str(number) for number in members)
    return f"nexthop {verb} id {L4_GROUP} group {ids} type resilient buckets {BUCKETS} idle_timer {BUCKET_IDLE_S}"


def scripts(topology: Topology) -> Iterator[Script]:
    """What each host has to do for itself once the cables lie."""
    for host in topology.hosts():
        yield host_script(topology, host)
