"""What systemd does with a process of ours that ends, by the units of deploy/systemd: the lab has no systemd. Pure.

`Restart=always` starts it again `RestartSec=` after it has ended. What else lives in its control group is dealt with
first, by `KillMode=` (systemd.kill(5); src/core/service.c): `control-group` sends SIGTERM to all, and SIGKILL to who
is left after `TimeoutStopSec=`; `mixed` sends SIGTERM to the main process alone, which is no more, and then SIGKILL to
the others at once; `process` leaves them alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "deploy/systemd"
NAMES = {"l4": "l4", "l7": "l7", "keyserver": "keyserver", "control": "control"}  # by role; other hosts are not ours


@dataclass(frozen=True, slots=True)
class Unit:
    restart_s: float = 1.0
    kill_mode: str = "control-group"
    stop_s: float = 15.0


def parse(text: str) -> Unit:
    """Raises ValueError for a unit that does not come back by itself, or says something that is not known here."""
    found = dict(re.findall(r"^(Restart|RestartSec|KillMode|TimeoutStopSec)=(.*)$", text, re.M))
    if found.get("Restart") != "always":
        raise ValueError("a unit without Restart=always")
    mode = found.get("KillMode", "control-group")
    if mode not in ("control-group", "mixed", "process"):
        raise ValueError(f"KillMode={mode}")
    return Unit(float(found.get("RestartSec", "0.1")), mode, float(found.get("TimeoutStopSec", "90")))


def of(role: str) -> Unit:
    """A server, or the router, comes back as ours do."""
    return parse((UNITS / f"paifang-{NAMES[role]}.service").read_text()) if role in NAMES else Unit()
