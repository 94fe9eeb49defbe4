"""`python -m bench.faults`: breaks a lab under load, part after part, at random, and says what it has cost.

Exit code 0 if every promise of docs/faults.md was kept, 1 if not, 2 if this machine cannot carry the lab.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.faults import plot, report
from bench.faults.campaign import Campaign, lab_of
from bench.faults.kinds import KINDS, chosen
from bench.faults.restart import to_stderr
from deploy.lab import state
from deploy.lab.errors import LabError, UsageError
from deploy.lab.lab import Lab, interrupted, preflight
from deploy.lab.topology import Topology, lab_name

RESULTS = Path(__file__).resolve().parents[1] / "results"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m bench.faults", description=__doc__.split("\n\n")[0],
        epilog="kinds of faults: " + ", ".join(kind.name for kind in KINDS),
    )  # fmt: skip
    made.add_argument("--minutes", type=float, default=10.0, help="faults begin for so long (default %(default)g)")
    made.add_argument("--faults", type=int, metavar="N", help="end after so many")
    made.add_argument("--seed", type=int, help="of all random choices; printed in any case")
    made.add_argument("--only", nargs="+", default=[], metavar="KIND", help="these kinds of faults; l7 is all of l7-…")
    made.add_argument("--vip", choices=["static", "vrrp", "bgp"], default="static", help="as for paifang lab up")
    made.add_argument("--xdp", choices=["native", "generic"], default="native", help="as for paifang lab up")
    made.add_argument("--load", type=float, default=1.0, help="how much traffic, 1 is about 250 attempts a second")
    made.add_argument("--name", type=lab_name, default="pffault", help="the lab's name (default %(default)s)")
    made.add_argument("--out", type=Path, default=RESULTS, help="directory of faults.json, .txt, .png (bench/results)")
    made.add_argument("--json", action="store_true", help="print the JSON instead of the report")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        kinds = chosen(options.only, announced=options.vip != "static")
    except ValueError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    try:
        preflight()
        return run(options, kinds)
    except UsageError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    except LabError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("faults: interrupted", file=sys.stderr)
        return 130


def run(options: argparse.Namespace, kinds: Sequence[object]) -> int:
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    to_stderr(f"seed {seed}")
    options.out.mkdir(parents=True, exist_ok=True)
    if state.load(options.name) is not None:
        Lab.find(options.name).down()
    topology = Topology(options.name, keyservers=2, vip=options.vip, xdp=options.xdp)
    lab = lab_of(topology, to_stderr)
    try:
        campaign = Campaign(lab, options.out, to_stderr, seed=seed, scale=options.load)
        result = campaign.run(kinds, options.minutes * 60, options.faults)  # type: ignore[arg-type]
        _keep_logs(lab, options.out)
    finally:
        lab.down()
    document, text = report.as_dict(result), report.readable(result)
    (options.out / "faults.json").write_text(json.dumps(document) + "\n")
    (options.out / "faults.txt").write_text(text + "\n")
    plot.plot(result, options.out / "faults.png")
    print(json.dumps(document) if options.json else text)
    return 1 if result.wrong() else 0


def _keep_logs(lab: Lab, directory: Path) -> None:
    """What the processes have said, for whoever looks into a promise that was not kept."""
    for name in lab.process_names():
        log = lab.directory_of(name) / "log"
        (directory / f"{name}.log").write_bytes(log.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
