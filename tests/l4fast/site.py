"""A client, a node with the data plane and servers on one bridge, each in its own network namespace.

The client stands in for the router: it is the node's default route, and has two addresses behind itself. Servers send
answers for the one (nat) through the node and for the other straight to the client. Every server has the VIP on `lo`.
In native mode the bridge's end of the node's link carries an XDP_PASS program, without which the kernel does not
deliver XDP_TX over veth.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from core.model import Mode
from core.resolve import L4Service
from l4fast.expiry import expire
from l4fast.hops import Hop
from l4fast.loader import XDP_FLAGS, DataPlane, Program, XdpMode
from l4fast.neighbours import Neighbours
from l4fast.tables import Tables
from tests.l4fast.netns import Network, sh

VIP, POOL = "10.77.0.100", "10.77.9.1"
ROUTER, NODE = "10.77.0.1", "10.77.0.2"
SERVERS = ("10.77.0.11", "10.77.0.12", "10.77.0.13", "10.77.0.14")
VIA_NODE, DIRECT = "198.51.100.1", "198.51.100.2"
SOURCES = {Mode.NAT: VIA_NODE, Mode.DR: DIRECT, Mode.TUNNEL: DIRECT, Mode.FULLNAT: DIRECT}
PASS = "#include <linux/bpf.h>\nint pass(struct xdp_md *ctx) { return XDP_PASS; }\n"
_serial = itertools.count()


@dataclass
class Site:
    network: Network
    plane: DataPlane
    tables: Tables
    hops: Mapping[str, Hop]
    names: tuple[str, ...]  # of the servers' namespaces
    services: dict[str, L4Service] = field(default_factory=dict)

    def apply(self, *services: L4Service, without: Sequence[str] = ()) -> None:
        """Adds these or puts them in place of those with the same names; then ends what sessions have to end."""
        for service in services:
            self.services[service.listener] = service
        for name in without:
            del self.services[name]
        self.tables.set_epoch(int(time.time()))
        self.tables.apply(list(self.services.values()), set(), self.hops)
        self.sweep()

    def sweep(self, later_s: int = 0) -> int:
        """One whole walk over the sessions, as if so many seconds had passed; returns how many went."""
        return expire(self.tables, int(time.time()) + later_s, 1 << 30)


def wire(network: Network, servers: Sequence[str]) -> None:
    network.host("client", f"{ROUTER}/24")
    network.host("node", f"{NODE}/24", f"route add default via {ROUTER}")
    for name, address in zip(servers, SERVERS, strict=False):
        network.host(name, f"{address}/24", f"addr add {VIP}/32 dev lo", f"route add default via {ROUTER}",
                     f"route add {VIA_NODE}/32 via {NODE}", f"route add {POOL}/32 via {NODE}")  # fmt: skip
    for address in (VIA_NODE, DIRECT):
        network.ip("client", f"addr add {address}/32 dev lo")
    network.ip("client", f"route add {VIP}/32 via {NODE}")
    settings = [f"net.ipv4.conf.{name}.rp_filter=0" for name in ("all", "eth0")]
    settings += ["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"]
    for host in ("client", "node", *servers):
        network.inside(host, lambda: sh(f"sysctl -qw {' '.join(settings)}"))


@contextmanager
def site(servers: int, mode: XdpMode = "native", **sizes: int) -> Iterator[Site]:
    """`sizes`: of the data plane's tables."""
    names = tuple(f"s{n}" for n in range(1, servers + 1))
    with ExitStack() as stack:
        network = stack.enter_context(Network(f"pftl{os.getpid()}{next(_serial)}"))
        wire(network, names)
        plane = DataPlane.load(**sizes)
        stack.callback(plane.close)
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory) / "pass.c"
            source.write_text(PASS)
            other_end = Program(source, ("pass",), {})
        stack.callback(other_end.close)
        network.inside("sw", lambda: other_end.attach("node", "pass", XDP_FLAGS[mode]))
        hops = Neighbours("eth0")

        def attach() -> None:
            plane.attach("eth0", mode)
            asyncio.run(hops.watch(set(SERVERS[:servers])))

        network.inside("node", attach)
        stack.callback(network.inside, "node", plane.detach)
        tables = Tables(plane)
        tables.set_epoch(int(time.time()))
        tables.set_local([NODE])
        tables.set_pools([POOL], ())
        yield Site(network, plane, tables, hops.hops(), names)
