"""Network namespaces: making, entering, removing, and finding who lives in them.

A process belongs to the lab exactly if it lives in one of the lab's namespaces. That is what `down` goes by: unlike a
list of process ids it cannot be stale, and it covers children of processes that have died.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from deploy.lab.errors import LabError
from deploy.lab.topology import Script

NETNS_DIR = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # setns(2)
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(netns: str) -> Path:
    return NETNS_DIR / netns


def existing(prefix: str) -> list[str]:
    """The names of all namespaces that start with `prefix`."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(prefix))


def enter(netns: str) -> list[str]:
    """The words before a command that make it run in `netns`. (`ip netns exec` would hide /sys/fs/bpf.)"""
    return ["nsenter", f"--net={path_of(netns)}", "--"]


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """Run the calling thread in `netns`: sockets made here stay there. Not across an `await`."""
    with open("/proc/thread-self/ns/net") as before, path_of(netns).open() as target:
        _setns(target.fileno())
        try:
            yield
        finally:
            _setns(before.fileno())


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def create(names: Iterable[str]) -> None:
    """Make namespaces. Raises LabError."""
    _ip_batch([f"netns add {name}" for name in names])


def remove(names: Iterable[str]) -> None:
    """Remove those that exist; their links go with them once nobody lives there."""
    _ip_batch([f"netns del {name}" for name in names if path_of(name).exists()])


def _ip_batch(lines: list[str]) -> None:
    process = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True)
    if process.returncode:
        raise LabError(f"ip -batch: {process.stderr.strip()}")


def run_scripts(all_scripts: Sequence[Script]) -> None:
    """Carry out scripts, all at once. Raises LabError with the first failure's text."""
    running = [(script, _start(script)) for script in all_scripts]
    failures = []
    for script, process in running:
        done, _ = process.communicate()
        if process.returncode:
            failures.append(f"{script.netns}: {done.strip()}")
    if failures:
        raise LabError(f"cannot set up the network: {failures[0]}")


def _start(script: Script) -> subprocess.Popen[str]:
    shell = "\n".join(("set -e", "ip -batch - <<'END'", *script.ip, "END", *script.sh))
    return subprocess.Popen(
        [*enter(script.netns), "sh", "-c", shell], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def inhabitants(names: Iterable[str]) -> dict[int, str]:
    """Process id → namespace, for every process that lives in one of `names`; ourselves left out."""
    inodes = {}
    for name in names:
        with contextlib.suppress(OSError):
            inodes[path_of(name).stat().st_ino] = name
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if home := inodes.get((entry / "ns/net").stat().st_ino):
                found[int(entry.name)] = home
    return found


def end(names: Sequence[str], *, grace_s: float) -> int:
    """SIGTERM to every inhabitant, SIGKILL to who is left after `grace_s`. Returns how many had to be killed."""
    _signal_all(inhabitants(names), signal.SIGTERM)
    if not (left := _wait_gone(names, grace_s)):
        return 0
    _signal_all(left, signal.SIGKILL)
    if stubborn := _wait_gone(names, 5.0):
        raise LabError(f"processes that do not end: {', '.join(map(str, stubborn))}")
    return len(left)


def kill(names: Sequence[str]) -> None:
    """SIGKILL to every inhabitant."""
    _signal_all(inhabitants(names), signal.SIGKILL)
    if stubborn := _wait_gone(names, 5.0):
        raise LabError(f"processes that do not end: {', '.join(map(str, stubborn))}")


def _signal_all(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _wait_gone(names: Sequence[str], timeout_s: float) -> dict[int, str]:
    """Wait until nobody lives in `names`; returns who still does. Dead children of ours are reaped by their owner."""
    deadline = time.monotonic() + timeout_s
    while (left := inhabitants(names)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
