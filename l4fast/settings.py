"""The command line of an L4 node, and the files that it names."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, cast

from control.node.addresses import address
from control.node.controls import Controls, ControlsError
from core.endpoints import split
from l4fast.errors import L4Error
from l4fast.sync_keys import KEY_BYTES, SEED_WORD, KeyFileError, Secrets, parse_secrets
from l4fast.vip_errors import VipError
from l4fast.vip_settings import EXAMPLES as EXAMPLES_VIP
from l4fast.vip_settings import VipSettings
from l4fast.vip_settings import add_options as add_vip_options
from l4fast.vip_settings import read as read_vip

SYNC = "224.0.0.81:8848"  # the group that IPVS uses, and its port
SYNC_V6 = "[ff02::81]:8848"  # for networks of IPv6 alone: of one link, as the other
INTERFACES_MOST = 4  # bpf/types.h
ADMIN_SOCKET = "admin.sock"  # in the state directory
METRICS = "127.0.0.1:8474"
OFF = "off"

EXAMPLES = f"""examples:
  paifang l4 --make-cluster-key /etc/paifang/cluster.key     once; copy it to every L4 node
  paifang l4 decap --interface eth0 --vip 192.0.2.25         on a server of mode tunnel (decap --help)
  paifang l4 --name l4-1 --interface eth0 --control https://10.0.0.9:8471 \\
      --identity /etc/paifang/identity --state /var/lib/paifang/l4 --cluster-key /etc/paifang/cluster.key
  paifang l4 --interface eth0 --interface eth1 …             clients behind one, servers behind the other
{EXAMPLES_VIP}
  paifang l4 ask status --state /var/lib/paifang/l4          what a running node says (ask --help)
"""


class SettingsError(L4Error):
    """What the command line asks for cannot be done; one line with the remedy."""


@dataclass(frozen=True, slots=True)
class Settings:
    name: str
    control: str
    identity: Path
    interfaces: tuple[str, ...]
    state: Path
    cluster_key: Path
    xdp: Literal["native", "generic"]
    sync_group: str
    sync_port: int
    sync_tcp: int
    metrics: tuple[str, int] | None
    log_level: str
    vip: VipSettings


@dataclass(frozen=True, slots=True)
class MakeClusterKey:
    """The command is to create a key file and end."""

    path: Path


class Parser(argparse.ArgumentParser):
    """Errors are exceptions, so that they are printed like all others."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; --help shows the usage")


def parse(argv: Sequence[str]) -> Settings | MakeClusterKey:
    """Raises SettingsError; SystemExit(0) after --help."""
    parser = Parser(
        prog="paifang l4",
        description="One node of the L4 tier: forwards with XDP, keeps sessions in step with its peers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--make-cluster-key", type=Path, metavar="FILE", help="write a new random cluster key to FILE (0600) and end")
    add("--name", help="this node's name in the configuration and in its certificate")
    add("--control", metavar="URL[,URL…]", help="the control nodes' APIs for nodes, https://HOST:8471")
    add("--identity", type=Path, metavar="DIR", help="holds ca.pem, cert.pem and key.pem")
    add(
        "--interface",
        action="append",
        dest="interfaces",
        metavar="DEV",
        help="traffic comes in and goes out here; to be given for each, up to four: routes say what leaves by which, "
        "session sync uses the first",
    )
    add("--state", type=Path, metavar="DIR", help="keeps the last good configuration and the admin socket")
    add("--cluster-key", type=Path, metavar="FILE", help="the secret that seals session sync, mode 0600")
    add(
        "--xdp",
        choices=("native", "generic"),
        default="native",
        help="native: packet rate (default); generic: any device",
    )
    add(
        "--sync",
        default=SYNC,
        metavar="GROUP:PORT",
        help=f"multicast group of session sync (default {SYNC}; {SYNC_V6})",
    )
    add(
        "--sync-tcp",
        type=_port,
        default=0,
        metavar="PORT",
        help="where the other L4 nodes get snapshots of the sessions, by TLS (default: any, which they are told)",
    )
    add(
        "--metrics",
        type=_metrics,
        default=METRICS,
        metavar="ADDR:PORT",
        help=f"where Prometheus gets /metrics, without TLS or password, or {OFF} (default {METRICS})",
    )
    add("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO")
    add_vip_options(parser)
    given = parser.parse_args(argv)
    if given.make_cluster_key is not None:
        return MakeClusterKey(given.make_cluster_key)
    required = ("name", "control", "identity", "interfaces", "state", "cluster_key")
    missing = ["--" + name.removesuffix("s").replace("_", "-") for name in required if not getattr(given, name)]
    if missing:
        parser.error(f"missing {', '.join(missing)}")
    try:
        Controls(given.control)
    except ControlsError as error:
        parser.error(f"--control {error}")
    interfaces = tuple(given.interfaces)
    if len(set(interfaces)) < len(interfaces) or len(interfaces) > INTERFACES_MOST:
        parser.error(f"--interface {', '.join(interfaces)}: give up to {INTERFACES_MOST}, each once")
    group, port = parse_group(given.sync)
    return Settings(
        given.name, given.control, given.identity, interfaces, given.state, given.cluster_key,
        cast('Literal["native", "generic"]', given.xdp), group, port, given.sync_tcp,
        given.metrics, given.log_level, _vip(given),
    )  # fmt: skip


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; give 1 to 65535, or 0 for any")


def _vip(given: argparse.Namespace) -> VipSettings:
    try:
        return read_vip(given)
    except VipError as error:
        raise SettingsError(str(error)) from None


def _metrics(text: str) -> tuple[str, int] | None:
    return None if text == OFF else address(text)


def parse_group(text: str) -> tuple[str, int]:
    """`GROUP:PORT`, or `[GROUP]:PORT` of IPv6, in canonical form. Raises SettingsError."""
    with contextlib.suppress(ValueError):
        name, port = split(text) or ("", 0)
        group = ipaddress.ip_address(name)
        if group.is_multicast and "%" not in name and 1 <= port <= 65535:
            return str(group), port
    raise SettingsError(f"--sync {text}: give a multicast group and a port, such as {SYNC} or {SYNC_V6}")


def load_secrets(path: Path) -> Secrets:
    """The cluster's keys and its seed, of a file that only its owner may read. Raises SettingsError."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise SettingsError(f"{path}: others may read the cluster key (mode {mode:04o}); chmod 600 {path}")
            return parse_secrets(file.read(1 << 16))
    except OSError as error:
        remedy = f"`paifang l4 --make-cluster-key {path}` makes one; every L4 node needs the same"
        raise SettingsError(f"{path}: cannot read the cluster key: {error.strerror}; {remedy}") from None
    except KeyFileError as error:
        raise SettingsError(f"{path}: {error}; a line holds {KEY_BYTES} bytes in hex or base64") from None


def make_key(path: Path) -> None:
    """Writes a new key to a new file. Raises SettingsError; an existing file is never overwritten."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} exists; remove it first if its cluster shall lose its key") from None
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot create it: {error.strerror}; give a new file in a directory of yours"
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write("# Paifang cluster key: the same file on every L4 node, readable by its owner only.\n")
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.write(f"# Leave it when the key is changed: it says which server a flow goes to.\n{SEED_WORD} ")
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
