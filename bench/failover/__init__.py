"""How long packets do not flow when an L4 node dies, and what is lost: one lab for each way to announce the VIPs.

Numbered datagrams and messages of TCP connections go through three L4 nodes, or through the one that has the VIP. One
node after the other dies: its cable is dead and its processes are killed in the same moment; it comes back, learns what
there is, and the next one dies. The *gap* of a death is the longest of any flow of datagrams, of which each sends one
every 10 ms, so that it is up to 10 ms too long. TCP sends a lost segment again after 200 ms at the earliest, twice as
late each time: an answer may take that long.

`static, told` has a router that is told of the death in the same moment. `static, pings` finds out itself, by three
pings that are not answered, 50 ms apart.

In a quick run nodes die by their cable alone.
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
from bench.failover.traffic import Traffic
from deploy.lab.lab import Lab
from deploy.lab.topology import Topology

DEATHS, QUICK_DEATHS = 21, 4  # each
CONNECTIONS, QUICK_CONNECTIONS = 10_000, 600
FLOWS = 24
MESSAGES_PER_S = 2000
DATAGRAM_EVERY_S = 0.01
BEFORE_S = 0.2
AFTER_S = 1.0  # a death is watched for so long, and until all connections go on
TOLD_LIMIT_MS, FOUND_LIMIT_MS = 100.0, 500.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way to announce the VIPs."""

    name: str
    limit_ms: float
    told: bool  # the router, by us


STATIC = (Way("static, told", TOLD_LIMIT_MS, True), Way("static, pings", FOUND_LIMIT_MS, False))


def run(quick: bool) -> list[Row]:
    """Needs root."""
    with _running(Topology(f"pfbf{os.getpid()}", l4=3, l7=1, backends=3), quick) as (site, traffic):
        return [row for way in STATIC for row in _rows(way, _deaths(site, traffic, way, quick))]


@contextlib.contextmanager
def _running(topology: Topology, quick: bool) -> Iterator[tuple[Site, Traffic]]:
    lab = Lab.up(topology, "both", lambda _: None)
    try:
        site = Site(lab)
        every_s = (QUICK_CONNECTIONS if quick else CONNECTIONS) / MESSAGES_PER_S
        with site.traffic(tcp_every_s=every_s, udp_every_s=DATAGRAM_EVERY_S) as traffic:
            yield site, traffic
    finally:
        lab.down()


def _deaths(site: Site, traffic: Traffic, way: Way, quick: bool) -> list[Report]:
    reports = []
    for number in range(QUICK_DEATHS if quick else DEATHS):
        report = _death(site, traffic, way, quick)
        print(f"{way.name} {number + 1}: {report}", file=sys.stderr, flush=True)
        reports.append(report)
    return reports


def _death(site: Site, traffic: Traffic, way: Way, quick: bool) -> Report:
    """Of the node that has most to do. It is back when this returns, and knows everything."""
    ends = traffic.open(QUICK_CONNECTIONS if quick else CONNECTIONS, FLOWS)
    site.all_know(ends)
    site.watched(not way.told)
    site.told(*site.nodes)
    node = site.busiest()
    traffic.begin()
    time.sleep(BEFORE_S)
    site.cable(node, "down")
    if way.told:
        site.told(*site.others(node))
    if not quick:
        site.kill(node)
    time.sleep(AFTER_S)
    report = traffic.report()
    site.watched(False)
    site.told(*site.others(node))
    if quick:
        site.cable(node, "up")
    else:
        site.lab.start(node)
    until(lambda: site.serves(node), f"{node} serves")
    site.all_know(ends, node)
    return report


def _rows(way: Way, reports: list[Report]) -> Iterator[Row]:
    gaps = sorted(report.gaps.most for report in reports)
    waits = sorted(report.waits.most for report in reports)
    count = len(reports)
    distribution = {"least": gaps[0], "median": statistics.median(gaps), "p90": gaps[count * 9 // 10], "most": gaps[-1]}
    for name, value in distribution.items():
        row = Row(f"{way.name}, gap, {name} of {count} deaths", "ms", value)
        limited = name in ("median", "most")
        yield replace(row, against="limit", against_value=way.limit_ms, goal=1.0) if limited else row
    yield Row(f"{way.name}, longest answer by TCP, median", "ms", statistics.median(waits))
    yield Row(f"{way.name}, datagrams lost a death, median", "", statistics.median(r.datagrams_lost for r in reports))
    connections = max(report.connections for report in reports)
    lost = sum(sum(report.lost.values()) + report.moved for report in reports)
    yield Row(f"{way.name}, connections lost, of {count} × {connections}", "", lost)
