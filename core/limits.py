"""What a node lets pass of a listener and of its instance. Pure.

A limit is of the whole cluster, and each node keeps its part: an n-th where n nodes of its tier serve. `parts` says how
many those are; it is the nodes that are configured that count, so that a node's part does not change under load when
another one fails, and the cluster never lets more pass than the limit. tcp and udp are limited on the L4 nodes, http
and https on the L7 nodes; connections of http and https on both, where there are both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.model import Listener, Model, Protocol, Role

BYTES_S = 125_000  # of 1 Mbit/s


@dataclass(frozen=True, slots=True)
class Limits:
    """What an L4 node lets pass of a listener, for each of its VIPs; 0: no limit.

    `instance` names what shares the last two: all VIPs of one IP version of an instance, with all their listeners.
    """

    new_connections_per_s: float = 0
    connections: int = 0
    in_mbit_s: float = 0  # from clients
    out_mbit_s: float = 0
    instance: str = ""
    instance_in_mbit_s: float = 0
    instance_out_mbit_s: float = 0

    @property
    def of_bandwidth(self) -> bool:
        """Whether packets of established flows are limited too."""
        return bool(self.in_mbit_s or self.out_mbit_s or self.of_instance)

    @property
    def of_instance(self) -> bool:
        return bool(self.instance_in_mbit_s or self.instance_out_mbit_s)

    def __bool__(self) -> bool:
        return self != UNLIMITED

    def part(self, parts: int) -> Limits:
        """One node's, of so many. Not of connections: each node counts those of its peers too."""
        if parts == 1 or not self:
            return self
        return replace(
            self, new_connections_per_s=self.new_connections_per_s / parts, in_mbit_s=self.in_mbit_s / parts,
            out_mbit_s=self.out_mbit_s / parts, instance_in_mbit_s=self.instance_in_mbit_s / parts,
            instance_out_mbit_s=self.instance_out_mbit_s / parts,
        )  # fmt: skip


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """What an L7 node lets pass of a listener; 0: no limit. `instance` names what shares its two rates."""

    instance: str = ""
    in_bytes_s: float = 0
    out_bytes_s: float = 0
    instance_in_bytes_s: float = 0
    instance_out_bytes_s: float = 0
    connections: int = 0
    new_connections_per_s: float = 0


def nodes(model: Model, role: Role) -> int:
    """How many nodes of this role are configured, one at least."""
    return max(1, sum(node.role is role for node in model.nodes.values()))


def of_l4(model: Model, listener: Listener) -> Limits:
    """A tcp or udp listener's, of all L4 nodes together; of http and https what is about connections."""
    connections, rate = listener.max_connections, listener.max_new_connections_per_s
    if listener.protocol in (Protocol.HTTP, Protocol.HTTPS):
        return Limits(rate, connections)
    instance = model.instances[listener.instance]
    shared = (instance.bandwidth_in_mbit_s, instance.bandwidth_out_mbit_s)
    own = (listener.bandwidth_in_mbit_s, listener.bandwidth_out_mbit_s)
    return Limits(rate, connections, *own, instance.name if any(shared) else "", *shared)


def of_l7(model: Model, listener: Listener) -> SiteLimits | None:
    """One L7 node's; None where there is no limit. Of connections each node has its part rounded up."""
    instance = model.instances[listener.instance]
    wanted = (
        listener.bandwidth_in_mbit_s, listener.bandwidth_out_mbit_s, instance.bandwidth_in_mbit_s,
        instance.bandwidth_out_mbit_s, listener.max_connections, listener.max_new_connections_per_s,
    )  # fmt: skip
    if not any(wanted):
        return None
    parts = nodes(model, Role.L7)
    return SiteLimits(
        instance.name,
        listener.bandwidth_in_mbit_s * BYTES_S / parts,
        listener.bandwidth_out_mbit_s * BYTES_S / parts,
        instance.bandwidth_in_mbit_s * BYTES_S / parts,
        instance.bandwidth_out_mbit_s * BYTES_S / parts,
        -(-listener.max_connections // parts),
        listener.max_new_connections_per_s / parts,
    )
