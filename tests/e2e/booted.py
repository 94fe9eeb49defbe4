"""A Debian 12 with a systemd of its own, booted by systemd-nspawn, with a network cable in the test's hand.

Its tree is what debootstrap makes, once for each list of packages, kept in `CACHE`; a machine writes into a layer above
it, in memory. It is in a network namespace of its own with one interface, eth0; the other end of that cable is eth1 in
the namespace `outside`, where clients and servers are. Nothing of it is in the network of the tests' machine. Its
/sys/fs/bpf and its control groups are its own as well. It is not registered anywhere: systemd-nspawn runs where systemd
does not. Commands enter its namespaces by nsenter(1), as root. Who leaves it ends it, however the test ended, and
removes mounts, groups and namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from deploy.compose.engine import BASE_SUITE, MIRROR
from deploy.lab import namespaces
from tests.waiting import eventually

CACHE: Final = Path("/var/cache/paifang/trees")
# What every Debian machine has, and debootstrap's smallest variant has not.
BASE: Final = ("systemd-sysv", "dbus", "procps")
# For L4 nodes, besides those that systemd-nspawn leaves to a container.
CAPABILITIES: Final = "CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN,CAP_NET_RAW,CAP_IPC_LOCK"
CGROUPS: Final = tuple(Path("/sys/fs/cgroup", each) for each in ("", "systemd", "unified"))
BOOT_S, END_S, COMMAND_S = 120.0, 90.0, 300.0


class Booted:
    """A machine that runs: `leader` is its systemd, by the tests' machine's process ids; `tree` its root directory."""

    def __init__(self, nspawn: subprocess.Popen[bytes], tree: Path, outside: str, log: Path) -> None:
        self._nspawn, self.tree, self.outside, self._log = nspawn, tree, outside, log
        eventually(self._has_begun, "systemd-nspawn begins", limit_s=BOOT_S, said=self.log)
        self.leader = self._first()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def run(self, command: str, *, ends_with: Sequence[int] = (0,), timeout_s: float = COMMAND_S) -> str:
        """What a command line of the shell prints on the machine, as root in /root."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        argv = ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        argv += ["env", "-i", path, "HOME=/root", "LANG=C.UTF-8", *self.environment, "sh", "-c", f"cd\n{command}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False,
                              stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode in ends_with, f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    environment: tuple[str, ...] = ()

    def state(self, unit: str, *properties: str) -> dict[str, str]:
        """`systemctl show` of a unit."""
        shown = self.run(f"systemctl show -p {','.join(properties)} {unit}")
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def _has_begun(self) -> bool:
        assert self._nspawn.poll() is None, self.log()
        return bool(self._first())

    def _first(self) -> int:
        """The process that is process 1 in a namespace of its own."""
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        for child in map(int, children):
            with contextlib.suppress(FileNotFoundError):
                status = Path(f"/proc/{child}/status").read_text()
                if any(line.startswith("NSpid:") and line.split()[-1] == "1" and len(line.split()) > 2
                       for line in status.splitlines()):  # fmt: skip
                    return child
        return 0


@contextlib.contextmanager
def booted(name: str, packages: Sequence[str], log: Path) -> Iterator[Booted]:
    """A machine with these packages. `name` begins the names of what it needs on the tests' machine."""
    base, outside = tree_of(packages), f"{name}-out"
    with contextlib.ExitStack() as after:
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        after.callback(shutil.rmtree, directory)
        tree, bpf = _mounted(base, directory, after)
        namespaces.create([outside])
        after.callback(namespaces.remove, [outside])
        for line in ("link add eth0 type veth peer name eth1", "link set lo up", "link set eth1 up"):
            _run("ip", "-n", outside, *line.split())
        for device in ("eth0", "eth1"):  # frames that never leave a machine have unfinished checksums
            _run(*namespaces.enter(outside), "ethtool", "-K", device, "tx", "off")
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={tree}"]
        argv += [f"--machine={name}", "--private-network", f"--bind={bpf}:/sys/fs/bpf"]
        argv += [f"--capability={CAPABILITIES}", "--system-call-filter=bpf perf_event_open"]
        argv += ["--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
        groups = _control_groups(name, after)
        enter = ["sh", "-c", 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"', "sh"]
        enter += [*map(str, groups), "--", *namespaces.enter(outside)]
        with log.open("wb") as output:
            nspawn = subprocess.Popen([*enter, *argv], stdin=subprocess.DEVNULL, stdout=output,
                                      stderr=output, start_new_session=True)  # fmt: skip
        after.callback(_end, nspawn)
        machine = Booted(nspawn, tree, outside, log)
        # By hand: --network-interface= waits for udev, which not every machine has.
        _run("ip", "-n", outside, "link", "set", "eth0", "netns", str(machine.leader))
        eventually(lambda: machine.run("systemctl is-system-running", ends_with=range(256)).strip() == "running",
                   "systemd has booted", limit_s=BOOT_S, said=machine.log)  # fmt: skip
        yield machine


def _mounted(base: Path, directory: Path, after: contextlib.ExitStack) -> tuple[Path, Path]:
    """The machine's tree, a layer in memory above `base`, and a file system for BPF."""
    layers, tree, bpf = (directory / name for name in ("layers", "tree", "bpf"))
    for path in (layers, tree, bpf):
        path.mkdir()
    for what in (("-t", "tmpfs", "-o", "size=1g", "tmpfs", layers), ("-t", "bpf", "bpf", bpf)):
        _run("mount", *map(str, what))
        after.callback(_run, "umount", str(what[-1]))
    for part in ("upper", "work"):
        (layers / part).mkdir()
    options = f"lowerdir={base},upperdir={layers}/upper,workdir={layers}/work"
    _run("mount", "-t", "overlay", "-o", options, "overlay", str(tree))
    after.callback(_run, "umount", str(tree))
    return tree, bpf


def _control_groups(name: str, after: contextlib.ExitStack) -> list[Path]:
    """Groups of the machine's own, in the hierarchies that a systemd keeps its services in (of cgroup 1, 2 or both)."""
    roots = [root for root in CGROUPS if (root / "cgroup.procs").exists()]
    for group in (groups := [root / name for root in roots]):
        group.mkdir()
        after.callback(_remove_group, group)
    return groups


def _remove_group(group: Path) -> None:
    for directory, _, _ in os.walk(group, topdown=False):
        os.rmdir(directory)


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """SIGTERM has it shut the machine down; a second one, or a machine that does not go, ends it at once."""
    nspawn.terminate()
    try:
        nspawn.wait(END_S)
    except subprocess.TimeoutExpired:
        nspawn.kill()  # its child has PR_SET_PDEATHSIG
        nspawn.wait()


def tree_of(packages: Sequence[str]) -> Path:
    """A directory with the system and these packages, which nobody may write to."""
    include = ",".join([*BASE, *packages])
    tree = CACHE / f"{BASE_SUITE}-{hashlib.sha256(include.encode()).hexdigest()[:12]}"
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            making = tree.with_suffix(f".{os.getpid()}")
            try:
                _run("debootstrap", "--variant=minbase", f"--include={include}", BASE_SUITE, str(making), MIRROR)
                making.rename(tree)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return tree


def _run(*argv: str) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-3000:]}"
    return done.stdout
