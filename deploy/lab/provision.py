"""What the processes need on disk before they start: identities, the cluster key, a leaf certificate.

All of it is made anew for each lab and removed with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from certs import authority
from control.node.files import write_atomic
from deploy.lab import announced, model, processes
from deploy.lab.errors import LabError
from deploy.lab.processes import Process
from deploy.lab.topology import Topology

ROLES = {"control": "control", "l4": "l4", "l7": "l7", "keyserver": "keyserver"}
CLUSTER_KEY_BYTES = 32
TICKET_SECRET_BYTES = 32
ISSUE_TIMEOUT_S = 30


def identities(
    topology: Topology, root: Path, made: Mapping[str, Process], disks: Mapping[str, int] | None = None
) -> None:
    """Directories, identities, the cluster key, each file owned by the process that reads it. The state directory of
    a host in `disks` is a file system of so many bytes."""
    ca = authority.Authority.init(root / "ca")
    (root / "ca.pem").write_bytes(ca.ca_pem)
    (root / "ca.pem").chmod(0o644)
    key, seed = secrets.token_hex(CLUSTER_KEY_BYTES), secrets.token_hex(CLUSTER_KEY_BYTES)
    tickets = secrets.token_hex(TICKET_SECRET_BYTES)
    for process in made.values():
        home, host = process.directory, process.host
        home.mkdir(mode=0o700)
        if host.role in ROLES:
            ca.issue_node(ROLES[host.role], host.name, [host.address]).write(home / "identity")
            (home / "state").mkdir(mode=0o700)
            if size_bytes := (disks or {}).get(host.name):
                _mount(home / "state", size_bytes)
        if host.role == "l4":
            write_atomic(home / "cluster.key", f"{key}\nseed {seed}\n".encode())
        if host.role == "router" and topology.vip == "bgp":
            (home / "bird.conf").write_text(announced.router_configuration(topology))
        if host.role == "keyserver":
            (home / "keys").mkdir(mode=0o700)
            write_atomic(home / "ticket-secret", f"{tickets}\n".encode())
        hand_over(process)


def leaf(topology: Topology, root: Path, made: Mapping[str, Process], name: str = model.CERTIFICATE) -> str:
    """A fresh key and certificate for the lab's domain: the key goes to every key server, the chain is returned.

    The key is called `name`. A key server keeps the keys that it has: chains that are still served need them.
    """
    first, *others = (made[host.name] for host in topology.of("keyserver"))
    keys, chain = first.directory / "keys", root / f"{name}.pem"
    words = ["issue", "--keys", str(keys), "--ca", str(root / "ca"), "--name", name]
    words += ["--domain", model.DOMAIN, "--chain-out", str(chain)]
    done = subprocess.run(
        [sys.executable, "-m", "keyserver", *words], capture_output=True, text=True, timeout=ISSUE_TIMEOUT_S
    )
    if done.returncode:
        raise LabError(f"cannot issue a certificate: {done.stderr.strip()}")
    for other in others:
        shutil.copytree(keys, other.directory / "keys", dirs_exist_ok=True)
    for process in (first, *others):
        hand_over(process)
    return chain.read_text()


def _mount(directory: Path, size_bytes: int) -> None:
    words = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(directory)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"cannot mount a file system at {directory}: {done.stderr.strip()}")


def unmount(root: Path) -> None:
    """Whatever is mounted below `root`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if (where := line.split()[4]).startswith(f"{root}/"):
            subprocess.run(["umount", "--lazy", where], check=True)


def hand_over(process: Process) -> None:
    """Give a process's directory and all in it to the user that it runs as."""
    uid = uid_of(process)
    for path in (process.directory, *process.directory.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def uid_of(process: Process) -> int:
    """Whom a process really runs as on this machine."""
    return process.uid if others_may_run_us() else 0


def confinement(process: Process) -> list[str]:
    """The words before a command that run it as the process's user."""
    return processes.confinement(process.uid, others_may_run_us=others_may_run_us())


def others_may_run_us() -> bool:
    """Whether users besides root can reach our source and our interpreter."""
    return all(map(processes.open_to_others, (processes.SOURCE, Path(sys.executable).parent)))
