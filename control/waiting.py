"""`--wait`: until every node runs a version of the configuration, or for so long, and what keeps the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from control.client import Api

LOOK_S = 0.5
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How many nodes there are, and each that does not run the version yet with why."""

    version: int
    nodes: int
    behind: tuple[str, ...]

    def __str__(self) -> str:
        if not self.nodes:
            return f"version {self.version}: no nodes are listed, and none report"
        done = f"version {self.version}: {self.nodes - len(self.behind)} of {self.nodes} nodes run it"
        return "\n".join([done, *(f"  {each}" for each in self.behind)])


def progress(status: Mapping[str, Any], version: int) -> Progress:
    """Which nodes of `/v1/status` run `version`, or one that came after it."""
    nodes = status["nodes"]
    behind = tuple(
        f"{node['role']} {node['name']}: {node['why'] or 'runs an older version'}"
        for node in nodes
        if node["step"] == "silent" or (node["version"] or 0) < version
    )
    return Progress(version, len(nodes), behind)


def wait(
    api: Api,
    version: int,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether all nodes run `version` in time. What changes meanwhile goes to stderr. Raises ApiError."""
    end, shown = clock() + timeout_s, ""
    while True:
        found = progress(cast(Mapping[str, Any], api.request("GET", "/v1/status").document), version)
        if str(found) != shown:
            shown = str(found)
            print(shown, file=sys.stderr, flush=True)
        if not found.behind:
            return True
        if clock() >= end:
            late = f"not all within {timeout_s:g} s; the change is made, and they go on trying"
            print(f"paifang: {late} (paifang status)", file=sys.stderr)
            return False
        sleep(LOOK_S)
