"""Who brings the VIPs' traffic to this node. In this version: static routes on the router, so nothing is announced.

The VIP is no address of an L4 node. Its traffic arrives because the router has a route to the VIP through the node, and
XDP takes it before the kernel sees it. A VIP that is also configured on the node is a mistake: the kernel would answer
ARP for it, and whatever XDP passes up would be taken as the node's own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from core.resolve import L4Service


def vips(services: Sequence[L4Service]) -> tuple[str, ...]:
    """The VIPs of these services, each once, in the order of the configuration."""
    return tuple(dict.fromkeys(service.vip for service in services))


def routes(services: Sequence[L4Service], pool: Sequence[str], node: str) -> tuple[str, ...]:
    """What an operator enters on a Linux router so that the VIPs' traffic comes to the address `node`, and that to the
    source addresses of its pool."""
    return tuple(f"ip route replace {address}/32 via {node}" for address in (*vips(services), *pool))


def misplaced(services: Sequence[L4Service], local: Collection[str]) -> tuple[str, ...]:
    """The VIPs that are configured as addresses of this node and must not be."""
    return tuple(vip for vip in vips(services) if vip in local)
