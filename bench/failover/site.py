"""A lab with a listener of each mode for numbered flows, and ways to break its parts.

Servers are chosen in turns (wrr), which no node can do again for a flow that it does not know: what goes on through
another node does so because that node was told of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from bench.failover.traffic import End, Traffic, traffic
from control.node import admin
from core.endpoints import endpoint
from deploy.lab.lab import Lab
from deploy.lab.topology import (
    DEVICE,
    ROUTER,
    VIPS,
    Topology,
    default_routes,
    group_lines,
    link_local,
    of_link,
    pool_lines,
    pool_of,
    port_of,
)
from l4fast.pins import Pins

MODES = ("nat", "dr", "fullnat")
TCP_PORT, UDP_PORT = 7000, 7500  # of the first mode's listener
SERVER_TCP_PORT, SERVER_UDP_PORT = 7100, 7600  # dr: the listener's
CHECK = {"interval_s": 1, "timeout_s": 1, "rise": 2, "fall": 2}
WAIT_S = 30.0
LOOK_S = 0.02
BUSY_S = 0.3
SETTLE_S = 2.0  # until those who are to hold an address have taken it from those who were first
WATCH_S = 0.5  # the router needs 150 ms, and a moment for the routes
NOBODY = "02:00:00:00:00:ff"  # a MAC address that no host has
SESSIONS_MOST = 100_000
Object = dict[str, object]
Known = tuple[str, str]  # a flow as nodes speak of it: service, the client's end


class SiteError(Exception):
    """The lab does not come to what it has to be."""


def listeners() -> Iterator[tuple[str, str, str, int, int]]:
    """Name, protocol, mode, port, the servers' port."""
    for protocol, first, at_server in (("tcp", TCP_PORT, SERVER_TCP_PORT), ("udp", UDP_PORT, SERVER_UDP_PORT)):
        for port, mode in enumerate(MODES, first):
            yield f"{protocol}-{mode}", protocol, mode, port, port if mode == "dr" else at_server


def configuration(topology: Topology, draining: str = "") -> dict[str, list[Object]]:
    """For the API. `draining`: a server that gets nothing new."""
    nodes: list[Object] = [
        {"name": host.name, "role": host.role, "address": host.address,
         **({"source_pool": list(pool_of(host))} if host.role == "l4" else {})}
        for host in topology.hosts() if host.role in ("l4", "l7", "keyserver")
    ]  # fmt: skip
    groups: list[Object] = []
    services: list[Object] = []
    made: list[Object] = []
    for name, protocol, mode, port, at_server in listeners():
        servers = [{"address": address, "port": at_server, "weight": 0 if host.name == draining else 100}
                   for host in topology.of("backend") for address in (host.address, host.address_v6)]  # fmt: skip
        probe = {"request": "ping", "expect": "ping"} if protocol == "udp" else {}
        groups.append({"name": name, "servers": servers})
        services.append({"name": name, "protocol": protocol, "server_group": name, "scheduler": "wrr",
                         "health_check": {**CHECK, "type": protocol, **probe}})  # fmt: skip
        made.append({"name": name, "instance": "wire", "protocol": protocol, "port": port, "mode": mode,
                     "backend_service": name})  # fmt: skip
    return {"nodes": nodes, "server_groups": groups, "backend_services": services,
            "instances": [{"name": "wire", "type": "nlb", "vips": list(VIPS)}], "listeners": made}  # fmt: skip


def known_as(end: End) -> Known:
    return end[0], endpoint(*end[1:])


def until(condition: Callable[[], object], what: str, limit_s: float = WAIT_S) -> float:
    """Waits; returns for how many seconds. Raises SiteError after `limit_s`."""
    begun = time.monotonic()
    while True:
        looked = time.monotonic()
        if condition():
            break
        if time.monotonic() - begun > limit_s:
            raise SiteError(f"after {limit_s:.0f} s still not: {what}")
        time.sleep(max(LOOK_S, time.monotonic() - looked))  # looking at many sessions is not for nothing
    return time.monotonic() - begun


class Site:
    """A lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.topology = lab.topology
        self.nodes = tuple(host.name for host in self.topology.of("l4"))
        self._prefix = self.topology.lab
        self._holders: dict[str, set[str]] = {}

    @contextlib.contextmanager
    def traffic(self, *, tcp_every_s: float = 0.5, udp_every_s: float = 0.05) -> Iterator[Traffic]:
        """Servers and a client of all listeners, over both IP versions; and the configuration that leads to them."""
        services = [
            (f"{name} {vip}", protocol, vip, port) for name, protocol, _, port, _ in listeners() for vip in VIPS
        ]
        ports = {protocol: sorted({each[4] for each in listeners() if each[1] == protocol})
                 for protocol in ("tcp", "udp")}  # fmt: skip
        servers = [(host.netns, (host.address, host.address_v6, *VIPS), ports["tcp"], ports["udp"])
                   for host in self.topology.of("backend")]  # fmt: skip
        with traffic(
            f"{self._prefix}-client", services, servers, tcp_every_s=tcp_every_s, udp_every_s=udp_every_s
        ) as made:
            self.configure()
            yield made

    def configure(self, draining: str = "") -> None:
        """Returns once every node has this configuration and finds every server healthy."""
        self.lab.api.apply(configuration(self.topology, draining))
        version = cast(dict[str, Any], self.lab.api.status())["version"]
        until(lambda: all(self.ask(node, "status")["configuration"] == version and self.serves(node)
                          for node in self.nodes), "every node has the configuration")  # fmt: skip
        if self.topology.vip != "static":
            until(lambda: all(self.holders().values()), "every address is held by somebody")
            time.sleep(SETTLE_S)
            self._holders = self.holders()

    def serves(self, node: str) -> bool:
        """Whether a node is ready, finds every server healthy and knows the peers' sessions."""
        status = self.ask(node, "status")
        servers = len(self.topology.of("backend")) * 2 * len({each[1::3] for each in listeners()})
        healthy = [each["healthy"] for each in status["health"]] == [True] * servers
        return bool(status["ready"]) and healthy and bool(status["sync"]["complete"])

    def ask(self, node: str, command: str, **arguments: object) -> Any:
        return admin.ask(self.lab.directory_of(node) / "state/admin.sock", command, **arguments)

    def holders(self) -> dict[str, set[str]]:
        """The nodes that hold each VIP and each address of a source pool, where the nodes announce them themselves."""
        held: dict[str, set[str]] = {}
        for node in self.nodes:
            if self.lab.process_id(node) is not None:
                for each in self.ask(node, "status")["vip"]["addresses"]:
                    held.setdefault(each["address"], set()).update([node] if each["held"] else [])
        return held

    def as_ever(self) -> bool:
        """Whether every node serves and knows all sessions, and holds what it held when it was configured."""
        return all(map(self.serves, self.nodes)) and self.holders() == self._holders

    def others(self, node: str) -> list[str]:
        return [each for each in self.nodes if each != node]

    def busiest(self) -> str:
        """The node that forwards most packets of sessions."""
        before = {node: self._forwarded(node) for node in self.nodes}
        time.sleep(BUSY_S)
        return max(self.nodes, key=lambda node: self._forwarded(node) - before[node])

    def _forwarded(self, node: str) -> int:
        return int(self.ask(node, "counters")["packets"]["tx_session"])

    # What nodes know

    def known(self, node: str) -> dict[Known, str]:
        """The flows that a node knows, with their servers; those that have ended apart."""
        names = {endpoint(vip, port): f"{name} {vip}" for name, _, _, port, _ in listeners() for vip in VIPS}
        return {
            (names[session["vip"]], session["client"]): session["real"]
            for session in cast(list[dict[str, str]], self.ask(node, "sessions", limit=SESSIONS_MOST))
            if session["vip"] in names and session["state"] in ("established", "udp")
        }

    def missing(self, ends: Iterable[End], node: str) -> set[Known]:
        """What of these a node does not know."""
        return {known_as(end) for end in ends} - self.known(node).keys()

    def all_know(self, ends: Iterable[End], *nodes: str) -> float:
        """Waits until these nodes, or all, know the flows; returns for how long."""
        ends = list(ends)
        missing: dict[str, set[Known]] = {}

        def known() -> bool:
            missing.update({node: self.missing(ends, node) for node in nodes or self.nodes})
            return not any(missing.values())

        try:
            return until(known, "every node knows every flow")
        except SiteError as error:
            raise SiteError(
                f"{error}; missing: { {node: sorted(of)[:5] for node, of in missing.items() if of} }"
            ) from None

    # The router

    def told(self, *nodes: str, at_once: bool = True) -> None:
        """The router and the servers send to these nodes alone from now on; those that watch do not watch meanwhile.

        Flows of a node that is no longer among them move; so do enough of the others that each node has its share,
        unless not `at_once`: then only once they have been idle.
        """
        live = [self.nodes.index(node) + 1 for node in nodes]
        lines = (*group_lines("replace", live), *pool_lines("replace", len(self.nodes), live))
        text = "\n".join(lines)
        if at_once:
            text = re.sub(r"idle_timer \d+", "idle_timer 0", text)
        routing = [host.netns for host in self.topology.hosts() if host.role in ("router", "backend")]
        running = [
            subprocess.Popen(["ip", "-n", netns, "-batch", "-"], stdin=subprocess.PIPE, text=True) for netns in routing
        ]
        for process in running:
            process.communicate(text)
            if process.returncode:
                raise SiteError(f"the routes cannot be changed: {text}")

    def watched(self, watches: bool) -> None:
        """Whether the router finds out by itself which nodes live. It knows how they are now when this returns."""
        if (pid := self.lab.process_id("router")) is None:
            raise SiteError("the router does not run")
        os.kill(pid, signal.SIGCONT if watches else signal.SIGSTOP)
        if watches:
            time.sleep(WATCH_S)

    # Nodes

    def signal(self, node: str, number: signal.Signals) -> None:
        """To the daemon."""
        if (pid := self.lab.process_id(node)) is None:
            raise SiteError(f"{node} does not run")
        os.kill(pid, number)

    def kill(self, node: str) -> None:
        """The death of a machine: its cable is dead, its processes are gone, and what its kernel knew."""
        self.lab.kill(node)
        netns = self.lab.host(node).netns
        _ip(netns, f"link set {DEVICE} xdp off")
        for address in self._holders:
            subprocess.run(["ip", "-n", netns, "addr", "del", address, "dev", DEVICE], capture_output=True, check=False)
        Pins(self.lab.directory_of(node) / "state").release()

    def replace(self, node: str, *, other_tables: bool = False) -> None:
        """Another agent takes over while packets flow, as in an upgrade: it may be of a release with `other_tables`."""
        self.ask(node, "leave")
        self.lab.wait_ended(node)
        if other_tables:
            left = self.lab.directory_of(node) / "state/maps.json"
            noted: dict[str, int] = json.loads(left.read_text())
            left.write_text(json.dumps({name: value ^ ("contract" in name) for name, value in noted.items()}))
        self.lab.start(node)

    def cable(self, node: str, direction: str) -> None:
        """Pulled out of the switch ("down") or put in again ("up")."""
        _ip(self.topology.bridge_netns, f"link set {port_of(self.lab.host(node))} {direction}")

    def interface(self, node: str, direction: str) -> None:
        """The node's own, taken down or up; what brings it up gives it its addresses and routes again."""
        host = self.lab.host(node)
        _ip(host.netns, f"link set {DEVICE} {direction}")
        if direction == "up":
            for line in (*of_link(DEVICE, host.address, host.address_v6), *default_routes(ROUTER)):
                _ip(host.netns, line.replace(" add ", " replace "))

    def multicast(self, on: bool) -> None:
        """Whether the switch takes multicast to the L4 nodes."""
        for host in self.topology.of("l4"):
            words = f"link set dev {port_of(host)} mcast_flood {'on' if on else 'off'}"
            _ip(self.topology.bridge_netns, words, program="bridge")

    def unicast(self, on: bool) -> None:
        """Whether the L4 nodes reach each other but by multicast. Everybody else reaches them."""
        for host in self.topology.of("l4"):
            for peer in self.topology.of("l4"):
                for address in (peer.address, peer.address_v6, link_local(peer.address)) if peer != host else ():
                    entry = f"neigh replace {address} lladdr {NOBODY} nud permanent dev {DEVICE}"
                    _ip(host.netns, f"neigh del {address} dev {DEVICE}" if on else entry)


def _ip(netns: str, words: str, program: str = "ip") -> None:
    subprocess.run([program, "-n", netns, *words.split()], check=True, capture_output=True)
