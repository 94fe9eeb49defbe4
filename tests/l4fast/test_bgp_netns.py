"""Real BIRD on two nodes and a router: which routes the router has, and when.

The tests run in order: each begins where the one before has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4fast.announcing import Program
from l4fast.bgp import ESTABLISHED, Neighbour
from l4fast.bird import Bird
from l4fast.interfaces import carries
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings, locate
from l4fast.vip_states import VipState
from tests.l4fast.netns import Network
from tests.l4fast.pair import LAST, NODES, TRIES, Pair
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ROUTER = """\
log stderr all;
router id 10.77.0.1;
protocol device { scan time 1; }
protocol bfd { interface "eth0" { interval 100 ms; multiplier 3; }; }
protocol kernel { ipv4 { import none; export all; }; merge paths on; }
protocol kernel { ipv6 { import none; export all; }; merge paths on; }
"""
ROUTED = ("203.0.113.80", "2001:db8:113::80")
ADDED = "203.0.113.81"


def bird(node: str, home: Path, address: str) -> Program:
    settings = VipSettings(
        "bgp", grace_s=60, local_as=65000 + LAST[node],
        neighbours=(Neighbour("10.77.0.1", 65000), Neighbour("fd77::1", 65000)), router_id=address,
    )  # fmt: skip
    return Bird(locate("bgp"), home, settings, node, "")


@pytest.fixture(scope="module")
def bgp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Network(f"pftb{os.getpid()}") as network:
        home = tmp_path_factory.mktemp("bgp")
        pair = Pair(network, home, bird)
        pair.pools = {"n1": ("10.77.9.1",), "n2": ("10.77.9.2",)}
        text = ROUTER
        for node in NODES:
            for ip, ours, theirs in ((4, "10.77.0.1", f"10.77.0.{LAST[node]}"), (6, "fd77::1", f"fd77::{LAST[node]}")):
                number = 65000 + LAST[node]
                text += (f"protocol bgp {node}_{ip} {{ local {ours} as 65000; neighbor {theirs} as {number}; "
                         f"bfd on; error wait time 1, 2; ipv{ip} {{ import all; export none; }}; }}\n")  # fmt: skip
        (home / "bird.conf").write_text(text)
        router = ["nsenter", f"--net={network.path('router')}", "bird", "-f", "-c", str(home / "bird.conf"),
                  "-s", str(home / "bird.ctl")]  # fmt: skip
        with (home / "log").open("wb") as log, subprocess.Popen(router, stderr=log) as process:
            try:
                yield pair
            finally:
                process.terminate()
                pair.close()


def hops(pair: Pair, address: str) -> set[str]:
    """The nodes to which the router sends what is for the address."""
    shown = pair.ip("router", "-6" if ":" in address else "-4", "route", "show", address)
    return {node for node in NODES for of in (f"10.77.0.{LAST[node]} ", f"fd77::{LAST[node]} ") if of in shown}


def sessions(pair: Pair, node: str) -> list[tuple[object, object]]:
    return [(peer["state"], peer["since"]) for peer in pair.nodes[node].peers()]


def test_routers_spread_over_the_nodes(bgp: Pair) -> None:
    for node in NODES:
        bgp.put(node, ROUTED)
    eventually(lambda: all(set(bgp.states(node).values()) == {"announced"} for node in NODES))
    for address in ROUTED:
        eventually(lambda address=address: hops(bgp, address) == set(NODES))  # type: ignore[misc]
    eventually(lambda: [hops(bgp, pool) for pool in ("10.77.9.1", "10.77.9.2")] == [{"n1"}, {"n2"}])
    for node in NODES:
        eventually(lambda node=node: bgp.states(node) and {p["bfd"] for p in bgp.nodes[node].peers()} == {"Up"})  # type: ignore[misc]
        assert {state for state, _ in sessions(bgp, node)} == {ESTABLISHED}
        assert bgp.nodes[node].problems() == []


def test_a_route_that_is_added_leaves_sessions_and_routes_alone(bgp: Pair) -> None:
    before, changes = [sessions(bgp, node) for node in NODES], bgp.transitions()
    for node in NODES:
        bgp.put(node, (*ROUTED, ADDED))
    eventually(lambda: hops(bgp, ADDED) == set(NODES))
    for node in NODES:
        bgp.states(node)
    assert [sessions(bgp, node) for node in NODES] == before
    after = bgp.transitions()
    assert {key: after[key] for key in changes} == changes


def test_routes_that_bird_refuses_change_nothing(bgp: Pair) -> None:
    program = bgp.nodes["n1"]
    program._password = '"'  # type: ignore[attr-defined]
    try:
        with pytest.raises(VipError, match="BIRD refuses its configuration"):
            bgp.put("n1", ROUTED)
    finally:
        program._password = ""  # type: ignore[attr-defined]
    assert hops(bgp, ADDED) == set(NODES)


def test_on_the_way_out_routes_go_while_the_session_stays(bgp: Pair) -> None:
    bgp.run("n1", lambda program: program.withdraw())
    eventually(lambda: all(hops(bgp, address) == {"n2"} for address in (*ROUTED, "10.77.9.1")))
    assert set(bgp.states("n1").values()) == {"withdrawn"}
    assert {state for state, _ in sessions(bgp, "n1")} == {ESTABLISHED}
    bgp.run("n1", lambda program: program.end())
    assert not bgp.nodes["n1"].runs()
    bgp.put("n1", ROUTED)
    eventually(lambda: all(hops(bgp, address) == set(NODES) for address in ROUTED))


def test_bfd_finds_a_dead_node_within_half_a_second(bgp: Pair) -> None:
    found = []
    for _ in range(TRIES):
        eventually(lambda: hops(bgp, ROUTED[0]) == set(NODES) == hops(bgp, ROUTED[1]))
        eventually(lambda: bgp.states("n2") and {peer["bfd"] for peer in bgp.nodes["n2"].peers()} == {"Up"})
        began = time.monotonic()
        bgp.network.ip("sw", "link set n2 down")
        while hops(bgp, ROUTED[0]) | hops(bgp, ROUTED[1]) != {"n1"}:
            assert time.monotonic() - began < 5
            time.sleep(0.005)
        found.append(time.monotonic() - began)
        bgp.die("n2")
        bgp.network.ip("sw", "link set n2 up")
        bgp.begin("n2")
        bgp.put("n2", ROUTED)
        if found[-1] <= 0.5:
            return
    pytest.fail(f"{found} s")


def test_without_a_router_nobody_hears(bgp: Pair) -> None:
    eventually(lambda: bgp.held("n2"))
    assert bgp.network.inside("router", lambda: carries("eth0"))
    bgp.network.ip("router", "link set eth0 down")
    assert not bgp.network.inside("router", lambda: carries("eth0"))
    eventually(lambda: set(bgp.states("n2").values()) == {VipState.UNHEARD})
    assert {peer["up"] for peer in bgp.nodes["n2"].peers()} == {False}


def test_a_bird_that_is_killed_announces_the_same_again(bgp: Pair) -> None:
    bgp.network.ip("router", "link set eth0 up")
    bgp.network.ip("router", "addr replace fd77::1/64 dev eth0 nodad")
    bgp.network.ip("router", "addr replace fe80::1/64 dev eth0 nodad")
    eventually(lambda: all(hops(bgp, address) == set(NODES) for address in ROUTED), limit_s=30)
    os.kill(int((bgp.directory / "n1/bird.pid").read_text()), signal.SIGKILL)
    eventually(lambda: hops(bgp, ROUTED[0]) == {"n2"})
    eventually(lambda: all(hops(bgp, address) == set(NODES) for address in ROUTED), limit_s=30)


def test_the_next_agent_goes_on_and_knows_what_is_announced(bgp: Pair) -> None:
    eventually(lambda: set(bgp.states("n1").values()) == {"announced"})
    second = bgp.network.inside("n1", lambda: bird("n1", bgp.directory / "n1", "10.77.0.11"))
    assert bgp.network.inside("n1", second.adopt)
    first, bgp.nodes["n1"] = bgp.nodes["n1"], second
    first._keeper._process.returncode = 0  # type: ignore[attr-defined]  # or Popen would warn that it still runs
    assert set(second.states.addresses()) == set(first.states.addresses())
    assert set(bgp.states("n1").values()) == {"announced"}
    bgp.put("n1", ROUTED)
    assert hops(bgp, ROUTED[0]) == set(NODES)


def test_a_bird_that_cannot_run_announces_nothing(bgp: Pair) -> None:
    home = bgp.directory / "n1"
    (home / "bird.conf").write_text("nonsense")
    os.kill(int((home / "bird.pid").read_text()), signal.SIGKILL)
    with pytest.raises(VipError, match="BIRD does not answer"):
        eventually(lambda: bgp.states("n1") is None)
    assert {str(each["state"]) for each in bgp.nodes["n1"].states.report()} == {VipState.UNHEARD}
    assert {peer["state"] for peer in bgp.nodes["n1"].peers()} == {"BIRD does not answer"}
    (home / "bird.conf").unlink()
    with pytest.raises(VipError, match="BIRD does not answer"):
        bgp.put("n1", ROUTED)
    eventually(lambda: hops(bgp, ROUTED[0]) == set(NODES))
    bgp.put("n1", ROUTED)
    eventually(lambda: set(bgp.states("n1").values()) == {"announced"})
