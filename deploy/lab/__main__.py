"""`paifang lab`: the whole cluster in network namespaces of this machine."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from control.node.output import drop_output
from deploy.lab import model, namespaces, state
from deploy.lab.errors import LabError, UsageError
from deploy.lab.lab import Lab, command_of, interrupted, preflight
from deploy.lab.report import readable
from deploy.lab.topology import DEFAULT_LAB, MOST, VIP, VIP6, Role, Topology, lab_name

COUNTS: tuple[tuple[str, Role, int], ...] = (
    ("l4", "l4", 2), ("l7", "l7", 2), ("keyservers", "keyserver", 1), ("backends", "backend", 3),
)  # fmt: skip

EXAMPLES = f"""examples:
  paifang lab up                                   2 L4, 2 L7, a key server, 3 servers, control, router, client
  paifang lab up --l4 3 --backends 5 --xdp generic
  paifang lab up --vip vrrp                        the L4 nodes announce the VIPs; or bgp
  paifang lab status
  paifang lab exec client -- curl -s http://{VIP}/
  paifang lab exec client -- curl -s http://[{VIP6}]/
  paifang lab exec client -- python -m deploy.lab.client tcp {VIP}:{model.TCP_NAT_PORT} --bytes 50000000
  paifang lab exec l4-1 -- tcpdump -ni eth0 udp port 8848
  paifang lab exec control -- paifang status
  paifang lab exec l4-1 -- paifang l4 ask sessions --state /run/paifang-lab/pf/l4-1/state
  paifang lab kill l4-1 && paifang lab start l4-1
  paifang lab down

hosts: client router control l4-1 l4-2 … l7-1 … key-1 … be-1 …; each is a namespace <lab>-<host>
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="paifang lab",
        description="The whole cluster in network namespaces of this machine (needs root).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--name", type=lab_name, default=DEFAULT_LAB, help="which lab; prefixes its namespaces (default %(default)s)"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")

    up = commands.add_parser("up", parents=[common, as_json], help="build it and start everything")
    for flag, role, default in COUNTS:
        what = f"how many (default {default})"
        up.add_argument(f"--{flag}", type=_count(MOST[role]), default=default, metavar="N", help=what)
    up.add_argument(
        "--mode",
        choices=["both", "nat", "dr", "fullnat", "tunnel"],
        default="both",
        help="tcp and udp listeners to make",
    )
    up.add_argument("--vip", choices=["static", "vrrp", "bgp"], default="static",
                    help="who announces the VIPs: static (routes on the router), vrrp (keepalived on the L4 nodes), "
                    "bgp (BIRD on them and on the router); default %(default)s")  # fmt: skip
    up.add_argument("--xdp", choices=["native", "generic"], default="native",
                    help="how XDP runs on the L4 nodes (default %(default)s)")  # fmt: skip

    commands.add_parser("down", parents=[common], help="end everything and remove all traces")
    commands.add_parser("status", parents=[common, as_json], help="hosts, processes, health")
    run = commands.add_parser("exec", parents=[common], help="run a command on a host")
    run.add_argument("host", metavar="HOST")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run there")
    for name, text in (("kill", "the death of a host: no link, no processes"), ("start", "bring a killed host back")):
        commands.add_parser(name, parents=[common], help=text).add_argument("host", metavar="HOST")
    return top


def _count(most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdigit() or not 1 <= (number := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"give 1 to {most}")
        return number

    return count


def up(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, interrupted)  # an `up` that is ended takes down what it has built
    topology = Topology(
        options.name, options.l4, options.l7, options.keyservers, options.backends, options.xdp, options.vip
    )
    lab = Lab.up(topology, options.mode, _say)
    lab.leave()
    if options.json:
        print(json.dumps(lab.status()))
    else:
        print(f"{readable(lab.status())}\n\ntry: {command_of(options.name, 'exec')} client -- curl -s http://{VIP}/")
        print(f"end: {command_of(options.name, 'down')}")
    return 0


def down(options: argparse.Namespace) -> int:
    preflight()
    if state.load(options.name) is None:
        print(f"there is no lab {options.name!r}; nothing to do")
        return 0
    Lab.find(options.name).down()
    print(f"the lab {options.name!r} is down")
    return 0


def status(options: argparse.Namespace) -> int:
    """0 while every process runs, 1 if one does not."""
    preflight()
    report = Lab.find(options.name).status()
    print(json.dumps(report) if options.json else readable(report))
    return 0 if all(host["runs"] is not False for host in report["hosts"]) else 1  # type: ignore[attr-defined]


def execute(options: argparse.Namespace) -> NoReturn:
    """Become the command, inside the host's namespace: its exit code is ours."""
    preflight()
    if options.words[:1] and options.words[0].startswith("-") and options.words[0] != "--":
        raise UsageError(f"{options.words[0]} stands before the host: paifang lab exec --name NAME HOST -- COMMAND …")
    lab = Lab.find(options.name)
    host = lab.host(options.host)
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise UsageError(f"what should run there? {command_of(options.name, 'exec')} {host.name} -- COMMAND …")
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '/usr/bin:/bin')}"
    if host.role == "control":
        environment["PAIFANG_API"] = f"http://127.0.0.1:{lab.api.port}"
        environment["PAIFANG_TOKEN"] = lab.api.token_file.read_text().strip()
    os.execvpe("nsenter", [*namespaces.enter(host.netns), *words], environment)


def kill(options: argparse.Namespace) -> int:
    preflight()
    Lab.find(options.name).kill(options.host)
    print(f"{options.host} is dead: no link, no processes; {command_of(options.name, 'start')} {options.host}")
    return 0


def start(options: argparse.Namespace) -> int:
    preflight()
    lab = Lab.find(options.name)
    lab.start(options.host)
    lab.leave()
    print(f"{options.host} is back")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    run = {"up": up, "down": down, "status": status, "exec": execute, "kill": kill, "start": start}[options.command]
    try:
        code = run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `paifang lab status | head`
        drop_output()
        return 1
    except UsageError as error:
        print(f"paifang-lab: {error}", file=sys.stderr)
        return 2
    except LabError as error:
        print(f"paifang-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paifang-lab: interrupted", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
