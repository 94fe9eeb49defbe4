"""A lab whose L4 nodes announce the VIPs themselves, by VRRP and by BGP.

Who has them, and what outlives an owner. Each lab is used up from test to test, in the order in which they stand here:
planned end, return, death of a machine, death of an agent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control.node import admin
from core.endpoints import endpoint
from deploy.lab import model, namespaces, state
from deploy.lab.lab import Lab
from deploy.lab.topology import VIP, VIP6
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

ADDED = "10.81.2.101"
PORTS = (model.TCP_NAT_PORT, model.TCP_DR_PORT)


@dataclass(frozen=True)
class Cluster:
    name: str
    method: str

    def lab(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.lab", words[0], "--name", self.name, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True)

    def on(self, host: str, *words: str) -> str:
        done = self.lab("exec", host, "--", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def api(self) -> Any:
        return Lab.find(self.name).api

    def node(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = admin.ask(self.state(name) / "admin.sock", "status")  # type: ignore[assignment]
        return document

    def state(self, name: str) -> Path:
        return state.directory(self.name) / name / "state"

    def held(self, name: str) -> dict[str, bool]:
        return {each["address"]: each["held"] for each in self.node(name)["vip"]["addresses"]}

    def addresses(self, name: str) -> str:
        return self.on(name, "ip", "-o", "addr", "show", "dev", "eth0")

    def agent(self, name: str) -> int:
        pid = Lab.find(self.name).process_id(name)
        assert pid is not None
        return pid


@pytest.fixture(scope="module", params=["vrrp", "bgp"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(f"pftv{request.param}{os.getpid()}"[:16], request.param)
    up = made.lab("up", "--vip", made.method, "--l7", "1", "--backends", "2")
    try:
        assert up.returncode == 0, up.stderr
        yield made
    finally:
        assert made.lab("down").returncode == 0
        assert namespaces.existing(f"{made.name}-") == []


class Downloads:
    """Of both VIPs, in nat and in dr, going on while something happens."""

    def __init__(self, cluster: Cluster, count: int = 2) -> None:
        command = [*namespaces.enter(f"{cluster.name}-client"), sys.executable, "-m", "deploy.lab.client", "tcp"]
        rate = ["--bytes", "8000000", "--rate", "2000000"]
        self._running = [
            subprocess.Popen([*command, endpoint(vip, port), *rate], stdout=subprocess.PIPE, text=True)
            for vip in (VIP, VIP6)
            for port in PORTS
            for _ in range(count)
        ]
        time.sleep(1)

    def complete(self) -> list[bool]:
        return [bool(json.loads(each.communicate(timeout=60)[0] or "{}").get("correct")) for each in self._running]


def test_traffic_of_every_kind(cluster: Cluster) -> None:
    eventually(lambda: all(any(cluster.held(node)[vip] for node in ("l4-1", "l4-2")) for vip in (VIP, VIP6)))
    for vip in (VIP, VIP6):
        for port in PORTS:
            words = ["python", "-m", "deploy.lab.client", "tcp", endpoint(vip, port), "--bytes", "1000000"]
            assert json.loads(cluster.on("client", *words))["correct"]
        for port in (model.UDP_NAT_PORT, model.UDP_DR_PORT):
            cluster.on("client", "python", "-m", "deploy.lab.client", "udp", endpoint(vip, port))
        url = f"http://{endpoint(vip, 80)}/"
        assert json.loads(cluster.on("client", "curl", "-sS", "--max-time", "10", url))["headers"]["via"] == [
            "1.1 l7-1"
        ]


def test_who_has_each_vip_is_shown_everywhere(cluster: Cluster) -> None:
    both = cluster.method == "bgp"
    eventually(lambda: all(any(cluster.held(node).values()) for node in ("l4-1", "l4-2")))
    time.sleep(1.5)  # by when the nodes have told the control plane
    held = {node: cluster.held(node) for node in ("l4-1", "l4-2")}
    for vip in (VIP, VIP6):
        assert sum(held[node][vip] for node in held) == (2 if both else 1)
    if not both:
        assert all(held[node][VIP] != held[node][VIP6] for node in held)  # each has its share
    eventually(lambda: all(f"{vip} " in cluster.lab("status").stdout for vip in (VIP, VIP6)))
    shown = {
        line.split()[0]: line for line in cluster.lab("status").stdout.splitlines() if f" {cluster.method}: " in line
    }
    cluster_wide = cluster.on("control", "paifang", "status")
    for vip in (VIP, VIP6):
        owners = ", ".join(node for node in held if held[node][vip])
        assert shown[vip].endswith(f"{cluster.method}: {owners}")
        (line,) = (line for line in cluster_wide.splitlines() if line.startswith(f"{vip} "))
        assert line.split(maxsplit=2) == [vip, cluster.method, owners]
    metrics = text_string_to_metric_families(cluster.on("l4-1", "curl", "-s", "http://127.0.0.1:8474/metrics"))
    samples = {(sample.name, *sample.labels.values()): sample.value for family in metrics for sample in family.samples}
    assert samples["paifang_l4_vip_held", VIP, cluster.method] == held["l4-1"][VIP]
    assert samples["paifang_l4_vip_transitions_total", VIP, cluster.method] >= 1
    assert len([key for key in samples if key[0] == "paifang_l4_bgp_session_up"]) == (2 if both else 0)
    assert cluster.node("l4-1")["problems"] == []


def test_ports_without_a_listener_are_not_the_owners_own(cluster: Cluster) -> None:
    serve = "import socket; s = socket.create_server(('0.0.0.0', 7777)); print(flush=True); s.accept()"
    for node in ("l4-1", "l4-2"):
        words = [*namespaces.enter(f"{cluster.name}-{node}"), sys.executable, "-c", serve]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
            assert server.stdout
            server.stdout.readline()
            nobody = cluster.lab("exec", "client", "--", "curl", "-s", "--max-time", "1", f"http://{VIP}:7777/")
            assert nobody.returncode == 28, nobody  # silence, and nothing that looks like a service or its absence
            assert server.poll() is None
            server.kill()


def test_a_vip_that_is_added_leaves_the_others_alone(cluster: Cluster) -> None:
    def changes() -> dict[tuple[str, str], int]:
        found = {node: cluster.node(node)["vip"]["addresses"] for node in ("l4-1", "l4-2")}
        return {(node, each["address"]): each["transitions"] for node, rows in found.items() for each in rows}

    before = changes()
    cluster.api.put("instances", "wire", {"name": "wire", "type": "nlb", "vips": [VIP, VIP6, ADDED]})
    eventually(lambda: any(cluster.held(node).get(ADDED) for node in ("l4-1", "l4-2")))
    words = ["python", "-m", "deploy.lab.client", "tcp", endpoint(ADDED, model.TCP_NAT_PORT), "--bytes", "100000"]
    assert json.loads(cluster.on("client", *words))["correct"]
    after = changes()
    assert {key: after[key] for key in before} == before
    cluster.api.put("instances", "wire", {"name": "wire", "type": "nlb", "vips": [VIP, VIP6]})
    eventually(lambda: ADDED not in {**cluster.held("l4-1"), **cluster.held("l4-2")})


def test_a_node_that_is_told_to_stop_gives_its_vips_up_first(cluster: Cluster) -> None:
    downloads = Downloads(cluster)
    pid = cluster.agent("l4-1")
    os.kill(pid, signal.SIGTERM)
    assert all(downloads.complete())
    eventually(lambda: Lab.find(cluster.name).process_id("l4-1") is None)
    said = (state.directory(cluster.name) / "l4-1/log").read_text()
    assert said.index(f"VIP {VIP}: withdrawn") < said.index("the VIPs are given up")
    assert f" {VIP}/" not in cluster.addresses("l4-1")
    eventually(lambda: cluster.held("l4-2")[VIP] and cluster.held("l4-2")[VIP6])
    assert namespaces.inhabitants([f"{cluster.name}-l4-1"]) == {}


def test_a_node_that_returns_waits_before_it_takes_its_share(cluster: Cluster) -> None:
    assert cluster.lab("start", "l4-1").returncode == 0
    node = cluster.node("l4-1")
    if not node["sync"]["complete"]:
        assert node["vip"]["stage"] == "waiting"
        assert not any(cluster.held("l4-1").values())
    eventually(lambda: any(cluster.held("l4-1").values()))
    assert cluster.node("l4-1")["vip"]["stage"] == "holding"


def test_a_node_drains_by_an_operators_word_and_serves_again(cluster: Cluster) -> None:
    """Its VIPs go before it takes nothing new, what it has goes on, and an agent that is started anew still drains."""
    downloads = Downloads(cluster)
    drained = cluster.on("control", "paifang", "drain", "l4-1", "--wait", "--timeout", "50s")
    assert drained.endswith("l4-1: nothing left\n"), drained
    assert not any(cluster.held("l4-1").values())
    eventually(lambda: cluster.held("l4-2")[VIP] and cluster.held("l4-2")[VIP6])
    assert all(downloads.complete())
    downloads = Downloads(cluster, 1)
    Lab.find(cluster.name).kill_process("l4-1")
    assert cluster.lab("start", "l4-1").returncode == 0
    eventually(lambda: cluster.node("l4-1")["sync"]["complete"])
    assert not any(cluster.held("l4-1").values())
    assert all(downloads.complete())
    downloads = Downloads(cluster, 1)
    cluster.on("control", "paifang", "undrain", "l4-1")
    eventually(lambda: any(cluster.held("l4-1").values()))
    assert all(downloads.complete())


def test_connections_outlive_a_machine(cluster: Cluster) -> None:
    downloads = Downloads(cluster)
    assert cluster.lab("kill", "l4-1").returncode == 0
    assert all(downloads.complete())
    eventually(lambda: cluster.held("l4-2")[VIP] and cluster.held("l4-2")[VIP6])
    assert namespaces.inhabitants([f"{cluster.name}-l4-1"]) == {}


def test_an_agent_that_is_killed_loses_nothing_and_the_next_one_goes_on(cluster: Cluster) -> None:
    downloads = Downloads(cluster)
    Lab.find(cluster.name).kill_process("l4-2")
    if cluster.method == "vrrp":
        assert f" {VIP}/" in cluster.addresses("l4-2")
    assert cluster.lab("start", "l4-2").returncode == 0
    assert all(downloads.complete())
    said = (state.directory(cluster.name) / "l4-2/log").read_text()
    assert "going on with what the agent before has left announcing VIPs" in said
    assert cluster.held("l4-2")[VIP]
    assert cluster.node("l4-2")["problems"] == []


def test_an_agent_that_leaves_lets_the_vips_stay_for_the_next_one(cluster: Cluster) -> None:
    downloads = Downloads(cluster, 1)
    cluster.on("l4-2", "paifang", "l4", "ask", "leave", "--state", str(cluster.state("l4-2")))
    eventually(lambda: Lab.find(cluster.name).process_id("l4-2") is None)
    assert all(downloads.complete())
    downloads = Downloads(cluster, 1)
    assert cluster.lab("start", "l4-2").returncode == 0
    assert all(downloads.complete())
    assert cluster.held("l4-2")[VIP]
