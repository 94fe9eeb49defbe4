"""VIPs as the configuration has them: which there are, the routes to them, and where an address is a mistake.

Where nobody announces them (`--vip static`), and with BGP, a VIP is no address of an L4 node. Its traffic arrives
because the router has a route to the VIP through the node, and XDP takes it before the kernel sees it. A VIP that is
also configured on the node is a mistake: the kernel would answer ARP for it, and whatever XDP passes up would be taken
as the node's own. The exceptions: with VRRP the owner has it (keepalived.py), and where the node itself is a server of
mode dr, it needs the VIP as any such server does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

from core.endpoints import version
from core.model import Mode
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


def misplaced(services: Sequence[L4Service], local: Collection[str], here: Set[str]) -> tuple[str, ...]:
    """The VIPs that are configured as addresses of this node, one of `local`, and must not be. `here`: the addresses of
    servers that are this node itself."""
    return tuple(vip for vip in vips(services) if vip in local and vip not in _served(services, here))


def missing(services: Sequence[L4Service], local: Collection[str], here: Set[str]) -> tuple[str, ...]:
    """The VIPs that this node serves itself, and that are no address of it."""
    return tuple(vip for vip in vips(services) if vip not in local and vip in _served(services, here))


def unreachable(services: Sequence[L4Service], here: Set[str]) -> tuple[tuple[str, str, Mode], ...]:
    """Listeners with a server that is this node itself, in a mode that does not lead there: with its address."""
    found = (
        (service.listener, real.address, service.mode)
        for service in services
        if service.mode is not Mode.DR
        for real in service.reals
        if real.address in here
    )
    return tuple(dict.fromkeys(found))


def _served(services: Sequence[L4Service], here: Set[str]) -> frozenset[str]:
    return frozenset(
        service.vip
        for service in services
        if service.mode is Mode.DR and any(real.address in here for real in service.reals)
    )
