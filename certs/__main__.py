"""`paifang certs` (`python -m certs`): the cluster's CA and its nodes' identities."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from certs.authority import ROLES, Authority, AuthorityError

INIT_EXAMPLE = "  paifang certs init ./ca\n"
ISSUE_EXAMPLE = "  paifang certs issue ./ca --role l7 --name l7-1 --ip 10.0.0.11 --out ./l7-1\n"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="paifang certs",
        description="The cluster's own CA, and the identities of its nodes.",
        epilog=f"examples:\n{INIT_EXAMPLE}{ISSUE_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser(
        "init", help="make a CA, or check the one that is there", epilog=f"example:\n{INIT_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    init.add_argument("directory", type=Path, metavar="CADIR", help="missing or empty, or the CA's")
    issue = commands.add_parser(
        "issue", help="make a node's identity: DIR/{ca,cert,key}.pem", epilog=f"example:\n{ISSUE_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    issue.add_argument("directory", type=Path, metavar="CADIR", help="made by `paifang certs init`")
    issue.add_argument("--role", required=True, choices=ROLES)
    issue.add_argument("--name", required=True, help="the node's name in the configuration")
    issue.add_argument("--ip", action="append", default=[], metavar="A", help="an address of it; may be repeated")
    issue.add_argument("--out", required=True, type=Path, metavar="DIR", help="an identity that is there is replaced")
    return top


def main() -> int:
    options = parser().parse_args()
    try:
        if options.command == "init":
            authority = Authority.init(options.directory)
            print(f"{options.directory}: {authority.certificate.subject.rfc4514_string()}")
        else:
            identity = Authority.load(options.directory).issue_node(options.role, options.name, options.ip)
            identity.write(options.out)
            print(f"{options.out}: identity of {options.role} {options.name}")
    except AuthorityError as error:
        print(f"paifang-certs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
