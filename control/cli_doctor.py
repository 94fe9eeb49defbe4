"""`paifang doctor`: is this machine fit for its part."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from control.doctor import ROLES, Finding, Level, judged
from control.doctor_facts import ANNOUNCERS, Wanted, gather

EXAMPLES: Final = """
  paifang doctor                                        any machine
  sudo paifang doctor --role l4 --interface eth0 --vip vrrp
  paifang doctor --role l7 --file site.toml --state /var/lib/paifang-l7 --identity /var/lib/paifang-l7/identity
  paifang doctor --role control --json | jq '.findings[] | select(.level == "error")'

exit code: 1 if there is an error, else 0
"""
MARKS: Final = {Level.OK: "ok", Level.NOTE: "note", Level.WARNING: "WARNING", Level.ERROR: "ERROR"}


def add_to(add: Callable[..., Any], as_json: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = add("doctor", "is this machine fit for its part", EXAMPLES, as_json)
    option = parser.add_argument
    option("--role", choices=ROLES, default="", help=f"what runs here: {', '.join(ROLES)}")
    option("--interface", action="append", default=[], metavar="DEV", help="of an L4 node; twice for two")
    option(
        "--file",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="the configuration: ports, VIPs, certificates",
    )
    option("--state", type=Path, metavar="DIR", help="the process's state directory")
    option("--identity", type=Path, metavar="DIR", help="the node's identity")
    option(
        "--vip", choices=("static", *ANNOUNCERS), default="static", help="who announces an L4 node's VIPs (%(default)s)"
    )
    option("--sync", default="224.0.0.81", metavar="GROUP", help="the group of session sync (%(default)s)")
    option("--api", metavar="URL", help="a control plane, whose clock is compared; $PAIFANG_API")
    option("--ca", metavar="FILE", help="whose certificate it has; $PAIFANG_CA, else the system's")
    option("--quiet", action="store_true", help="leave out what is ok")
    parser.set_defaults(run=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Look and print; 1 where there is an error."""
    wanted = Wanted(
        options.role, tuple(options.interface[:2]), tuple(options.file), options.state, options.identity, options.vip,
        options.sync, options.api or os.environ.get("PAIFANG_API", ""), options.ca or os.environ.get("PAIFANG_CA"),
    )  # fmt: skip
    found = judged(gather(wanted), options.role)
    if options.quiet:
        found = [each for each in found if each.level is not Level.OK]
    errors = sum(1 for each in found if each.level is Level.ERROR)
    if options.json:
        print(json.dumps({"role": options.role, "errors": errors, "findings": [asdict(each) for each in found]}))
    else:
        print(render(found))
    return 1 if errors else 0


def render(found: Sequence[Finding]) -> str:
    """A line each, and the remedy below it."""
    lines = []
    for each in found:
        lines.append(f"{MARKS[each.level]:7}  {each.what:13}  {each.text}")
        if each.remedy and each.level is not Level.OK:
            lines.append(f"{'':24}→ {each.remedy}")
    counts = [(level, sum(1 for each in found if each.level is level)) for level in (Level.ERROR, Level.WARNING)]
    told = ", ".join(f"{count} {level.value}{'s' if count > 1 else ''}" for level, count in counts if count)
    return "\n".join([*lines, told or "nothing is in the way"])
