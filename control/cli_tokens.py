"""`paifang token`: who may use the API. A token's text goes to stdout or into a file; what is said of it to stderr."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from control import show
from control.client import Api, ApiError, connect
from control.node.files import write_atomic
from control.roles import ApiRole
from core.reader import did_you_mean

EXAMPLES = """
  paifang token create ci --role operate --expires 90d
  PAIFANG_TOKEN=$(paifang token create metrics --role read)
  paifang token list
  paifang token rotate ci --grace 1h --out /etc/ci/token
  paifang token revoke ci
  PAIFANG_TOKEN=$(cat /etc/ci/token) paifang token access-key
"""
CREATE_EXAMPLES = """
  paifang token create ci --role operate --expires 90d
  paifang token create metrics --role read --out /etc/prometheus/paifang.token
"""
ROTATE_EXAMPLES = """
  paifang token rotate ci --grace 1h   the secret before goes on for an hour
  paifang token rotate                 the token that this asks with
"""
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

Json = Mapping[str, Any]
Add = Callable[..., argparse.ArgumentParser]
Parent = argparse.ArgumentParser


def add_to(add: Add, remote: Parent, as_json: Parent) -> None:
    """Add the subcommands; `add` makes one with its help and examples."""
    token = add("token", "tokens: who may use the API, and for what", EXAMPLES)
    what = token.add_subparsers(dest="what", required=True, metavar="COMMAND")

    def part(name: str, help: str, examples: str = "") -> argparse.ArgumentParser:
        return what.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", parents=[remote, as_json],
            epilog=f"examples:{examples}" if examples else None, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    create = part("create", "a new token, printed this once", CREATE_EXAMPLES)
    create.add_argument("name", metavar="NAME", help="whose it is, or what for")
    roles = [role.value for role in ApiRole]
    create.add_argument("--role", required=True, choices=roles, metavar="ROLE", help=", ".join(roles))
    create.add_argument("--expires", type=end_of, metavar="WHEN", help="90d, 12h, or 2027-01-31; never if left out")
    create.set_defaults(run=_create)
    part("list", "every token, without its secret").set_defaults(run=_list)
    one = part("show", "one token; without a name the one that this asks with")
    one.add_argument("which", nargs="?", metavar="NAME", help="its name or ID")
    one.set_defaults(run=_show)
    rotate = part("rotate", "another secret for a token, printed this once", ROTATE_EXAMPLES)
    rotate.add_argument("which", nargs="?", metavar="NAME", help="its name or ID; the one that this asks with")
    rotate.add_argument("--grace", type=span, default=0, metavar="TIME", help="how long the one before goes on: 1h (0)")
    rotate.set_defaults(run=_rotate)
    for each in (create, rotate):
        each.add_argument("--out", type=Path, metavar="FILE", help="write it there, mode 0600, and not to stdout")
    key = part("access-key", "the access key of the token that this asks with, for SDKs of clouds")
    key.set_defaults(run=_access_key)
    key.add_argument("--out", type=Path, metavar="FILE", help="write it there, mode 0600, and not to stdout")
    revoke = part("revoke", "make tokens good for nothing, at once and everywhere")
    revoke.add_argument("which", nargs="+", metavar="NAME", help="their names or IDs")
    revoke.set_defaults(run=_revoke)


def span(text: str) -> int:
    """Seconds of 90d, 12h, 30m, 45s or 2w."""
    match = re.fullmatch(r"(\d{1,6})([smhdw]?)", text, re.ASCII)
    if not match or not (match[2] or int(match[1]) == 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a time such as 90d, 12h or 30m")
    return int(match[1]) * UNITS_S.get(match[2], 1)


def end_of(text: str) -> float:
    """Unix time of a time from now on, or of a day of the local calendar."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").astimezone().timestamp()
    except ValueError:
        pass
    try:
        return time.time() + span(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a time such as 90d or 12h, or a day as 2027-01-31") from None


def _create(options: argparse.Namespace) -> int:
    body = {"name": options.name, "role": options.role}
    if options.expires is not None:
        body["expires"] = options.expires
    return _hand_out(_document(_api(options), "POST", "/v1/tokens", body), options)


def _rotate(options: argparse.Namespace) -> int:
    api = _api(options)
    path = "/v1/token" if options.which is None else f"/v1/tokens/{_id(api, options.which)}"
    return _hand_out(_document(api, "POST", f"{path}/rotation?grace_s={options.grace}"), options)


def _hand_out(token: Json, options: argparse.Namespace) -> int:
    """The secret goes where it was asked for, and nowhere else."""
    if options.out is not None:
        write_atomic(options.out, f"{token['secret']}\n".encode())
        token = {name: each for name, each in token.items() if name != "secret"}
    if options.json:
        print(json.dumps(token))
    elif options.out is None:
        print(token["secret"])
    where = f"it is in {options.out}" if options.out is not None else "it is shown this once"
    print(f"paifang: {_described(token)}; {where}", file=sys.stderr)
    if token["before_until"]:
        print(f"paifang: the secret before goes on until {_when(token['before_until'])}", file=sys.stderr)
    return 0


def _list(options: argparse.Namespace) -> int:
    document = _document(_api(options), "GET", "/v1/tokens")
    print(json.dumps(document) if options.json else tokens_table(document["tokens"], time.time()))
    return 0


def tokens_table(tokens: list[Json], now: float) -> str:
    """One line a token."""
    rows = [
        (
            token["id"], token["name"], token["role"], _when(token["created"]), token["creator"],
            _end(token["expires"], now),
            "never" if token["used"] is None else f"{_when(token['used'])} from {token['used_from']}",
        )
        for token in tokens
    ]  # fmt: skip
    return show.table(rows, ("ID", "NAME", "ROLE", "CREATED", "BY", "EXPIRES", "LAST USED"))


def _end(expires: float | None, now: float) -> str:
    if expires is None:
        return "never"
    return _when(expires) + (" (over)" if expires <= now else "")


def _show(options: argparse.Namespace) -> int:
    api = _api(options)
    path = "/v1/token" if options.which is None else f"/v1/tokens/{_id(api, options.which)}"
    token = _document(api, "GET", path)
    print(json.dumps(token) if options.json else tokens_table([token], time.time()))
    return 0


def _access_key(options: argparse.Namespace) -> int:
    """Two lines, or JSON: the ID and the secret."""
    found = _document(_api(options), "POST", "/v1/token/access-key")
    text = json.dumps(found) if options.json else f"{found['access_key_id']}\n{found['access_key_secret']}"
    if options.out is None:
        print(text)
    else:
        write_atomic(options.out, f"{text}\n".encode())
        print(f"paifang: the access key {found['access_key_id']} is in {options.out}", file=sys.stderr)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    api = _api(options)
    found = [_document(api, "DELETE", f"/v1/tokens/{each}") for each in [_id(api, name) for name in options.which]]
    if options.json:
        print(json.dumps({"tokens": found}))
    else:
        for token in found:
            print(f"revoked: {_described(token)}")
    return 0


def _id(api: Api, wanted: str) -> str:
    """The ID of a token by its name or ID; of those with the same name the one that has not ended."""
    tokens = _document(api, "GET", "/v1/tokens")["tokens"]
    by_id = {token["id"] for token in tokens}
    if wanted in by_id:
        return wanted
    now = time.time()
    named = [token for token in tokens if token["name"] == wanted]
    good = [token for token in named if token["expires"] is None or token["expires"] > now] or named
    if len(good) > 1:
        raise ApiError(f"there are several tokens {wanted!r}; give an ID: {', '.join(token['id'] for token in good)}")
    if not good:
        near = did_you_mean(wanted, [token["name"] for token in tokens]) or "`paifang token list` shows them"
        raise ApiError(f"there is no token {wanted!r}; {near}")
    return str(good[0]["id"])


def _described(token: Json) -> str:
    end = "" if token["expires"] is None else f", until {_when(token['expires'])}"
    return f"token {token['id']} {token['name']!r} of role {token['role']}{end}"


def _api(options: argparse.Namespace) -> Api:
    return connect(options.api, options.token, options.state, ca=options.ca)


def _document(api: Api, method: str, path: str, body: object = None) -> Json:
    return cast(Json, api.request(method, path, body).document)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
