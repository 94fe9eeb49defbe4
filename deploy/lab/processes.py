"""Which process runs on which host, with which words, as whom.

L4 nodes, the router and what opens tunnel packets on a server change the kernel's tables and run as root. Every other
process runs as a user of its own, without capabilities: the key server's keys are readable by the key server alone.
Where the program's own files are below a directory that only root may enter (a clone under /root), other users cannot
run it; such a process stays root without capabilities, which may read root's files and nothing more.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from core.endpoints import endpoint
from deploy.lab import announced, model
from deploy.lab.topology import CONTROL, DEVICE, VIPS, Host, Topology

# Below systemd's range of dynamic users (61184–65519), above those of packages and people.
FIRST_UID = 61000
NODE_API_PORT, KEY_SERVER_PORT, READY_PORT = 8471, 8473, 8472
NODE_URL = f"https://{CONTROL}:{NODE_API_PORT}"
SOURCE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Process:
    """One process: `uid` 0 keeps root and its capabilities; `directory` is its own, called as the process is."""

    host: Host
    argv: tuple[str, ...]
    uid: int
    directory: Path


def of(topology: Topology, root: Path, mode: model.Mode) -> dict[str, Process]:
    """Every process by its name, which is its host's: the client runs none, a server of mode tunnel a second one.
    `root` holds a directory for each process."""
    made = {}
    for index, host in enumerate(topology.hosts()):
        words = _words(topology, host, root / host.name, mode)
        if words:
            uid = 0 if host.role in ("l4", "router") else FIRST_UID + index
            made[host.name] = Process(host, (sys.executable, "-m", *words), uid, root / host.name)
        if host.role == "backend" and mode == "tunnel":
            name = decap_of(host.name)
            made[name] = Process(host, (sys.executable, "-m", *_decap(topology)), 0, root / name)
    return made


def decap_of(server: str) -> str:
    """The name of the process that opens tunnel packets on a server."""
    return f"{server}-decap"


def _decap(topology: Topology) -> list[str]:
    nodes = [address for node in topology.of("l4") for address in (node.address, node.address_v6)]
    words = ["--vip", *VIPS, "--from", *nodes, "--xdp", topology.xdp]
    return ["l4fast", "decap", "--interface", DEVICE, "--replace", *words]


def _words(topology: Topology, host: Host, home: Path, mode: model.Mode) -> list[str]:
    identity = ["--identity", str(home / "identity")]
    state = ["--state", str(home / "state")]
    node = ["--name", host.name, "--control", NODE_URL, *identity, *state]
    match host.role:
        case "control":
            listen = ["--api", "127.0.0.1:8470", "--nodes", f"{CONTROL}:{NODE_API_PORT}"]
            clouds = ["--alibaba", "127.0.0.1:8480", "--jdcloud", "127.0.0.1:8481"]
            return ["control", *state, *listen, *clouds, *identity, "--token-file", str(home / "token")]
        case "keyserver":
            listen = ["--listen", f"{host.address}:{KEY_SERVER_PORT}"]
            kept = ["--audit-log", f"{home}/audit.log", "--ticket-secret", f"{home}/ticket-secret"]
            return ["keyserver", "--keys", str(home / "keys"), *listen, *identity, *kept]
        case "l7":
            keys = [word for key in topology.of("keyserver")
                    for word in ("--keyserver", f"{key.address}:{KEY_SERVER_PORT}")]  # fmt: skip
            ready = [word for address in (host.address, host.address_v6)
                     for word in ("--ready", endpoint(address, READY_PORT))]  # fmt: skip
            return ["proxy", *node, *keys, *ready, "--workers", "1", "--access-log", str(home / "access.log")]
        case "l4":
            device = ["--interface", DEVICE, "--xdp", topology.xdp]
            number = topology.of("l4").index(host) + 1
            announcing = announced.node_words(topology, number)
            return ["l4fast", *node, *device, "--cluster-key", str(home / "cluster.key"), *announcing]
        case "router" if topology.vip == "bgp":
            return ["deploy.lab.bird", "--directory", str(home)]
        case "router" if topology.vip == "vrrp":
            return []
        case "router":
            nodes = [word for node_host in topology.of("l4") for word in ("--node", node_host.address)]
            hosts = [word for routing in (host, *topology.of("backend")) for word in ("--namespace", routing.netns)]
            return ["deploy.lab.router", *nodes, *hosts]
        case "backend":
            addresses = [word for address in (host.address, host.address_v6, *VIPS) for word in ("--address", address)]
            ports = ["--http", str(model.WEB_PORT)]
            for _, protocol, _, port in model.layer_4(mode):
                ports += [f"--{protocol}", str(port)]
            return ["deploy.lab.backend", "--name", host.name, *addresses, *ports]
        case "client":
            return []


def confinement(uid: int, *, others_may_run_us: bool) -> list[str]:
    """The words before a command that take its rights away; none for root."""
    if uid == 0:
        return []
    words = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    if others_may_run_us:
        words += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [*words, "--"]


def open_to_others(path: Path) -> bool:
    """Whether every user may enter `path` and all directories above it."""
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))
