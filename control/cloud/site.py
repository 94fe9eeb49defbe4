"""What the control plane was started with for a cloud's API, and the VIPs that new instances get. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from core.model import Model


@dataclass(frozen=True, slots=True)
class Site:
    """What the control plane was started with: the region's name, and the VIPs that instances get."""

    region: str = "paifang"
    vips: tuple[IPv4Network | IPv6Network, ...] = ()
    endpoint: str = ""

    @property
    def zone(self) -> str:
        """The region's only zone."""
        return f"{self.region}-a"


def taken(model: Model) -> Iterator[str]:
    """Every address that is something's already."""
    for instance in model.instances.values():
        yield from instance.vips
    for node in model.nodes.values():
        yield from (node.address, node.address_v6, *node.source_pool)
    for group in model.server_groups.values():
        yield from (server.address for server in group.servers)
    for spread in model.availability_groups.values():
        yield from (server.address for server in spread.members)


def free(site: Site, model: Model, wanted: int) -> str:
    """The first address of this IP version that instances get and nothing has; empty where there is none."""
    used = set(taken(model))
    for network in site.vips:
        if network.version == wanted:
            found = next((str(each) for each in network.hosts() if str(each) not in used), "")
            if found:
                return found
    return ""
