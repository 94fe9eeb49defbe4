"""Full NAT through the whole cluster: servers see a node's pool, and a dead node's connections go on by another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from control.node.admin import ask
from core.endpoints import endpoint
from deploy.lab import model, namespaces, state
from deploy.lab.topology import POOLS, POOLS6, VIP, VIP6

pytestmark = pytest.mark.root

NAME = f"pftfn{os.getpid()}"
DEADLINE_S = 30.0
NODES = {"l4-1": f"{POOLS}.11", "l4-2": f"{POOLS}.12"}
POOLS_OF = {VIP: [f"{pool}:" for pool in NODES.values()], VIP6: [f"[{POOLS6}11]:", f"[{POOLS6}12]:"]}
both = pytest.mark.parametrize("vip", [VIP, VIP6])


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.lab", words[0], "--name", NAME, *words[1:]]
    return subprocess.run(command, capture_output=True, text=True)


def client(*words: str) -> subprocess.Popen[str]:
    inside = [*namespaces.enter(f"{NAME}-client"), sys.executable, "-m", "deploy.lab.client", *words]
    return subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    document: dict[str, Any] = json.loads(out)
    return document


def admin(node: str, command: str) -> Any:
    return cast(Any, ask(state.directory(NAME) / node / "state/admin.sock", command))


@pytest.fixture(scope="module", autouse=True)
def _up() -> Iterator[None]:
    made = lab("up", "--mode", "fullnat", "--l7", "1", "--backends", "2")
    try:
        assert made.returncode == 0, made.stderr
        yield
    finally:
        down = lab("down")
        assert down.returncode == 0, down.stderr


@both
@pytest.mark.parametrize("what", ["tcp", "upload"])
def test_tcp(what: str, vip: str) -> None:
    transfer = result(client(what, endpoint(vip, model.TCP_FULLNAT_PORT), "--bytes", "5000000"))
    assert transfer["correct"]
    assert transfer["seen_client"].startswith(tuple(POOLS_OF[vip]))


@both
def test_udp(vip: str) -> None:
    answer = result(client("udp", endpoint(vip, model.UDP_FULLNAT_PORT)))
    assert answer["client"].startswith(tuple(POOLS_OF[vip]))


def owner_of_transfer() -> tuple[str, dict[str, Any]]:
    """The node that made the session of the running transfer, once its peer knows it."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        known = {node: [s for s in admin(node, "sessions") if s["state"] == "established"] for node in NODES}
        if all(len(sessions) == 1 for sessions in known.values()):
            return next((node, sessions[0]) for node, sessions in known.items() if not sessions[0]["synced"])
        assert time.monotonic() < deadline, known
        time.sleep(0.05)


@both
def test_a_transfer_outlives_the_node_that_gave_out_its_port(vip: str) -> None:
    transfer = client("tcp", endpoint(vip, model.TCP_FULLNAT_PORT), "--bytes", "15000000", "--rate", "3000000")
    owner, session = owner_of_transfer()
    other = next(node for node in NODES if node != owner)
    replies = admin(other, "counters")["packets"]["tx_reply"]
    assert lab("kill", owner).returncode == 0
    done = result(transfer)
    assert done["correct"]
    assert done["seen_client"] == session["source"]
    assert session["source"].startswith(POOLS_OF[vip][list(NODES).index(owner)])
    assert admin(other, "counters")["packets"]["tx_reply"] > replies + 100
    started = lab("start", owner)
    assert started.returncode == 0, started.stderr
