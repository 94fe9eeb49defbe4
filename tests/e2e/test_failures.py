"""What breaks an L4 tier, one thing after the other, while a thousand TCP connections and flows of UDP carry numbered
data both ways: over IPv4 and IPv6, by nat, dr and fullnat, to servers chosen in turns.

Whatever fails, no connection is lost of which the nodes have told each other. What is planned loses no packet either.
How long it takes until packets flow again is for `python -m bench failover` to say.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator

import pytest

from bench.failover.numbered import Report
from bench.failover.site import Site, known_as, until
from bench.failover.traffic import End, Traffic
from core.endpoints import endpoint
from deploy.lab.lab import Lab
from deploy.lab.topology import Topology
from l4fast.node import SYNC_PERIOD_S
from l4fast.sync_peers import SILENT_S

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

CONNECTIONS, FLOWS = 1000, 60
NEWCOMERS_PER_S = 20
LEARNT = 36  # connections of which there is something to be learnt


def assert_untold(site: Site, fresh: Collection[End], node: str) -> None:
    """The node lacks what is to be learnt, but for ports that a client has used again: it remembers the connection that
    ended there."""
    assert LEARNT * 2 / 3 < len(site.missing(fresh, node)) <= LEARNT


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    lab = Lab.up(Topology(f"pftfl{os.getpid()}", l4=3, l7=1, backends=3), "both", print)
    try:
        made = Site(lab)
        made.watched(False)  # it is the tests who tell the router
        yield made
    finally:
        lab.down()


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Traffic]:
    with site.traffic() as traffic:
        yield traffic


@pytest.fixture
def ends(site: Site, running: Traffic) -> list[End]:
    """All flows, which every node knows, and that are spread over all nodes; a window has begun."""
    ends = running.open(CONNECTIONS, FLOWS)
    site.all_know(ends)
    site.told(*site.nodes)
    running.begin()
    return ends


def survived(report: Report, connections: int = CONNECTIONS) -> None:
    assert (report.lost, report.moved) == ({}, 0), report
    assert (report.connections, report.flows) == (connections, FLOWS)
    assert report.messages > connections


def unnoticed(report: Report, connections: int = CONNECTIONS) -> None:
    survived(report, connections)
    assert report.datagrams_lost == 0, report


def through_each(site: Site, *nodes: str) -> None:
    """All flows go through these nodes, through one after the other."""
    for node in nodes:
        site.told(node)
        time.sleep(1)  # two messages of each connection


@pytest.mark.usefixtures("ends")
def test_the_router_may_send_every_flow_to_another_node(site: Site, running: Traffic) -> None:
    through_each(site, *site.nodes)
    site.told(*site.nodes)
    unnoticed(running.report())


def test_what_the_nodes_were_not_told_of_does_not_survive(site: Site, running: Traffic, ends: list[End]) -> None:
    """That the data of these tests and their servers are such that only sync saves them."""
    site.told("l4-1")
    site.multicast(False)
    try:
        fresh = set(running.open(CONNECTIONS + LEARNT, FLOWS)) - set(ends)
        site.all_know(fresh, "l4-1")
        assert_untold(site, fresh, "l4-2")
        site.told("l4-2")
        report = running.report(limit_s=4)
    finally:
        site.multicast(True)
    assert LEARNT / 3 < sum(report.lost.values()) <= LEARNT, report
    assert report.connections >= CONNECTIONS


def complete(site: Site, node: str, ends: Iterable[End]) -> None:
    """Once this node calls itself complete, it knows all flows."""
    until(lambda: site.ask(node, "status")["sync"]["complete"], f"{node} is complete")
    assert site.missing(ends, node) == set()


def takes_over(site: Site, running: Traffic, node: str, ends: Collection[End]) -> None:
    """This node finds the servers healthy and learns all flows; then it gets all of them and loses nothing."""
    until(lambda: site.serves(node), f"{node} serves")
    assert site.all_know(ends, node) < SYNC_PERIOD_S / 2, "nobody waits for sessions to be told again"
    running.begin()
    site.told(node)
    time.sleep(1)
    unnoticed(running.report(), len(ends) - FLOWS)


def test_a_node_is_killed_and_comes_back_knowing_nothing(site: Site, running: Traffic, ends: list[End]) -> None:
    """Here the router finds out by itself. Connections that have just begun may have to be tried again."""
    running.newcomers(NEWCOMERS_PER_S)
    site.watched(True)
    try:
        site.kill("l4-2")
        time.sleep(2)
    finally:
        site.watched(False)
    running.newcomers(0)
    report = running.report()
    survived(report)
    assert report.newcomers.well > NEWCOMERS_PER_S
    assert report.newcomers.failed == 0
    site.told(*site.others("l4-2"))
    site.lab.start("l4-2")
    complete(site, "l4-2", ends)
    takes_over(site, running, "l4-2", ends)


@pytest.mark.usefixtures("ends")
def test_a_cable_is_pulled_and_put_in_again(site: Site, running: Traffic) -> None:
    """The node lives on meanwhile, and has to learn what it has missed."""
    site.watched(True)
    try:
        site.cable("l4-1", "down")
        time.sleep(1)  # the router has noticed
        ends = running.open(CONNECTIONS + LEARNT, FLOWS)
        site.all_know(ends, *site.others("l4-1"))
        survived(running.report(), CONNECTIONS + LEARNT)
    finally:
        site.watched(False)
        site.told(*site.others("l4-1"))
        site.cable("l4-1", "up")
    takes_over(site, running, "l4-1", ends)


def test_an_interface_is_taken_down_and_up_again(site: Site, running: Traffic, ends: list[End]) -> None:
    site.watched(True)
    try:
        site.interface("l4-3", "down")
        time.sleep(1)
        survived(running.report())
    finally:
        site.watched(False)
        site.told(*site.others("l4-3"))
        site.interface("l4-3", "up")
    takes_over(site, running, "l4-3", ends)


@pytest.mark.usefixtures("ends")
def test_a_daemon_is_killed_and_another_takes_over(site: Site, running: Traffic) -> None:
    """Its programs forward without it, new connections too. The next one goes on with all it had."""
    site.told("l4-1")
    running.newcomers(NEWCOMERS_PER_S)
    site.lab.kill_process("l4-1")
    time.sleep(2)
    site.lab.start("l4-1")
    time.sleep(0.5)
    running.newcomers(0)
    report = running.report()
    unnoticed(report)
    assert (report.newcomers.again, report.newcomers.failed) == (0, 0)
    assert report.newcomers.well > NEWCOMERS_PER_S


@pytest.mark.usefixtures("ends")
def test_all_nodes_are_upgraded_under_their_traffic(site: Site, running: Traffic) -> None:
    """The router knows nothing of it."""
    running.newcomers(NEWCOMERS_PER_S)
    for node in site.nodes:
        site.replace(node)
    running.newcomers(0)
    report = running.report()
    unnoticed(report)
    assert (report.newcomers.again, report.newcomers.failed) == (0, 0)
    assert report.newcomers.well > NEWCOMERS_PER_S


@pytest.mark.usefixtures("ends")
def test_an_upgrade_that_lays_its_tables_out_anew(site: Site, running: Traffic) -> None:
    """The programs of before forward until the peers have filled the new tables."""
    site.told("l4-2")
    site.replace("l4-2", other_tables=True)
    time.sleep(1)
    unnoticed(running.report())
    assert "the agent before had other tables" in (site.lab.directory_of("l4-2") / "log").read_text()


def test_a_daemon_hangs(site: Site, running: Traffic, ends: list[End]) -> None:
    """Its programs forward without it. What they had to tell of the connections that began meanwhile is told later."""
    site.told("l4-3")
    site.signal("l4-3", signal.SIGSTOP)
    try:
        fresh = set(running.open(CONNECTIONS + LEARNT, FLOWS)) - set(ends)
        time.sleep(SILENT_S)
        unnoticed(running.report(), CONNECTIONS + LEARNT)
        assert_untold(site, fresh, "l4-1")
    finally:
        site.signal("l4-3", signal.SIGCONT)
    takes_over(site, running, "l4-1", {*ends, *fresh})


@pytest.mark.parametrize("while_s", [0, pytest.param(15, marks=pytest.mark.soak)])
def test_multicast_is_cut_for_a_while(site: Site, running: Traffic, ends: list[End], while_s: float) -> None:
    """What is missing is asked for when it is whole again; after long, the whole table is."""
    site.told("l4-2")
    site.multicast(False)
    try:
        fresh = set(running.open(CONNECTIONS + LEARNT, FLOWS)) - set(ends)
        site.all_know(fresh, "l4-2")
        assert_untold(site, fresh, "l4-1")
        time.sleep(while_s)
        unnoticed(running.report(), CONNECTIONS + LEARNT)
    finally:
        site.multicast(True)
    takes_over(site, running, "l4-1", {*ends, *fresh})


@pytest.mark.usefixtures("ends")
def test_the_nodes_reach_each_other_by_multicast_alone(site: Site, running: Traffic) -> None:
    site.told("l4-2")
    site.unicast(False)
    try:
        ends = running.open(CONNECTIONS + LEARNT, FLOWS)
        takes_over(site, running, "l4-3", ends)
    finally:
        site.unicast(True)


def test_two_nodes_have_the_vips_until_they_meet_again(site: Site, running: Traffic, ends: list[End]) -> None:
    """What began at either while they were apart goes on, though one gets the other's packets before they meet: until
    it has been told, it drops what only the other could place, and the client sends it again."""
    site.multicast(False)
    site.unicast(False)
    try:
        site.told("l4-1", "l4-2")
        time.sleep(SILENT_S)
        fresh = set(running.open(CONNECTIONS + LEARNT, FLOWS)) - set(ends)
        untold = [site.missing(fresh, node) for node in ("l4-1", "l4-2")]
        assert all(untold), "both have their own"
        unnoticed(running.report(), CONNECTIONS + LEARNT)
        site.told("l4-1")
        time.sleep(1)  # two messages of each connection
    finally:
        site.unicast(True)
        site.multicast(True)
    survived(running.report(), CONNECTIONS + LEARNT)
    takes_over(site, running, "l4-2", {*ends, *fresh})


@pytest.mark.soak
def test_a_node_comes_back_and_nobody_can_give_it_a_snapshot(site: Site, running: Traffic, ends: list[End]) -> None:
    """It hears of each session that carries packets within 25 s, and does not call itself complete before."""
    site.told(*site.others("l4-1"))
    site.unicast(False)
    try:
        site.lab.end_process("l4-1")
        site.lab.start("l4-1")
        complete(site, "l4-1", ends)
    finally:
        site.unicast(True)
    takes_over(site, running, "l4-1", ends)


def test_a_server_is_drained(site: Site, running: Traffic, ends: list[End]) -> None:
    """It keeps what it has, and gets nothing new."""
    drained = [endpoint(address, 0).rpartition(":")[0] for host in site.topology.of("backend")[:1]
               for address in (host.address, host.address_v6)]  # fmt: skip
    site.told("l4-1")
    site.configure(draining="be-1")
    try:
        fresh = set(running.open(CONNECTIONS + LEARNT, FLOWS)) - set(ends)
        site.all_know(fresh, "l4-1")
        servers = {end: real.rpartition(":")[0] for end, real in site.known("l4-1").items()}
        assert [servers[known_as(end)] for end in fresh if servers[known_as(end)] in drained] == []
        assert sum(servers[known_as(end)] in drained for end in ends) > CONNECTIONS / 4
        unnoticed(running.report(), CONNECTIONS + LEARNT)
    finally:
        site.configure()


def test_the_nodes_are_restarted_one_after_the_other(site: Site, running: Traffic, ends: list[End]) -> None:
    for node in site.nodes:
        site.told(*site.others(node))
        site.lab.end_process(node)
        site.lab.start(node)
        complete(site, node, ends)
    site.told(*site.nodes)
    unnoticed(running.report())
