"""Who brings the VIPs' traffic to this node. In this version: static routes on the router, so nothing is announced.

The VIP is no address of an L4 node. Its traffic arrives because the router has a route to the VIP through the node, and
XDP takes it before the kernel sees it. A VIP that is also configured on the node is a mistake: the kernel would answer
ARP for it, and whatever XDP passes up would be taken as the node's own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from core.endpoints import version
from core.resolve import L4Service


def vips(services: Sequence[L4Service]) -> tuple[str, ...]:
    """The VIPs of these services, each once, in the order of the configuration."""
    return tuple(dict.fromkeys(service.vip for service in services))


def routes(services: Sequence[L4Service], pool: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """What an operator enters on a Linux router so that the VIPs' traffic comes to this node, by the first of its `own`
    addresses of the same IP version, and that to the source addresses of its pool."""
    node = {version(address): address for address in reversed(own)}
    words = {4: ("ip route", 32), 6: ("ip -6 route", 128)}
    return tuple(
        f"{words[ip][0]} replace {address}/{words[ip][1]} via {node[ip]}"
        for address in (*vips(services), *pool)
        if (ip := version(address)) in node
    )


def misplaced(services: Sequence[L4Service], local: Collection[str]) -> tuple[str, ...]:
    """The VIPs that are configured as addresses of this node and must not be."""
    return tuple(vip for vip in vips(services) if vip in local)
