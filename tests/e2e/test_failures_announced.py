"""What breaks L4 nodes that announce the VIPs themselves, by VRRP or by BGP, under numbered flows as in
tests/e2e/test_failures.py: here nobody tells a router anything."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from bench.failover.numbered import Report
from bench.failover.site import Site, until
from bench.failover.traffic import Traffic
from deploy.lab.lab import Lab
from deploy.lab.topology import Topology, VipMethod

pytestmark = [pytest.mark.root, pytest.mark.timeout(180), pytest.mark.soak]

CONNECTIONS, FLOWS = 300, 60
METHODS: tuple[VipMethod, ...] = ("vrrp", "bgp")
BACK_S = 1.0  # traffic goes on for so long when all is as it was


@pytest.fixture(scope="module", params=METHODS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    topology = Topology(f"pftfa{os.getpid()}", l4=3, l7=1, backends=3, vip=request.param)
    lab = Lab.up(topology, "both", print)
    try:
        yield Site(lab)
    finally:
        lab.down()


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Traffic]:
    with site.traffic() as traffic:
        yield traffic


@pytest.fixture(autouse=True)
def _flows(site: Site, running: Traffic) -> None:
    """Every node knows all flows; a window has begun."""
    site.all_know(running.open(CONNECTIONS, FLOWS))
    until(site.as_ever, "all is as it was when this was configured")
    running.begin()


def survived(report: Report) -> None:
    assert (report.lost, report.moved) == ({}, 0), report
    assert (report.connections, report.flows) == (CONNECTIONS, FLOWS)
    assert report.messages > CONNECTIONS


def unnoticed(report: Report) -> None:
    survived(report)
    assert report.datagrams_lost == 0, report


def test_a_node_is_killed_and_comes_back_knowing_nothing(site: Site, running: Traffic) -> None:
    node = site.busiest()
    site.kill(node)
    time.sleep(2)
    survived(running.report())
    running.begin()
    site.lab.start(node)
    until(site.as_ever, f"{node} has its share again")
    time.sleep(BACK_S)
    unnoticed(running.report())


def test_a_node_is_stopped_and_started(site: Site, running: Traffic) -> None:
    """It gives up its VIPs first, and takes them again once it knows the sessions."""
    node = site.busiest()
    site.lab.end_process(node)
    time.sleep(BACK_S)
    site.lab.start(node)
    until(site.as_ever, f"{node} has its share again")
    time.sleep(BACK_S)
    unnoticed(running.report())


def test_an_agent_is_killed_and_another_takes_over(site: Site, running: Traffic) -> None:
    node = site.busiest()
    site.lab.kill_process(node)
    time.sleep(2)
    site.lab.start(node)
    until(site.as_ever, f"{node} has its share again")
    time.sleep(BACK_S)
    unnoticed(running.report())


def test_all_nodes_are_upgraded_under_their_traffic(site: Site, running: Traffic) -> None:
    for node in site.nodes:
        site.replace(node)
    time.sleep(BACK_S)
    unnoticed(running.report())


def test_the_nodes_do_not_hear_each_other_for_a_while(site: Site, running: Traffic) -> None:
    """By VRRP each of them takes the VIPs then."""
    site.multicast(False)
    try:
        time.sleep(4)
        if site.topology.vip == "vrrp":
            assert all(len(nodes) == len(site.nodes) for nodes in site.holders().values())
    finally:
        site.multicast(True)
    until(site.as_ever, "one has each address again")
    time.sleep(BACK_S)
    survived(running.report())
