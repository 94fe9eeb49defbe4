"""The next hops: of the real servers, and towards clients. They are kept resolved.

The XDP program writes MAC addresses and asks nobody for them. The kernel resolves a neighbour when something uses it,
and forwarded packets do not pass the kernel; so every neighbour that is not confirmed is "used" once a second by a
netlink message with NTF_USE (ip-neighbour(8): `use`), which starts ARP, or neighbour discovery of IPv6, without a
packet to the server.

The next hop of a real is the gateway of its route, or the real itself on its own network; a real that has one of this
node's addresses has none. Clients come back through the
next hop of the default route of their IP version, or of the route to a given address. A gateway of IPv6 is usually a
link-local address; that of a route to IPv4 addresses may be of IPv6 (RFC 9229) unless the route is the default one.
Only the interfaces of the data plane count: a hop is reached by the one by which its route leaves, be it by the link of
a VLAN on it. A MAC address once
learnt is kept while its resolution fails: whether a server is alive is for the health checks to say.

pyroute2's synchronous IPRoute does not run inside an event loop, and its asynchronous one not on uvloop: the look-ups
run in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Set

from pyroute2 import IPRoute
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from core.endpoints import version
from l4fast.hops import HERE, Hop
from l4fast.links import takes_tags_off, vlans
from l4fast.tables import CLIENT_GATEWAY, CLIENT_GATEWAY6, GATEWAYS

log = logging.getLogger(__name__)

REFRESH_S = 1.0
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# How long `watch` waits for the first answers, and how often it looks.
FIRST_ANSWER_S, FIRST_ANSWER_STEP_S = 1.0, 0.05
# From <linux/neighbour.h>
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x40, 0x80
NUD_VALID = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT
NUD_BEING_PROVEN = NUD_REACHABLE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT
NTF_USE = 0x01
# From <linux/rtnetlink.h>
RTN_UNICAST, RTN_LOCAL = 1, 2
RT_TABLE_MAIN = 254


class Neighbours:
    """Next hops by the data plane's interfaces. Its methods are called from one event loop.

    `clients`, `clients6`: the address whose route leads to the clients of one IP version; by default it is the default
    route.
    """

    def __init__(self, *interfaces: str, clients: str = CLIENT_GATEWAY, clients6: str = CLIENT_GATEWAY6) -> None:
        self._interfaces = interfaces
        self._clients = {CLIENT_GATEWAY: clients, CLIENT_GATEWAY6: clients6}
        self._watched: frozenset[str] = frozenset({CLIENT_GATEWAY})
        self._hops: dict[str, Hop] = {}
        self._lock = asyncio.Lock()
        self._complaints: dict[str, str] = {}  # by address: why it has no next hop

    def hops(self) -> Mapping[str, Hop]:
        """By watched address, and by CLIENT_GATEWAY and CLIENT_GATEWAY6; what was never resolved is missing."""
        return dict(self._hops)

    async def watch(self, addresses: Set[str]) -> None:
        """Makes these the addresses to resolve, and waits up to FIRST_ANSWER_S for those that are new.

        The way to clients is watched for each IP version that there are addresses of, for IPv4 if there are none.
        """
        self._watched = frozenset(addresses) | ({GATEWAYS[version(each)] for each in addresses} or {CLIENT_GATEWAY})
        for _ in range(round(FIRST_ANSWER_S / FIRST_ANSWER_STEP_S)):
            await self.refresh()
            if self._hops.keys() | self._complaints.keys() >= self._watched:
                return
            await asyncio.sleep(FIRST_ANSWER_STEP_S)

    async def keep(self, changed: Callable[[], None]) -> None:
        """Looks once a second, for ever; calls `changed` when an address was learnt or differs."""
        while True:
            await asyncio.sleep(REFRESH_S)
            if await self.refresh():
                changed()

    async def refresh(self) -> bool:
        """Looks once, and starts to resolve what is not confirmed. Says whether `hops` has changed."""
        async with self._lock:
            watched = self._watched
            try:
                found, complaints = await asyncio.to_thread(self._look, watched)
            except (OSError, NetlinkError) as error:
                found, complaints = {}, dict.fromkeys(watched, f"next hops cannot be looked up: {error}")
            for complaint in sorted(set(complaints.values()) - set(self._complaints.values())):
                log.warning("%s: %s", ", ".join(self._interfaces), complaint)
            self._complaints = complaints
            before = self._hops
            self._hops = {address: hop for address, hop in (before | found).items() if address in watched}
            return self._hops != before

    def _look(self, watched: Iterable[str]) -> tuple[dict[str, Hop], dict[str, str]]:
        complaints: dict[str, str] = {}
        with IPRoute() as routes:
            names: dict[int, str] = {}
            for name in self._interfaces:
                indexes = routes.link_lookup(ifname=name)
                if not indexes:
                    why = f"there is no interface {name}; `ip link` lists those of this machine"
                    return {}, dict.fromkeys(watched, why)
                names[indexes[0]] = name
            ways = {index: (name, 0) for index, name in names.items()} | {
                index: (names[of.parent], of.number)
                for index, of in vlans(routes.get_links()).items()
                if of.parent in names
            }
            hops: dict[str, tuple[int, str]] = {}
            here: set[str] = set()
            for address in watched:
                try:
                    hop = next_hop(routes, ways, self._target(address))
                    if hop is None:
                        here.add(address)
                    else:
                        hops[address] = hop
                except LookupError as error:
                    complaints[address] = f"{self._label(address)}: {error}"
            macs = resolve(routes, set(hops.values()))
        found = {address: Hop(macs[hop], *ways[hop[0]]) for address, hop in hops.items() if hop in macs}
        for name in {hop.interface for hop in found.values() if hop.vlan}:
            if takes_tags_off(name):
                why = f"{name} takes the tags of VLANs off before XDP sees them: `ethtool -K {name} rxvlan off`"
                complaints[name] = why
        return found | dict.fromkeys(here, HERE), complaints

    def _target(self, address: str) -> str:
        return self._clients.get(address, address)

    def _label(self, address: str) -> str:
        if address in self._clients:
            return "no next hop towards clients" + " of IPv6" * (address == CLIENT_GATEWAY6)
        return f"no next hop to {address}"


def next_hop(routes: IPRoute, links: Collection[int], address: str) -> tuple[int, str] | None:
    """On which of these links packets to `address` are handed to which neighbour; None: it is this node's own.

    Raises LookupError with the reason if there is none.
    """
    family = FAMILIES[version(address)]
    if address in GATEWAYS.values():
        defaults = routes.get_default_routes(family=family, table=RT_TABLE_MAIN)
        here = [route for route in defaults if route.get_attr("RTA_OIF") in links and _gateway(route)]
        if not here:
            command = "ip -6 route" if family == socket.AF_INET6 else "ip route"
            raise LookupError(f"no default route leaves by the interface; add one by `{command} add default via`")
        best = min(here, key=lambda route: int(route.get_attr("RTA_PRIORITY") or 0))
        return int(best.get_attr("RTA_OIF")), _gateway(best)
    try:
        route = routes.route("get", dst=address, family=family)[0]
    except NetlinkError as error:
        raise LookupError(f"no route ({error.args[-1]})") from None
    if route["type"] == RTN_LOCAL:
        return None
    if route["type"] != RTN_UNICAST:
        raise LookupError("its route leads nowhere (`ip route get` shows it)")
    link = int(route.get_attr("RTA_OIF"))
    if link not in links:
        name = routes.get_links(link)[0].get_attr("IFLA_IFNAME")
        raise LookupError(f"its route leaves by {name}, which is not ours: give --interface {name} too")
    return link, _gateway(route) or address


def _gateway(route: nlmsg) -> str:
    """The router of a route, which may be of the other IP version; empty on the network itself."""
    via = route.get_attr("RTA_VIA")
    return str(via["addr"] if via else route.get_attr("RTA_GATEWAY") or "")


def resolve(routes: IPRoute, hops: Set[tuple[int, str]]) -> dict[tuple[int, str], bytes]:
    """The MAC addresses of these neighbours on links that the kernel knows; it is told to find or confirm others."""
    groups: dict[tuple[int, int], set[str]] = {}
    for link, hop in hops:
        groups.setdefault((link, FAMILIES[version(hop)]), set()).add(hop)
    return {
        (link, hop): mac
        for (link, family), mine in groups.items()
        for hop, mac in _resolve(routes, link, mine, family).items()
    }


def _resolve(routes: IPRoute, index: int, hops: Set[str], family: int) -> dict[str, bytes]:
    macs: dict[str, bytes] = {}
    confirmed: set[str] = set()
    for neighbour in routes.get_neighbours(family=family, ifindex=index):
        hop, mac = neighbour.get_attr("NDA_DST"), neighbour.get_attr("NDA_LLADDR")
        if neighbour["ifindex"] != index or hop not in hops or not mac or not neighbour["state"] & NUD_VALID:
            continue
        macs[hop] = bytes.fromhex(mac.replace(":", ""))
        if neighbour["state"] & NUD_BEING_PROVEN:
            confirmed.add(hop)
    for hop in hops - confirmed:
        routes.neigh("replace", dst=hop, ifindex=index, family=family, state=0, flags=NTF_USE)
    return macs
