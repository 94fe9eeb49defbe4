"""How long packets do not flow when an L4 node dies, and what is lost: one lab for each way to announce the VIPs.

Numbered datagrams and messages of TCP connections go through three L4 nodes, or through the one that has the VIP. One
node after the other dies: its cable is dead and its processes are killed in the same moment; it comes back, learns what
there is, and the next one dies. The *gap* of a death is the longest of any flow of datagrams, of which each sends one
every 10 ms, so that it is up to 10 ms too long. TCP sends a lost segment again after 200 ms at the earliest, twice as
late each time: an answer may take that long.

`static, told` has a router that is told of the death in the same moment. `static, pings` finds out itself, by three
pings that are not answered, 50 ms apart. With `vrrp` one node has the VIP of IPv4 and one that of IPv6, and the others
miss it; with `bgp` the router spreads over all, and misses the node by BFD.

In a quick run there are two nodes, and they die by their cable alone.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench import Row
from bench.failover.numbered import Report
from bench.failover.site import Site, until
from bench.failover.traffic import End, Traffic
from deploy.lab.lab import Lab
from deploy.lab.topology import Topology, VipMethod

DEATHS, QUICK_DEATHS = 21, 2  # each
CONNECTIONS, QUICK_CONNECTIONS = 10_000, 600
FLOWS = 24
MESSAGES_PER_S = 2000
DATAGRAM_EVERY_S = 0.01
BEFORE_S = 0.2
MISSED_S = 2.0  # by then a node that was only away has found out that it has missed something
AFTER_S = 1.0  # a death is watched for so long, and until all connections go on
TOLD_LIMIT_MS, FOUND_LIMIT_MS = 100.0, 500.0


@dataclass(frozen=True, slots=True)
class Way:
    """How the traffic finds another node."""

    name: str
    limit_ms: float
    told: bool = False  # the router, by us


WAYS: dict[VipMethod, tuple[Way, ...]] = {
    "static": (Way("static, told", TOLD_LIMIT_MS, told=True), Way("static, pings", FOUND_LIMIT_MS)),
    "vrrp": (Way("vrrp", FOUND_LIMIT_MS),),
    "bgp": (Way("bgp", FOUND_LIMIT_MS),),
}


def run(quick: bool) -> list[Row]:
    """Needs root."""
    return [row for method, ways in WAYS.items() for row in _of(method, ways, quick)]


def _of(method: VipMethod, ways: tuple[Way, ...], quick: bool) -> Iterator[Row]:
    with _running(method, quick) as (site, traffic):
        for way in ways:
            reports = list(_deaths(site, traffic, way, quick, way is ways[-1]))
            yield from _rows(way, reports)


@contextlib.contextmanager
def _running(method: VipMethod, quick: bool) -> Iterator[tuple[Site, Traffic]]:
    lab = Lab.up(
        Topology(f"pfbf{os.getpid()}", l4=2 if quick else 3, l7=1, backends=3, vip=method), "both", lambda _: None
    )
    try:
        site = Site(lab)
        every_s = (QUICK_CONNECTIONS if quick else CONNECTIONS) / MESSAGES_PER_S
        with site.traffic(tcp_every_s=every_s, udp_every_s=DATAGRAM_EVERY_S) as traffic:
            yield site, traffic
    finally:
        lab.down()


def _deaths(site: Site, traffic: Traffic, way: Way, quick: bool, last: bool) -> Iterator[Report]:
    """First what happens while nobody dies, then death after death. After the `last` nobody comes back."""
    deaths = QUICK_DEATHS if quick else DEATHS
    known: set[End] = set()
    for number in range(1 + deaths):
        ends = set(traffic.open(QUICK_CONNECTIONS if quick else CONNECTIONS, FLOWS))
        site.all_know(ends - known)
        known = ends
        if site.topology.vip == "static":
            site.watched(not way.told)
            site.told(*site.nodes)
        node = site.busiest()
        traffic.begin()
        time.sleep(BEFORE_S)
        if number:
            _die(site, way, node, quick)
        time.sleep(AFTER_S)
        report = traffic.report()
        print(f"{way.name} {number}: {report}", file=sys.stderr, flush=True)
        yield report
        if number and not (last and number == deaths):
            _come_back(site, node, quick)


def _die(site: Site, way: Way, node: str, quick: bool) -> None:
    site.cable(node, "down")
    if way.told:
        site.told(*site.others(node))
    if not quick:
        site.kill(node)


def _come_back(site: Site, node: str, quick: bool) -> None:
    """Returns once it knows everything."""
    if site.topology.vip == "static":
        site.watched(False)
        site.told(*site.others(node))
    if quick:
        site.cable(node, "up")
        time.sleep(MISSED_S)
    else:
        site.lab.start(node)
    until(site.as_ever, "all is as it was before")


def _rows(way: Way, seen: list[Report]) -> Iterator[Row]:
    quiet, *reports = seen
    gaps = sorted(report.gaps.most for report in reports)
    waits = sorted(report.waits.most for report in reports)
    count = len(reports)
    distribution = {"least": gaps[0], "median": statistics.median(gaps), "p90": gaps[count * 9 // 10], "most": gaps[-1]}
    for name, value in distribution.items():
        row = Row(f"{way.name}, gap, {name} of {count} deaths", "ms", value)
        limited = name in ("median", "most")
        yield replace(row, against="limit", against_value=way.limit_ms, goal=1.0) if limited else row
    wait = statistics.median(waits)
    yield Row(f"{way.name}, longest answer by TCP, median", "ms", wait, "while nobody dies", quiet.waits.most)
    yield Row(f"{way.name}, datagrams lost a death, median", "", statistics.median(r.datagrams_lost for r in reports))
    yield Row(f"{way.name}, segments sent again a death, median", "", statistics.median(r.sent_again for r in reports))
    connections = max(report.connections for report in reports)
    lost = sum(sum(report.lost.values()) + report.moved for report in reports)
    yield Row(f"{way.name}, connections lost, of {count} × {connections}", "", lost)
