"""An L4 node's tables in the kernel: a change of one server among 10,000, written by the loaded program's own code.

The node's other parts are left out: its link is that of an L7 node, and health checks of servers that do not exist
would measure nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from bench import Row
from bench.config.site import GROUPS, SIZE
from bench.l4.frames import NODE_MAC, real_mac
from core.config import from_dict
from core.model import Model
from core.resolve import l4_services
from l4fast.hops import Hop
from l4fast.interfaces import Interface
from l4fast.loader import DataPlane
from l4fast.tables import Tables

NODE, GATEWAY, VIP = "10.0.0.5", "10.0.0.1", "192.0.2.1"
NEIGHBOURS: Final = 200  # on the node's network; the hardware addresses of all servers
CHANGES = {True: 5, False: 50}


def site(size: int = SIZE) -> dict[str, list[dict[str, Any]]]:
    """A tcp listener before each group: as many pairs of a listener and a server as the tables have room for."""
    each = size // GROUPS
    return {
        "server_groups": [
            {"name": f"group-{g}", "servers": [{"address": f"10.7.{g}.{n + 1}", "port": 8080} for n in range(each)]}
            for g in range(GROUPS)
        ],
        "backend_services": [
            {"name": f"tcp-{g}", "protocol": "tcp", "server_group": f"group-{g}", "health_check": False}
            for g in range(GROUPS)
        ],
        "instances": [{"name": "nlb", "type": "nlb", "vips": [VIP]}],
        "listeners": [
            {"name": f"tcp-{g}", "instance": "nlb", "protocol": "tcp", "port": 1000 + g, "backend_service": f"tcp-{g}"}
            for g in range(GROUPS)
        ],
    }


def weighed(model: Model, weight: int) -> Model:
    """One server's weight is another."""
    group = model.server_groups["group-7"]
    servers = (replace(group.servers[0], weight=weight), *group.servers[1:])
    return replace(model, server_groups={**model.server_groups, group.name: replace(group, servers=servers)})


def _took_ms(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def rows(quick: bool) -> list[Row]:
    """Needs root."""
    model = from_dict(site())
    plane = DataPlane.load()
    try:
        tables = Tables(plane)
        plane.use(Interface("eth0", 1, NODE_MAC, 1500))
        tables.set_local([NODE])
        tables.set_epoch(1)
        addresses = sorted({real.address for service in l4_services(model) for real in service.reals})
        hops = {address: Hop.of(real_mac(n % NEIGHBOURS)) for n, address in enumerate([*addresses, GATEWAY])}

        def apply(model: Model) -> None:
            tables.apply(l4_services(model), set(), hops)

        whole = _took_ms(partial(apply, model))
        changed = [_took_ms(partial(apply, weighed(model, 1 + n))) for n in range(CHANGES[quick])]
    finally:
        plane.close()
    return [
        Row("tables of an L4 node, 10,000 servers, from nothing", "ms CPU", whole),
        Row("a change of one of them, median", "ms CPU", statistics.median(changed), "bound", 200.0, 1.0),
    ]
