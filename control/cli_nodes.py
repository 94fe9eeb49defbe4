"""`paifang node …` and `paifang join`: nodes as members of the cluster."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from control import joining, show
from control.client import Api, ApiError, connect
from control.durations import duration, shown
from control.joining import JoinError

ROLES = ("l4", "l7", "keyserver", "control")
TOKEN_VARIABLE = "PAIFANG_JOIN_TOKEN"  # noqa: S105 - its name
NODE_EXAMPLES = """
  paifang node invite --role l7 --name l7-3            prints the command for the new machine
  paifang node invite --role l7 --name 'l7-*' --ttl 1d  the machine chooses its name within that
  paifang node list                                    who has joined, and until when its identity is valid
  paifang node revoke l7-3                             refused at once, everywhere; joins again by a new token only
"""
JOIN_EXAMPLES = """
  paifang join https://10.0.0.5:8471 --token pfj_… --ca-fingerprint sha256:… --out /etc/paifang/l7-3
"""

Add = Any  # argparse has no public type for what add_subparsers() returns


def add_to(subcommands: Add, remote: argparse.ArgumentParser, as_json: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    node = subcommands.add_parser(
        "node", help="nodes as members: invite, list, revoke", description="Nodes as members of the cluster.",
        epilog=f"examples:{NODE_EXAMPLES}", formatter_class=raw,
    )  # fmt: skip
    of_node = node.add_subparsers(dest="what", required=True, metavar="COMMAND")

    def add(name: str, help: str, run: object) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = of_node.add_parser(
            name, help=help, parents=[remote, as_json], epilog=f"examples:{NODE_EXAMPLES}", formatter_class=raw
        )
        made.set_defaults(run=run)
        return made

    invited = add("invite", "make a token by which one machine may join (admin)", invite)
    invited.add_argument("--role", required=True, choices=ROLES)
    invited.add_argument("--name", required=True, help="of the node, as in the configuration; may have *")
    invited.add_argument("--ttl", type=duration, default="1h", metavar="TIME", help="how long it is good (%(default)s)")
    invited.add_argument("--url", metavar="URL", help="where the new machine reaches the control plane's node API")
    add("invitations", "tokens that are open, used or expired (admin)", invitations)
    add("cancel", "take an invitation back (admin)", cancel).add_argument("id", metavar="ID")
    add("list", "who has joined, been renewed or revoked", members)
    revoked = add("revoke", "refuse a node from now on, everywhere (admin)", revoke)
    revoked.add_argument("node", metavar="[ROLE/]NAME")
    joined = subcommands.add_parser(
        "join", help="make this machine a node, by a token", description="Make this machine a node of a cluster.",
        epilog=f"examples:{JOIN_EXAMPLES}", formatter_class=raw, parents=[as_json],
    )  # fmt: skip
    joined.add_argument("url", metavar="URL", help="the control plane's address for nodes, https://HOST:8471")
    joined.add_argument("--token", help=f"from `paifang node invite`; ${TOKEN_VARIABLE} is not seen by other users")
    joined.add_argument("--ca-fingerprint", required=True, metavar="sha256:…", help="of the cluster's CA")
    joined.add_argument("--name", default="", help="where the token lets the node choose")
    joined.add_argument("--out", required=True, type=Path, metavar="DIR", help="for ca.pem, cert.pem and key.pem")
    joined.add_argument("--replace", action="store_true", help="put it in place of the identity that DIR holds")
    joined.set_defaults(run=join)


def invite(options: argparse.Namespace) -> int:
    """Print the command for the new machine."""
    body = {"role": options.role, "name": options.name, "ttl_s": int(options.ttl.total_seconds())}
    told = cast(Mapping[str, Any], _api(options).request("POST", "/v1/joins", body).document)
    if options.json:
        print(json.dumps(told))
        return 0
    print(command(told, options.url))
    name = "one node of this name" if "*" not in told["name"] else "one node, which chooses its name by --name"
    note = f"good once, for {name}, until {_time(told['expires'])}"
    print(f"paifang: {note}; run it on the new machine as the user that the node runs as", file=sys.stderr)
    return 0


def command(told: Mapping[str, Any], url: str | None) -> str:
    """What is to be typed on the new machine."""
    address = str(told["nodes_address"])
    everywhere = address.startswith(("0.0.0.0:", "[::]:")) or not address
    port = address.rpartition(":")[2] or "8471"
    where = url or f"https://{f'CONTROL:{port}' if everywhere else address}"
    name = "NAME" if "*" in told["name"] else told["name"]
    choice = f" --name {name}" if "*" in told["name"] else ""
    return (
        f"paifang join {where} --token {told['token']} --ca-fingerprint {told['ca_fingerprint']}{choice} "
        f"--out /etc/paifang/{name}"
    )


def invitations(options: argparse.Namespace) -> int:
    """Print the invitations."""
    document = cast(Mapping[str, Any], _api(options).request("GET", "/v1/joins").document)
    rows = [
        (each["id"], each["role"], each["name"], each["state"], _time(each["expires"]), each["by"], each["node"] or "-")
        for each in document["joins"]
    ]
    header = ("ID", "ROLE", "NAME", "STATE", "EXPIRES", "BY", "USED BY")
    return _print(options, document, rows, header, "no invitations")


def cancel(options: argparse.Namespace) -> int:
    """Take an invitation back."""
    _api(options).request("DELETE", f"/v1/joins/{options.id}")
    print(f"{options.id}: taken back")
    return 0


def members(options: argparse.Namespace) -> int:
    """Print the members."""
    document = cast(Mapping[str, Any], _api(options).request("GET", "/v1/members").document)
    now = time.time()
    rows = [
        (
            each["role"], each["name"], each["state"], _time(each["joined"]) if each["joined"] else "-",
            f"{_time(each['ends'])} ({shown(each['ends'] - now)})" if each["ends"] else "-", each["by"] or "-",
        )
        for each in document["members"]
    ]  # fmt: skip
    none = "nobody has joined; identities of `paifang certs issue` are listed once they are renewed"
    return _print(options, document, rows, ("ROLE", "NAME", "STATE", "JOINED", "IDENTITY ENDS", "BY"), none)


def revoke(options: argparse.Namespace) -> int:
    """Refuse a node from now on."""
    api = _api(options)
    role, name = _role_and_name(api, options.node)
    told = api.request("POST", f"/v1/members/{role}/{name}/revoke").document
    text = f"{role} {name} is refused from now on; `paifang node invite --role {role} --name {name}` lets it join again"
    print(json.dumps(told) if options.json else text)
    return 0


def _role_and_name(api: Api, text: str) -> tuple[str, str]:
    """ROLE/NAME, or a name that one node alone has. Raises ApiError."""
    role, slash, name = text.rpartition("/")
    if slash:
        return role, name
    listed = cast(Mapping[str, Any], api.request("GET", "/v1/members").document)["members"]
    nodes = cast(Mapping[str, Any], api.request("GET", "/v1/status").document)["nodes"]
    configured = cast(Sequence[Mapping[str, Any]], api.request("GET", "/v1/nodes").document)
    known = {(str(each["role"]), str(each["name"])) for each in [*listed, *nodes, *configured]}
    found = sorted(each for each in known if each[1] == text)
    if len(found) != 1:
        several = (
            f"there are several: {', '.join('/'.join(each) for each in found)}" if found else "no node of that name"
        )
        raise ApiError(f"{text}: {several}; give ROLE/NAME, such as l7/{text}")
    return found[0]


def join(options: argparse.Namespace) -> int:
    """Make this machine a node."""
    token = options.token or os.environ.get(TOKEN_VARIABLE, "")
    try:
        if not token:
            raise JoinError(f"no token: give --token or ${TOKEN_VARIABLE}; `paifang node invite` makes one")
        done = joining.join(
            options.url, token, options.ca_fingerprint, options.name, options.out, replace=options.replace
        )
    except JoinError as error:
        print(f"paifang: {error}", file=sys.stderr)
        return 1
    who = done.identity
    if options.json:
        print(json.dumps({"role": who.role, "name": who.name, "ends": who.ends, "identity": str(options.out)}))
    else:
        print(f"{options.out}: identity of {who.role} {who.name}, valid until {_time(who.ends)}; the node renews it")
    if abs(done.skew_s) > joining.SKEW_S:
        way = "ahead of" if done.skew_s > 0 else "behind"
        text = f"this machine's clock is {abs(done.skew_s):.0f} s {way} the control plane's: set it (NTP)"
        print(f"paifang: warning: {text}", file=sys.stderr)
    return 0


def _print(
    options: argparse.Namespace, document: object, rows: Sequence[Sequence[object]], header: Sequence[str], none: str
) -> int:
    print(json.dumps(document) if options.json else show.table(rows, header) if rows else none)
    return 0


def _api(options: argparse.Namespace) -> Api:
    return connect(options.api, options.token, options.state)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
