"""Mode tunnel through the whole cluster: servers open the packets themselves and answer clients directly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from core.endpoints import endpoint
from deploy.lab import model, namespaces
from deploy.lab.topology import CLIENT, CLIENT6, VIP, VIP6

pytestmark = pytest.mark.root

NAME = f"pfttu{os.getpid()}"
DEADLINE_S = 30.0
CLIENTS = {VIP: f"{CLIENT}:", VIP6: f"[{CLIENT6}]:"}


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.lab", words[0], "--name", NAME, *words[1:]]
    return subprocess.run(command, capture_output=True, text=True)


def client(*words: str) -> dict[str, Any]:
    inside = [*namespaces.enter(f"{NAME}-client"), sys.executable, "-m", "deploy.lab.client", *words]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module", autouse=True)
def _up() -> Iterator[None]:
    made = lab("up", "--mode", "tunnel", "--l4", "1", "--l7", "1", "--backends", "2")
    try:
        assert made.returncode == 0, made.stderr
        yield
    finally:
        down = lab("down")
        assert down.returncode == 0, down.stderr


@pytest.mark.parametrize("vip", CLIENTS)
@pytest.mark.parametrize("what", ["tcp", "upload"])
def test_tcp(what: str, vip: str) -> None:
    """The upload has full packets, which do not fit into the tunnel: the client has to be told (path MTU)."""
    transfer = client(what, endpoint(vip, model.TCP_TUNNEL_PORT), "--bytes", "5000000")
    assert transfer["correct"]
    assert transfer["seen_client"].startswith(CLIENTS[vip])


@pytest.mark.parametrize("vip", CLIENTS)
def test_udp(vip: str) -> None:
    assert client("udp", endpoint(vip, model.UDP_TUNNEL_PORT))["client"].startswith(CLIENTS[vip])


def test_a_server_that_was_dead_opens_packets_again() -> None:
    def running() -> dict[str, Any]:
        return {host["name"]: host["runs"] for host in json.loads(lab("status", "--json").stdout)["hosts"]}

    assert lab("kill", "be-1").returncode == 0
    assert running()["be-1"] is False
    started = lab("start", "be-1")
    assert started.returncode == 0, started.stderr
    assert running()["be-1"] is True
    deadline = time.monotonic() + DEADLINE_S
    while client("udp", f"{VIP}:{model.UDP_TUNNEL_PORT}")["server"] != "be-1":
        assert time.monotonic() < deadline
