"""Two real L4 nodes on one switch: what the one knows the other learns, and takes over when the one is gone.

    client+router ──┐ 10.77.0.1, clients are 192.0.2.1
    l4-1 ───────────┤ 10.77.0.11
    l4-2 ───────────┤ 10.77.0.12
    backend ────────┘ 10.77.0.21, its default route leads through an L4 node

All have addresses of IPv6 too, with the same last part. The first pair of nodes speaks over the IPv4 group, the second
over the IPv6 one.
There is no control plane: both nodes start from their last good copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.node import admin
from control.node.children import Child
from core.config import to_dict
from core.endpoints import endpoint
from core.model import (
    BackendProtocol,
    BackendService,
    HealthCheck,
    Instance,
    InstanceType,
    Listener,
    Model,
    Protocol,
    Scheduler,
    Server,
    ServerGroup,
)
from l4fast.settings import load_secrets, make_key
from l4fast.sync_codec import Header, Type, parse_header, seal
from l4fast.sync_io import multicast_socket
from l4fast.sync_keys import ClusterKey, node_id
from l4fast.tables import ECHO_PER_CPU_S
from tests.l4fast.netns import Network
from tests.packets import ICMP_PROTOCOL, echo
from tests.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

VIP, VIP6 = "203.0.113.80", "2001:db8:113::80"
VIPS = {4: VIP, 6: VIP6}
CLIENTS = {4: "192.0.2.1", 6: "2001:db8:2::1"}
GROUP = ("224.0.0.81", 8848)
GROUP6 = ("ff02::81", 8848)
NODES = {"l4-1": "10.77.0.11", "l4-2": "10.77.0.12"}
LAN6 = "2001:db8:77::"
versions = pytest.mark.parametrize("version", [4, 6])


def model(port: int) -> Model:
    return Model(
        server_groups={"g": ServerGroup("g", (Server("10.77.0.21", port), Server(f"{LAN6}21", port)))},
        backend_services={
            "b": BackendService(
                "b", BackendProtocol.TCP, server_group="g", scheduler=Scheduler.WRR,
                health_check=HealthCheck(interval_s=1, timeout_s=1, rise=2, fall=2),
            )
        },
        instances={"i": Instance("i", InstanceType.NLB, (VIP, VIP6))},
        listeners={"l": Listener("l", "i", Protocol.TCP, 80, "b")},
    )  # fmt: skip


class Cluster:
    """The network, the backend and the two nodes."""

    def __init__(self, network: Network, directory: Path, backend: socket.socket, group: tuple[str, int]) -> None:
        self.network = network
        self.group = group
        self.directory = directory
        self.backend = backend
        self.key_file = directory / "cluster.key"
        self.nodes: dict[str, Child] = {}
        make_key(self.key_file)
        certs = [sys.executable, "-m", "certs"]
        subprocess.run([*certs, "init", str(directory / "ca")], check=True, capture_output=True)
        for name in NODES:
            issue = [
                "issue",
                str(directory / "ca"),
                "--role",
                "l4",
                "--name",
                name,
                "--out",
                str(directory / f"id-{name}"),
            ]
            subprocess.run([*certs, *issue], check=True, capture_output=True)

    def state(self, name: str) -> Path:
        return self.directory / name

    def argv(self, name: str, /, **changes: str) -> list[str]:
        options = {
            "name": name, "control": "https://127.0.0.1:9", "identity": str(self.directory / f"id-{name}"),
            "interface": "eth0", "state": str(self.state(name)), "cluster-key": str(self.key_file), "xdp": "generic",
            "sync": endpoint(*self.group),
        } | {key.replace("_", "-"): value for key, value in changes.items()}  # fmt: skip
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return ["nsenter", f"--net={self.network.path(name)}", sys.executable, "-m", "l4fast", *words]

    def start(self, name: str) -> None:
        self.state(name).mkdir(exist_ok=True)
        copy = {"version": 1, "config": to_dict(model(self.backend.getsockname()[1]))}
        (self.state(name) / "config.json").write_text(json.dumps(copy))
        self.nodes[name] = Child.start(
            name, self.argv(name), log=self.directory / f"{name}.log", notify_dir=self.directory
        )

    def ask(self, name: str, command: str, **arguments: object) -> dict[str, dict[str, int]]:
        return admin.ask(self.state(name) / "admin.sock", command, **arguments)  # type: ignore[return-value]

    def sessions(self, name: str) -> list[dict[str, object]]:
        return admin.ask(self.state(name) / "admin.sock", "sessions")  # type: ignore[return-value]

    def sync(self, name: str, counter: str) -> int:
        return self.ask(name, "counters")["sync"][counter]

    def close(self) -> None:
        for node in self.nodes.values():
            node.terminate(5)

    def route_through(self, name: str) -> None:
        """What a router does when it notices that a node has gone."""
        self.network.ip("router", f"route replace {VIP}/32 via {NODES[name]}")
        self.network.ip("backend", f"route replace default via {NODES[name]}")
        node6 = LAN6 + NODES[name].rpartition(".")[2]
        self.network.ip("router", f"route replace {VIP6}/128 via {node6}")
        self.network.ip("backend", f"route replace default via {node6}")

    def connect(self, version: int = 4) -> socket.socket:
        def connected() -> socket.socket:
            return socket.create_connection((VIPS[version], 80), timeout=10, source_address=(CLIENTS[version], 0))

        return self.network.inside("router", connected)


def serve(listener: socket.socket) -> None:
    """Answers each byte string with its reverse."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(sock,), daemon=True).start()


def answer(sock: socket.socket) -> None:
    with sock, contextlib.suppress(ConnectionError):  # what a test's client does at the end is its own business
        while data := sock.recv(4096):
            sock.sendall(data[::-1])


def exchange(sock: socket.socket, number: int) -> None:
    request = struct.pack("!I", number) * 64
    sock.sendall(request)
    received = b""
    while len(received) < len(request):
        data = sock.recv(4096)
        assert data, "the connection was closed"
        received += data
    assert received == request[::-1]


def of_ipv6(number: str) -> tuple[str, ...]:
    return tuple(f"addr add {address}{number}/64 dev eth0 nodad" for address in (LAN6, "fe80::"))


@pytest.fixture(scope="module", params=[GROUP, GROUP6], ids=["group of IPv4", "group of IPv6"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("l4")
    with Network(f"pft{os.getpid()}") as network:
        clients = (f"addr add {CLIENTS[4]}/32 dev lo", f"addr add {CLIENTS[6]}/128 dev lo")
        network.host("router", "10.77.0.1/24", *of_ipv6("1"), *clients)
        for name, address in NODES.items():
            routes = ("route add default via 10.77.0.1", "route add default via fe80::1 dev eth0")
            network.host(name, f"{address}/24", *of_ipv6(address.rpartition(".")[2]), *routes)
        network.host("backend", "10.77.0.21/24", *of_ipv6("21"))
        # One socket for both versions, as many servers have it.
        with network.inside("backend", both_versions) as backend:
            threading.Thread(target=serve, args=(backend,), daemon=True).start()
            cluster = Cluster(network, directory, backend, request.param)
            try:
                for name in NODES:
                    cluster.start(name)
                for node in cluster.nodes.values():
                    node.wait_ready(60)
                cluster.route_through("l4-1")
                yield cluster
            finally:
                cluster.close()
                backend.shutdown(socket.SHUT_RDWR)


def both_versions() -> socket.socket:
    return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)


def test_a_node_serves_from_its_last_good_copy(cluster: Cluster) -> None:
    status = cluster.ask("l4-1", "status")
    port = cluster.backend.getsockname()[1]
    assert status["health"] == [
        {"server": f"{server}:{port}/tcp", "healthy": True, "why": "connected"}
        for server in ("10.77.0.21", f"[{LAN6}21]")
    ]
    assert status["ready"] is True
    assert status["routes"] == [
        f"ip route replace {VIP}/32 via 10.77.0.11",
        f"ip -6 route replace {VIP6}/128 via {LAN6}11",
    ]
    assert status["problems"] == []
    for version in VIPS:
        with cluster.connect(version) as sock:
            exchange(sock, 1)


def test_the_nodes_know_each_other(cluster: Cluster) -> None:
    for name, peer in (("l4-1", "l4-2"), ("l4-2", "l4-1")):
        eventually(lambda name=name: cluster.sync(name, "received_hellos"), "a hello arrives")  # type: ignore[misc]
        peers: list[dict[str, object]] = cluster.ask(name, "status")["sync"]["peers"]  # type: ignore[assignment]
        assert [p["name"] for p in peers] == [peer]


@versions
def test_a_session_is_known_to_the_peer(cluster: Cluster, version: int) -> None:
    with cluster.connect(version) as sock:
        client = endpoint(CLIENTS[version], sock.getsockname()[1])
        for number in range(3):
            exchange(sock, number)

        def seen(name: str) -> list[dict[str, object]]:
            return [session for session in cluster.sessions(name) if session["client"] == client]

        eventually(lambda: seen("l4-2"), "the session is known to the other node")
        (mine,), (theirs,) = seen("l4-1"), seen("l4-2")
        assert (theirs["vip"], theirs["real"]) == (mine["vip"], mine["real"])
        assert (mine["synced"], theirs["synced"]) == (False, True)


def test_hostile_datagrams_are_counted_and_the_nodes_carry_on(cluster: Cluster) -> None:
    """From a host on the same network: forged, replayed, of another cluster, cut short."""
    group = cluster.group
    network = cluster.network
    (key,) = load_secrets(cluster.key_file).keys

    def sockets() -> tuple[socket.socket, socket.socket]:
        listen, send = multicast_socket(*group, "eth0"), multicast_socket(*group, "eth0")
        listen.settimeout(5)
        return listen, send

    listen, send = network.inside("router", sockets)
    with listen, send:
        genuine = listen.recv(2000)
        header = parse_header(genuine)
        stranger = ClusterKey(b"x" * 32)
        foreign = Header(Type.HELLO, stranger.id, 1, 2, 3, 4, time.time_ns() // 1000)
        newer = header._replace(sequence=header.sequence + 1000)
        datagrams = {
            "replayed": genuine,
            "forged": newer.pack() + genuine[56:],
            "foreign_cluster": seal(stranger.cipher(1, 2, 3), foreign, bytes(20)),
            "malformed": genuine[:-1] if header.type == Type.SESSIONS else genuine[:60],
            "old_boot": header._replace(boot=header.boot - 1, sequence=9).pack() + genuine[56:],
            "clock": seal(key.cipher(7, 8, 9), Header(Type.HELLO, key.id, 7, 8, 9, 1, 1), bytes(20)),
        }
        for name in NODES:
            before = cluster.ask(name, "counters")["sync"]
            for datagram in datagrams.values():
                send.sendto(datagram, group)
            expected = dict.fromkeys(datagrams, 1)
            if header.node == node_id(name):  # most of them claim to come from this node itself
                expected = {"foreign_cluster": 1, "malformed": 1, "clock": 1, "own": 3}

            def counted(before: dict[str, int] = before, name: str = name, expected: dict[str, int] = expected) -> bool:
                after = cluster.ask(name, "counters")["sync"]
                return all(after[reason] - before[reason] == count for reason, count in expected.items())

            eventually(counted, f"{name} has counted {expected}")
    hellos = cluster.sync("l4-2", "received_hellos")
    eventually(lambda: cluster.sync("l4-2", "received_hellos") > hellos, "the nodes still hear each other")


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({}, 1, "another L4 agent (pid "),
        ({"state": "{tmp}/other"}, 1, "eth0 carries another XDP program (id "),
        ({"interface": "eth9", "state": "{tmp}/other"}, 1, "no interface eth9; `ip link` lists those"),
        ({"identity": "{tmp}/none"}, 2, "No such file or directory; `paifang certs issue"),
        ({"name": "l4-9"}, 2, "the certificate is for l4 l4-1, not l4 l4-9"),
        (
            {"cluster_key": "{tmp}/none"},
            2,
            "cannot read the cluster key: No such file or directory; `paifang l4 --make",
        ),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    cluster: Cluster, tmp_path: Path, changes: dict[str, str], code: int, message: str
) -> None:
    changes = {key: value.format(tmp=tmp_path) for key, value in changes.items()}
    argv = cluster.argv("l4-1", **changes)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    last = ended.stderr.splitlines()[-1]
    assert (ended.returncode, last.startswith("paifang-l4: "), message in last) == (code, True, True), ended.stderr


def test_established_connections_survive_the_death_of_their_node(cluster: Cluster) -> None:
    versions = [4, 6] * 5
    socks = [cluster.connect(version) for version in versions]
    try:
        for number, sock in enumerate(socks):
            exchange(sock, number)
            exchange(sock, number + 100)
        clients = {endpoint(sock.getsockname()[0], sock.getsockname()[1]) for sock in socks}
        eventually(
            lambda: clients <= {str(session["client"]) for session in cluster.sessions("l4-2")},
            "all sessions are known to the other node",
        )
        cluster.nodes["l4-1"].signal(signal.SIGKILL)
        cluster.network.ip("sw", "link set l4-1 down")  # the XDP program would forward without its agent
        cluster.route_through("l4-2")
        for turn in range(3):
            for number, sock in enumerate(socks):
                exchange(sock, 1000 * turn + number)
        for version in VIPS:
            with cluster.connect(version) as sock:
                exchange(sock, 7)
    finally:
        for sock in socks:
            sock.close()


def test_a_killed_node_comes_back_over_its_own_program(cluster: Cluster) -> None:
    cluster.nodes.pop("l4-1").terminate(5)
    cluster.network.ip("sw", "link set l4-1 up")
    assert "prog/xdp" in links(cluster, "l4-1"), "the program has outlived its agent"
    cluster.start("l4-1")
    cluster.nodes["l4-1"].wait_ready(60)
    cluster.route_through("l4-1")
    for version in VIPS:
        with cluster.connect(version) as sock:
            exchange(sock, 1)


def test_pings_are_answered_while_no_agent_runs(cluster: Cluster) -> None:
    """More than each CPU's allowance of one second; then the next agent goes on."""
    cluster.nodes["l4-1"].signal(signal.SIGKILL)
    old = cluster.nodes.pop("l4-1")
    eventually(lambda: old.poll() is not None, "the agent has ended")
    old.terminate(5)
    for version in VIPS:
        with cluster.network.inside("router", lambda version=version: pinging(version)) as sock:  # type: ignore[misc]
            answered, most = 0, ECHO_PER_CPU_S * (os.cpu_count() or 1)
            deadline = time.monotonic() + 10 + 2 * (os.cpu_count() or 1)
            while answered <= most:
                assert time.monotonic() < deadline, f"{answered} pings were answered, and then none"
                answered += pinged(sock, version)
    cluster.start("l4-1")
    cluster.nodes["l4-1"].wait_ready(60)


def pinging(version: int) -> socket.socket:
    """A raw socket that reaches the VIP."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, ICMP_PROTOCOL[version])
    sock.bind((CLIENTS[version], 0))
    sock.connect((VIPS[version], 0))
    return sock


def pinged(sock: socket.socket, version: int) -> int:
    """Sends some echo requests; how many answers have come. Of ICMPv6 the kernel makes the checksum."""
    request, answer = (echo(version, answer=each) for each in (False, True))
    for _ in range(50):
        sock.send(request)
    answered = 0
    with contextlib.suppress(BlockingIOError):
        while packet := sock.recv(2000):
            answered += packet[20 if version == 4 else 0] == answer[0]
    return answered


def test_a_node_that_begins_with_nothing_is_given_what_is_idle(cluster: Cluster) -> None:
    """Its peer's snapshot has connections that carry nothing now, and of which nobody would tell it again."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(cluster.connect(version)) for version in VIPS]
        for sock in socks:
            exchange(sock, 1)
            exchange(sock, 2)
        clients = {endpoint(*sock.getsockname()[:2]) for sock in socks}
        assert cluster.nodes.pop("l4-2").terminate(10) == 0
        assert "prog/xdp" not in links(cluster, "l4-2")
        cluster.start("l4-2")
        cluster.nodes["l4-2"].wait_ready(60)
        eventually(lambda: cluster.ask("l4-2", "status")["sync"]["complete"], "l4-2 is complete")
        snapshot = cluster.ask("l4-2", "status")["sync"]["snapshot"]
        assert snapshot["from"] == "l4-1"  # type: ignore[index]
        known = {session["client"]: session for session in cluster.sessions("l4-2")}
        assert clients <= known.keys()
        assert all(known[client]["synced"] for client in clients)
        assert cluster.sync("l4-1", "snapshots_given") >= 1
        assert cluster.ask("l4-2", "status")["problems"] == []
        cluster.route_through("l4-2")
        for sock in socks:
            exchange(sock, 3)
    cluster.route_through("l4-1")


def test_a_session_that_is_killed_on_one_node_is_gone_on_both(cluster: Cluster) -> None:
    with cluster.connect() as sock:
        exchange(sock, 1)
        exchange(sock, 2)
        client = endpoint(*sock.getsockname()[:2])

        def known(name: str) -> bool:
            return any(session["client"] == client for session in cluster.sessions(name))

        eventually(lambda: known("l4-2"), "the session is known to the other node")
        assert cluster.ask("l4-1", "kill", client=client) == {"killed": 1}
        assert not known("l4-1")
        eventually(lambda: not known("l4-2"), "it is gone there too")


def retransmissions(sock: socket.socket) -> int:
    """tcpi_total_retrans of <linux/tcp.h>: packets that were lost, or late."""
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])


@pytest.mark.parametrize("how", ["killed", "left", "upgraded"])
def test_no_packet_is_lost_while_the_daemon_is_replaced(cluster: Cluster, how: str) -> None:
    """Its tables stay: sessions, counters, listeners. After an upgrade that lays them out differently they are filled
    anew, while the program before forwards."""
    cluster.route_through("l4-1")
    ended, turns = threading.Event(), [0, 0]
    stack = contextlib.ExitStack()
    socks = [stack.enter_context(cluster.connect(version)) for version in VIPS]

    def talk(which: int) -> None:
        while not ended.is_set():
            exchange(socks[which], turns[which])
            turns[which] += 1
            time.sleep(0.002)

    for sock in socks:
        exchange(sock, 1)
    passed = sum(listener["packets_in"] for listener in counted(cluster).values())
    lost = [retransmissions(sock) for sock in socks]
    talkers = [threading.Thread(target=talk, args=(which,)) for which in range(len(socks))]
    for talker in talkers:
        talker.start()
    try:
        old = cluster.nodes.pop("l4-1")
        if how == "killed":
            old.signal(signal.SIGKILL)
        else:
            cluster.ask("l4-1", "leave")
        eventually(lambda: old.poll() is not None, "the agent has ended")
        assert old.terminate(5) == (-signal.SIGKILL if how == "killed" else 0)
        if how == "upgraded":
            left = cluster.state("l4-1") / "maps.json"
            noted = json.loads(left.read_text())
            left.write_text(json.dumps({key: n ^ ("contract" in key) for key, n in noted.items()}))
        time.sleep(1.2)
        for version in VIPS:
            with cluster.connect(version) as sock:
                exchange(sock, 7)
        cluster.start("l4-1")
        cluster.nodes["l4-1"].wait_ready(60)
        alone = list(turns)
        eventually(lambda: all(now > then + 20 for now, then in zip(turns, alone, strict=True)), "data goes on")
    finally:
        ended.set()
        for talker in talkers:
            talker.join(10)
    assert [retransmissions(sock) for sock in socks] == lost
    if how == "upgraded":
        stack.close()
        return
    clients = {endpoint(*sock.getsockname()[:2]): turn for sock, turn in zip(socks, turns, strict=True)}
    mine = {session["client"]: session for session in cluster.sessions("l4-1") if session["client"] in clients}
    for client, turn in clients.items():
        assert not mine[client]["synced"]
        assert int(str(mine[client]["packets"])) > turn
    assert sum(listener["packets_in"] for listener in counted(cluster).values()) > passed + sum(turns)
    stack.close()


def counted(cluster: Cluster) -> dict[str, dict[str, int]]:
    return cluster.ask("l4-1", "counters")["listeners"]  # type: ignore[return-value]


def test_the_end_is_orderly(cluster: Cluster) -> None:
    for name in NODES:
        assert cluster.nodes.pop(name).terminate(10) == 0
        assert "prog/xdp" not in links(cluster, name)


def links(cluster: Cluster, name: str) -> str:
    command = ["ip", "-n", f"{cluster.network.prefix}-{name}", "link", "show", "eth0"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
