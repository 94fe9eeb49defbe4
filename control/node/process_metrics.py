"""What every process of ours says of itself under /metrics: its build, and what all Prometheus clients tell.

Names and meanings are those of https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics; the
numbers are of /proc/self (proc(5)).
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from control.node.metrics import Family, counter, gauge, only

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = resource.getpagesize()


def families(role: str, node: str) -> Iterator[Family]:
    """`role` as certificates have it ("l4"), `node` its name."""
    build = (version(), role, node, platform.python_version())
    labels = ("version", "role", "node", "python")
    # After the command's closing parenthesis; the first field there is number 3 of proc(5).
    fields = (_PROC / "self/stat").read_text().rpartition(")")[2].split()
    utime, stime, start, rss = (int(fields[number - 3]) for number in (14, 15, 22, 24))
    started_s = _boot_s() + start / _TICKS
    files_most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = len(os.listdir(_PROC / "self/fd"))
    yield gauge("paifang_build_info", "Always 1; the labels say what runs here.", [(build, 1)], labels)
    yield counter("process_cpu_seconds_total", "CPU time spent, user and system.", only((utime + stime) / _TICKS))
    yield gauge("process_resident_memory_bytes", "Resident memory.", only(rss * _PAGE_BYTES))
    yield gauge("process_start_time_seconds", "When the process started, since 1970.", only(started_s))
    yield gauge("process_open_fds", "Open file descriptors.", only(files))
    yield gauge("process_max_fds", "File descriptors that it may open.", only(files_most))


@functools.cache
def version() -> str:
    """Paifang's."""
    return importlib.metadata.version("paifang")


@functools.cache
def _boot_s() -> float:
    """When the machine booted, in seconds since 1970; /proc/stat is hidden from our services (ProcSubset=pid)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
