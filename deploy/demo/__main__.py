"""`make demo`: brings the cluster up, sends traffic of every kind, breaks things while it runs, and checks each claim.

Exit code 0 if everything that is told was so, 1 if not, 2 if this machine cannot carry the lab. The lab is taken down
at the end in any case, unless --keep.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from control.node.admin import AdminError
from control.node.output import drop_output
from deploy.demo import steps
from deploy.demo.steps import NotSo
from deploy.demo.story import Story
from deploy.lab import state
from deploy.lab.client import ClientError
from deploy.lab.errors import LabError, UsageError
from deploy.lab.lab import Lab, interrupted, preflight
from deploy.lab.topology import VIP, VIP6, Topology, lab_name

DEFAULT_LAB = "pfdemo"
EXAMPLES = f"""examples:
  paifang demo                 the story, about a minute
  paifang demo --json          one JSON object at its end
  paifang demo --keep          then look around: paifang lab status --name {DEFAULT_LAB}
"""
STEPS: tuple[Callable[[Lab, Story], None], ...] = (
    steps.transport,
    steps.web,
    steps.dead_l4_node,
    steps.dead_server,
    steps.new_certificate,
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="paifang demo", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", type=lab_name, default=DEFAULT_LAB, help="the lab's name (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the lab up (paifang lab down --name NAME)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the story")
    parser.add_argument("--xdp", choices=["native", "generic"], default="native", help="as for paifang lab up")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, interrupted)  # so that the lab is taken down then, too
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    story = Story(sys.stdout, as_json=options.json, colour=colour)
    try:
        preflight()
        return 0 if tell(Topology(options.name, xdp=options.xdp), story, keep=options.keep) else 1
    except BrokenPipeError:  # `make demo | head`; the lab is down by now
        drop_output()
        return 1
    except UsageError as error:
        print(f"paifang-demo: {error}", file=sys.stderr)
        return 2
    except LabError as error:
        print(f"paifang-demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paifang-demo: interrupted", file=sys.stderr)
        return 130


def tell(topology: Topology, story: Story, *, keep: bool) -> bool:
    """The whole story; True if every claim held. Raises LabError where the lab does not come up or go down."""
    if state.load(topology.lab) is not None:
        Lab.find(topology.lab).down()
    story.chapter("The cluster: 2 L4 nodes, 2 L7 nodes, key server, control plane, 3 servers, router, client")
    lab = Lab.up(topology, "both", story.line)
    story.line(f"the router sends the VIPs {VIP} and {VIP6} to both L4 nodes")
    failures = []
    try:
        for step in STEPS:
            try:
                step(lab, story)
            except (NotSo, ClientError, LabError, AdminError, OSError, TimeoutError, RuntimeError) as error:
                failures.append(f"{step.__name__.replace('_', ' ')}: {error}")
                story.line(f"NOT SO: {error}")
    finally:
        if keep:
            lab.leave()
            story.line(f"the lab stays up: paifang lab status --name {topology.lab}")
        else:
            lab.down()
    story.end(failures)
    return not failures


if __name__ == "__main__":
    sys.exit(main())
