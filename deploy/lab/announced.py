"""The lab's network where the L4 nodes announce the VIPs themselves: by VRRP, or by BGP to a router that runs BIRD.

Nobody watches the nodes here but the protocols. Servers send everything to the router. It gives what they send to the
clients (the answers of nat listeners) to the node that has the VIP, by a routing table of its own, whose default route
follows the VIP's; answers whose source is the VIP (dr) are not the servers' own, and go straight on.

With VRRP the VIPs' and the pools' networks are on link at the router, which asks for them by ARP and neighbour
discovery. With BGP it learns a route from each node, and spreads over them (ECMP: `merge paths`); BFD finds the dead.
Pure.
"""

from __future__ import annotations

from core.endpoints import version
from deploy.lab.topology import ANSWERS_TABLE, DEVICE, EVERYWHERE, LAN6, ROUTER, VIPS, Topology, last_part

ROUTER_AS = 65000
ROUTER6 = f"{LAN6}{last_part(ROUTER)}"


def as_of(node: int) -> int:
    """The autonomous system of L4 node 1, 2, …"""
    return ROUTER_AS + node


def router_configuration(topology: Topology) -> str:
    """The router's bird.conf."""
    parts = [
        "log stderr { info, remote, warning, error, auth, fatal, bug };",
        f"router id {ROUTER};",
        "protocol device { scan time 1; }",
        f'protocol bfd {{ interface "{DEVICE}" {{ interval 100 ms; multiplier 3; }}; }}',
    ]
    for vip in VIPS:
        ip = version(vip)
        parts += [
            f"protocol kernel main{ip} {{ ipv{ip} {{ import none; export all; }}; merge paths on; }}",
            f"ipv{ip} table answers{ip};",
            f"protocol kernel to_answers{ip} {{ kernel table {ANSWERS_TABLE}; "
            f"ipv{ip} {{ table answers{ip}; import none; export all; }}; }}",
            f"protocol static default{ip} {{ ipv{ip} {{ table answers{ip}; }}; igp table master{ip}; "
            f"route {EVERYWHERE[ip]} recursive {vip}; }}",
        ]
    for number, node in enumerate(topology.of("l4"), 1):
        for ours, theirs in ((ROUTER, node.address), (ROUTER6, node.address_v6)):
            ip = version(ours)
            parts.append(
                f"protocol bgp l4_{number}_v{ip} {{ local {ours} as {ROUTER_AS}; neighbor {theirs} as {as_of(number)}; "
                # A node that comes back is heard at once; BIRD would refuse it for a minute.
                "bfd on; hold time 9; connect delay time 1; error wait time 1, 5; "
                f"ipv{ip} {{ import all; export none; }}; }}"
            )
    return "\n".join(parts) + "\n"


def node_words(topology: Topology, number: int) -> list[str]:
    """What L4 node 1, 2, … is told on its command line."""
    if topology.vip != "bgp":
        return ["--vip", topology.vip]
    routers = [word for router in (ROUTER, ROUTER6) for word in ("--bgp-neighbour", router, str(ROUTER_AS))]
    return ["--vip", "bgp", "--bgp-as", str(as_of(number)), *routers]
