"""The part of an L4 node's command line that says who announces the VIPs."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from l4fast import vrrp
from l4fast.bgp import Neighbour
from l4fast.vip_errors import VipError

Method = Literal["static", "vrrp", "bgp"]
METHODS: tuple[Method, ...] = ("static", "vrrp", "bgp")
# Program and Debian package.
PROGRAMS: dict[Method, tuple[str, str]] = {"vrrp": ("keepalived", "keepalived"), "bgp": ("bird", "bird2")}
GRACE_S = 30.0
AS_MOST = (1 << 32) - 2  # RFC 6793, RFC 7300
PASSWORD_MOST = 80  # bytes; tcp(7), TCP_MD5SIG_MAXKEYLEN

EXAMPLES = """\
  paifang l4 --vip vrrp --interface eth0 …                   the VIPs belong to the LAN of eth0
  paifang l4 --vip bgp --bgp-as 65001 --bgp-neighbour 10.0.0.1 65000 …\
"""


@dataclass(frozen=True, slots=True)
class VipSettings:
    """`grace_s`: for how long the VIPs are kept when the agent is dead or stuck. `interface`: empty: the first one."""

    method: Method = "static"
    grace_s: float = GRACE_S
    interface: str = ""
    ids: tuple[int, int] = vrrp.IDS
    local_as: int = 0
    neighbours: tuple[Neighbour, ...] = ()
    router_id: str = ""
    password_file: Path | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who announces the VIPs (docs/vip.md)")
    add = group.add_argument
    add("--vip", choices=METHODS, default="static",
        help="static: routes that you enter on the router (default); vrrp: keepalived; bgp: BIRD")  # fmt: skip
    add("--vip-grace", type=_seconds, default=GRACE_S, metavar="SECONDS",
        help=f"how long the VIPs stay while the agent is dead or stuck (default {GRACE_S:g})")  # fmt: skip
    add("--vrrp-interface", default="", metavar="DEV", help="where VRRP is spoken (default: the first --interface)")
    add("--vrrp-ids", type=_ids, default=vrrp.IDS, metavar="FIRST-LAST",
        help="virtual router ids that nobody else in the LAN uses; the same on all nodes (default 1-255)")  # fmt: skip
    add("--bgp-as", type=_as, default=0, metavar="AS", help="this node's autonomous system")
    add("--bgp-neighbour", nargs=2, action="append", default=[], metavar=("ADDRESS", "AS"),
        help="a router and its autonomous system; for IPv6 VIPs one by its IPv6 address")  # fmt: skip
    add("--bgp-router-id", default="", metavar="A.B.C.D", help="default: the node's first IPv4 address")
    add("--bgp-password-file", type=Path, metavar="FILE",
        help="the secret of the sessions (TCP MD5, RFC 2385), one line, mode 0600")  # fmt: skip


def read(given: argparse.Namespace) -> VipSettings:
    """Raises VipError."""
    method = cast(Method, given.vip)
    _refuse_others(given, method)
    if method != "bgp":
        return VipSettings(method, given.vip_grace, given.vrrp_interface, given.vrrp_ids)
    if not given.bgp_as or not given.bgp_neighbour:
        raise VipError("--vip bgp needs --bgp-as AS and --bgp-neighbour ADDRESS AS, once for each router")
    neighbours = tuple(_neighbour(*words) for words in given.bgp_neighbour)
    if len({each.address for each in neighbours}) < len(neighbours):
        raise VipError("--bgp-neighbour: give each router once")
    router_id = given.bgp_router_id and _router_id(given.bgp_router_id)
    return VipSettings(
        method, given.vip_grace, local_as=given.bgp_as, neighbours=neighbours, router_id=router_id,
        password_file=given.bgp_password_file,
    )  # fmt: skip


def _refuse_others(given: argparse.Namespace, method: Method) -> None:
    """An option of another method would be ignored in silence."""
    asked = {
        "vrrp": {"--vrrp-interface": given.vrrp_interface, "--vrrp-ids": given.vrrp_ids != vrrp.IDS},
        "bgp": {"--bgp-as": given.bgp_as, "--bgp-neighbour": given.bgp_neighbour,
                "--bgp-router-id": given.bgp_router_id, "--bgp-password-file": given.bgp_password_file},
    }  # fmt: skip
    for of, options in asked.items():
        for option, value in options.items():
            if value and of != method:
                raise VipError(f"{option} belongs to --vip {of}, and this is --vip {method}")


def password(path: Path | None) -> str:
    """The secret of the BGP sessions, of a file that only its owner may read. Raises VipError."""
    if path is None:
        return ""
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise VipError(f"{path}: others may read the BGP password (mode {mode:04o}); chmod 600 {path}")
            text = file.read(1 << 12).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise VipError(f"{path}: cannot read the BGP password: {error}") from None
    if not re.fullmatch(r'[^"\\\x00-\x1f\x7f]+', text) or len(text.encode()) > PASSWORD_MOST:
        raise VipError(f'{path}: a BGP password is one line of 1 to {PASSWORD_MOST} bytes, without " and \\')
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,4}(\.\d)?", text) or not 1 <= float(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: give 1 to 3600 seconds")
    return float(text)


def _ids(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,3})-(\d{1,3})", text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not vrrp.IDS[0] <= first <= last <= vrrp.IDS[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: give a range within 1-255, such as 51-70")
    return first, last


def _as(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= AS_MOST):
        raise argparse.ArgumentTypeError(f"{text!r}: give the number of an autonomous system, such as 65001")
    return int(text)


def _neighbour(address: str, number: str) -> Neighbour:
    try:
        parsed = ipaddress.ip_address(address)
        if "%" not in address and not (parsed.is_multicast or parsed.is_unspecified or parsed.is_link_local):
            return Neighbour(str(parsed), _as(number))
    except (ValueError, argparse.ArgumentTypeError):
        pass
    raise VipError(f"--bgp-neighbour {address} {number}: give a router's address and its AS, such as 10.0.0.1 65000")


def _router_id(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise VipError(f"--bgp-router-id {text}: give an IPv4 address, such as 10.0.0.11") from None


def locate(method: Method) -> str:
    """The path of the program that a method needs. Raises VipError."""
    program, package = PROGRAMS[method]
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise VipError(f"--vip {method} needs {program}, which is not installed: `apt-get install {package}`")
    return path
