"""Options of the command line that clouds' APIs are served with: of `paifang control` and of `paifang up`."""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from control.cloud.site import Site
from control.node.addresses import address
from core.endpoints import endpoint


@dataclass(frozen=True, slots=True)
class Cloud:
    """How the help says it: what the API is, what it calls its region, and what makes a load balancer."""

    name: str
    api: str
    region: str
    make: str


CLOUDS = (
    Cloud("alibaba", "Alibaba Cloud's SLB API", "RegionId", "CreateLoadBalancer without Address"),
    Cloud("jdcloud", "JD Cloud's load balancer API", "regionId", "createLoadBalancer without privateIpAddress"),
)


@dataclass(frozen=True, slots=True)
class Served:
    """An API that is asked for: of which cloud, where, and with what."""

    name: str
    address: tuple[str, int]
    site: Site


def add_apis(parser: argparse.ArgumentParser) -> None:
    """Where each is served."""
    for each in CLOUDS:
        parser.add_argument(
            f"--{each.name}", type=address, metavar="HOST:PORT",
            help=f"{each.api}, for its SDKs (docs/{each.name}.md); any address but loopback has TLS",
        )  # fmt: skip
        parser.add_argument(
            f"--{each.name}-region", type=_region, default=Site().region, metavar="NAME",
            help=f"its {each.region} (%(default)s)",
        )  # fmt: skip
        parser.add_argument(
            f"--{each.name}-vips", type=_network, action="append", default=[], metavar="CIDR",
            help=f"addresses that {each.make} takes; may be repeated",
        )  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where each is served, and what access keys are made with."""
    add_apis(parser)
    parser.add_argument(
        "--access-key-file", type=Path, metavar="FILE",
        help="what access keys are made with, the same on every control node (DIR/access.key, made if missing)",
    )  # fmt: skip
    parser.add_argument("--new-access-keys", action="store_true", help="make that file anew: all access keys change")


def read_apis(options: argparse.Namespace) -> tuple[Served, ...]:
    """What is to be served. Raises ValueError for options that do not fit."""
    served = []
    for each in CLOUDS:
        where, vips = getattr(options, each.name), getattr(options, f"{each.name}_vips")
        if where is not None:
            served.append(Served(each.name, where, Site(getattr(options, f"{each.name}_region"), tuple(vips))))
        elif vips:
            raise ValueError(f"--{each.name}-vips need --{each.name} HOST:PORT")
    return tuple(served)


def read_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[Served, ...]:
    """What is to be served; ends the program for options that do not fit."""
    try:
        served = read_apis(options)
    except ValueError as error:
        parser.error(str(error))
    if not served and (options.access_key_file or options.new_access_keys):
        parser.error("--access-key-file and --new-access-keys need --alibaba or --jdcloud HOST:PORT")
    return served


def argv(served: Iterable[Served]) -> list[str]:
    """The same again, for the control plane that another program starts."""
    said: list[str] = []
    for each in served:
        said += [f"--{each.name}", endpoint(*each.address), f"--{each.name}-region", each.site.region]
        for network in each.site.vips:
            said += [f"--{each.name}-vips", str(network)]
    return said


def _region(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give letters, digits, '-' and '_', at most 40")
    return text


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}; give a network such as 192.0.2.16/28") from None
