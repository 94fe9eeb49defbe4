"""Memory and open descriptors of every process of a lab, over time; and whether they grow without bound.

A process is called by its host and what it is there: `l7-1`, `l7-1 worker`. One that was started again goes on under
its name with another id.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import namespaces
from deploy.lab.lab import Lab

EVERY_S = 2.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
# Compared are the medians of thirds of a run, of which the first has the processes' beginnings.
GROWTH, GROWTH_MIB, GROWTH_FILES = 1.2, 16.0, 32


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    process: str
    pid: int
    rss_mib: float
    files: int


def sample(lab: Lab) -> Iterator[Sample]:
    """Of every process of the lab that lives."""
    at = time.monotonic()
    mains = {lab.process_id(name): name for name in lab.process_names()}
    hosts = {host.netns: host.name for host in lab.topology.hosts() if host.role not in ("client", "router")}
    for pid, netns in namespaces.inhabitants(hosts).items():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # gone meanwhile
            continue
        what = next((b"worker" for word in words if b"worker" in word and not word.startswith(b"--")), words[0])
        main = mains.get(pid)
        name = main or f"{hosts[netns]} {os.path.basename(what).decode(errors='replace')}"
        yield Sample(at, name, pid, rss / MIB, files)


class Watch(threading.Thread):
    """Samples until `stop`."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._stop_it = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self._stop_it.is_set():
            self.samples.extend(sample(self._lab))
            self._stop_it.wait(EVERY_S)

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


@dataclass(frozen=True, slots=True)
class Use:
    """Of one process. Each of `rss_mib` and `files`: medians of the second and the last third, and the most."""

    process: str
    lives: int
    rss_mib: tuple[float, float, float]
    files: tuple[float, float, float]

    def __str__(self) -> str:
        files = f"{self.files[0]:.0f} → {self.files[1]:.0f}"
        return f"{self.process} (RSS {self.rss_mib[0]:.0f} → {self.rss_mib[1]:.0f} MiB, descriptors {files})"

    @property
    def grows(self) -> bool:
        before, after, _ = self.rss_mib
        files_before, files_after, _ = self.files
        return after > before * GROWTH + GROWTH_MIB or files_after > files_before * GROWTH + GROWTH_FILES


def uses(samples: Sequence[Sample]) -> list[Use]:
    """By process; of those that were seen in both of the last thirds of the time."""
    if not samples:
        return []
    first, last = samples[0].at, samples[-1].at
    third = (last - first) / 3
    found = []
    for process in sorted({each.process for each in samples}):
        of = [each for each in samples if each.process == process]
        middle = [each for each in of if first + third <= each.at < last - third]
        late = [each for each in of if each.at >= last - third]
        if not middle or not late:
            continue
        found.append(Use(process, len({each.pid for each in of}),
                         (statistics.median(each.rss_mib for each in middle),
                          statistics.median(each.rss_mib for each in late), max(each.rss_mib for each in of)),
                         (statistics.median(each.files for each in middle),
                          statistics.median(each.files for each in late), max(each.files for each in of))))  # fmt: skip
    return found
