"""A real L4 node bills UDP to the byte, while its agent is killed, leaves, and is replaced by one with other tables."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core.model import (
    BackendProtocol,
    BackendService,
    Instance,
    InstanceType,
    Listener,
    Model,
    Protocol,
    Server,
    ServerGroup,
)
from tests.l4fast import test_failover
from tests.l4fast.netns import Network
from tests.l4fast.test_failover import CLIENTS, GROUP, NODES, VIP, Cluster
from tests.l4fast.test_metering import told
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

HEADERS = 20 + 8  # IPv4 and UDP
PORT = 80


def site(port: int) -> Model:
    return Model(
        server_groups={"g": ServerGroup("g", (Server("10.77.0.21", port),))},
        backend_services={"b": BackendService("b", BackendProtocol.UDP, server_group="g")},
        instances={"i": Instance("i", InstanceType.NLB, (VIP,))},
        listeners={"l": Listener("l", "i", Protocol.UDP, PORT, "b")},
    )


def serve(sock: socket.socket) -> None:
    with suppress(OSError):
        while True:
            data, client = sock.recvfrom(2048)
            if client is None:  # it was shut down
                return
            sock.sendto(data[len(data) // 2 :], client)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Network(f"pftm{os.getpid()}") as network:
        network.host("router", "10.77.0.1/24", f"addr add {CLIENTS[4]}/32 dev lo")
        network.host("l4-1", f"{NODES['l4-1']}/24", "route add default via 10.77.0.1")
        network.host("backend", "10.77.0.21/24", f"route add default via {NODES['l4-1']}")
        network.ip("router", f"route replace {VIP}/32 via {NODES['l4-1']}")

        def server() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("10.77.0.21", 0))
            return sock

        with network.inside("backend", server) as sock:
            threading.Thread(target=serve, args=(sock,), daemon=True).start()
            found = Cluster(network, tmp_path, sock, GROUP)
            try:
                yield found
            finally:
                found.close()
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(("killed",), id="killed"),
        pytest.param(("killed", "left", "upgraded", "killed"), id="in every way", marks=pytest.mark.soak),
    ],
)
def test_to_the_byte(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, ways: tuple[str, ...]) -> None:
    monkeypatch.setattr(test_failover, "model", site)
    sent = received = 0

    def client() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((CLIENTS[4], 0))
        sock.settimeout(20)
        return sock

    with cluster.network.inside("router", client) as sock:

        def exchange() -> None:
            nonlocal sent, received
            for size in (0, 1, 77, 1200):
                sock.sendto(bytes(size), (VIP, PORT))
                sent += HEADERS + size
                received += HEADERS + len(sock.recv(2048))

        cluster.start("l4-1")
        cluster.nodes["l4-1"].wait_ready(60)
        exchange()
        for how in ways:
            old = cluster.nodes.pop("l4-1")
            if how == "killed":
                old.signal(signal.SIGKILL)
            else:
                cluster.ask("l4-1", "leave")
            eventually(lambda old=old: old.poll() is not None, "the agent has ended")  # type: ignore[misc]
            old.terminate(5)
            exchange()
            if how == "upgraded":
                left = cluster.state("l4-1") / "maps.json"
                noted = json.loads(left.read_text())
                left.write_text(json.dumps({key: n ^ ("contract" in key) for key, n in noted.items()}))
            cluster.start("l4-1")
            cluster.nodes["l4-1"].wait_ready(60)
            exchange()
        assert cluster.nodes.pop("l4-1").terminate(20) == 0
    ((owner, usage),) = told(cluster.state("l4-1")).items()
    assert owner == ("i", "l")
    assert usage[:2] == (sent, received)
