"""Servers' ports through which several nat listeners answer, in a cluster of several L4 nodes. Pure.

In nat an answer belongs to the listener that uses the server's address and port. Where several do, it belongs to the
one that has the client's flow, and only the node that the flow began at knows it at first (docs/l4.md). The server's
route leads its answers through any node: through another one, the first answer is dropped (`drop_reply_ambiguous`), and
a connection of tcp never comes about.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.endpoints import endpoint, version
from core.model import Mode, Model, Protocol, Role
from core.resolve import servers

L4 = (Protocol.TCP, Protocol.UDP)
REMEDY = (
    "give the servers a port for each listener and VIP, or the listeners mode fullnat; or have what the servers answer "
    "led through the node that the client's packets come to"
)


def shared(model: Model) -> Iterator[tuple[str, str]]:
    """Each listener that uses a server's port which another listener or VIP uses too, and why that matters."""
    nodes = sum(node.role is Role.L4 for node in model.nodes.values())
    if nodes < 2:
        return
    first: dict[tuple[Protocol, str, int], tuple[str, str]] = {}
    for listener in model.listeners.values():
        if not listener.enabled or listener.protocol not in L4 or listener.mode is not Mode.NAT:
            continue
        behind = servers(model, model.backend_services[listener.backend_service])
        of_vips = [
            (vip, server)
            for vip in model.instances[listener.instance].vips
            for server in behind
            if version(vip) == version(server.address)
        ]
        for vip, server in of_vips:
            key = (listener.protocol, server.address, server.port)
            other, at = first.setdefault(key, (listener.name, vip))
            if (other, at) != (listener.name, vip):
                whose = f"{other} of {at}" if other != listener.name else f"its own {at}"
                at_server = endpoint(server.address, server.port)
                yield (
                    listener.name,
                    f"answers from {at_server} to {vip} may be for {whose} too: of {nodes} L4 nodes, those that do not "
                    "know the client drop them",
                )
                break
