"""`paifang l4 decap`: takes tunnel packets apart on a server whose kernel has no ipip or ip6_tunnel.

The server keeps the VIP as in mode dr: on `lo`, hidden from ARP, with services listening on it. A tunnel packet for a
VIP, IPv4 in IPv4 or IPv6 in IPv6, becomes the client's packet before the kernel sees it; every other packet is left
alone. The program is taken off when this process ends in order, and stays when it is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import signal
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from control.node.notify import notify
from core.endpoints import version
from l4fast import links
from l4fast.addresses import address_bytes
from l4fast.errors import LoadError
from l4fast.loader import XDP_FLAGS, Program, possible_cpus
from l4fast.settings import Parser, SettingsError
from l4fast.sources import SOURCES, reasons

log = logging.getLogger(__name__)

MAX_VIPS, MAX_NODES = 1024, 256

EXAMPLES = """examples:
  ip addr add 192.0.2.25/32 dev lo; sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
  paifang l4 decap --interface eth0 --vip 192.0.2.25 --from 10.0.0.11 10.0.0.12
  paifang l4 decap --interface eth0 --vip 192.0.2.25 2001:db8::25 --from 10.0.0.11 2001:db8:1::11

SIGUSR1 logs the counters.
"""


@dataclass(frozen=True, slots=True)
class DecapSettings:
    interface: str
    vips: tuple[str, ...]
    nodes: tuple[str, ...]
    xdp: Literal["native", "generic"]
    replace: bool


def parse(argv: Sequence[str]) -> DecapSettings:
    """Raises SettingsError; SystemExit(0) after --help."""
    parser = Parser(
        prog="paifang l4 decap",
        description="Takes the packets of tunnel listeners apart on a server whose kernel has no ipip or ip6_tunnel.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--interface", metavar="DEV", required=True, help="tunnel packets come in here")
    add("--vip", metavar="A", nargs="+", required=True, help="the VIPs whose packets are taken")
    add("--from", dest="nodes", metavar="A", nargs="+", default=[], help="the L4 nodes; without it: from anybody")
    add("--xdp", choices=("native", "generic"), default="native", help="generic: any device")
    add("--replace", action="store_true", help="take the place of the XDP program that a killed decap left behind")
    given = parser.parse_args(argv)
    for option, addresses, most in (("--vip", given.vip, MAX_VIPS), ("--from", given.nodes, MAX_NODES)):
        if len(addresses) > most:
            raise SettingsError(f"{option}: {len(addresses)} addresses; at most {most} are supported")
    vips, nodes = _canonical("--vip", given.vip), _canonical("--from", given.nodes)
    for vip in vips if nodes else ():
        if version(vip) not in map(version, nodes):
            raise SettingsError(f"--from: give addresses of IPv{version(vip)} too, or {vip} gets no packet")
    mode = cast('Literal["native", "generic"]', given.xdp)
    return DecapSettings(given.interface, vips, nodes, mode, given.replace)


def _canonical(option: str, addresses: Sequence[str]) -> tuple[str, ...]:
    for address in addresses:
        with contextlib.suppress(ValueError):
            parsed = ipaddress.ip_address(address)
            if parsed.version == 4 or not (parsed.is_link_local or parsed.scope_id or parsed.ipv4_mapped):
                continue
        raise SettingsError(f"{option} {address}: give IP addresses, such as 192.0.2.25 and 2001:db8::25")
    return tuple(str(ipaddress.ip_address(address)) for address in addresses)


class Decap:
    """The loaded program, which takes packets for `vips`; from `nodes` only, if there are any. Raises LoadError."""

    def __init__(self, vips: Collection[str], nodes: Collection[str] = ()) -> None:
        self._names = reasons(SOURCES / "decap.h", "outcome")
        sizes = {"MAX_VIPS": MAX_VIPS, "MAX_NODES": MAX_NODES}
        self.program = Program(SOURCES / "decap.c", ("decap",), sizes)
        for name, addresses in (("vips", vips), ("nodes", nodes)):
            table = self.program.map(name)
            for address in addresses:
                table.put(table.key.from_buffer_copy(_wide(address)), table.value(1))
        only = self.program.map("only_nodes")
        only.put(only.key(0), only.value(bool(nodes)))
        self._outcomes = self.program.map("outcomes")

    def attach(self, device: str, mode: Literal["native", "generic"]) -> None:
        """Raises LoadError."""
        try:
            self.program.attach(device, "decap", XDP_FLAGS[mode])
        except OSError as error:
            raise LoadError(f"cannot attach to {device} in {mode} mode ({error.strerror}); try --xdp generic") from None

    def counters(self) -> dict[str, int]:
        """Packets by what became of them (decap.h), summed over the CPUs."""
        total: Counter[str] = Counter()
        for name, number in self._names.items():
            values = self._outcomes.get_per_cpu(self._outcomes.key(number), possible_cpus())
            total[name] = sum(value.value for value in values)
        return dict(total)


def run(settings: DecapSettings) -> None:
    """Until SIGTERM or SIGINT. Raises LoadError."""
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    link = links.find(settings.interface)
    if link is None:
        raise LoadError(f"no interface {settings.interface}; `ip link` lists those of this machine")
    if link.program and not settings.replace:
        raise LoadError(
            f"{settings.interface} carries an XDP program (id {link.program}); "
            "if a killed decap left it behind: --replace"
        )
    for vip in sorted(set(settings.vips) - set(links.addresses())):
        length = 128 if version(vip) == 6 else 32
        log.warning("%s is no address of this machine: `ip addr add %s/%d dev lo`", vip, vip, length)
    decap = Decap(settings.vips, settings.nodes)
    if link.program and link.mode != settings.xdp:
        links.take_off(link)
    decap.attach(settings.interface, settings.xdp)
    try:
        log.info("taking packets for %s on %s (%s XDP)", ", ".join(settings.vips), settings.interface, settings.xdp)
        notify("READY=1")
        while signal.sigwait(signals) == signal.SIGUSR1:
            _log(decap)
        notify("STOPPING=1")
    finally:
        _log(decap)
        decap.program.detach(settings.interface, XDP_FLAGS[settings.xdp])


def _wide(address: str) -> bytes:
    """decap.c: struct address."""
    short = address_bytes(address)
    return short if len(short) == 16 else bytes(10) + b"\xff\xff" + short


def _log(decap: Decap) -> None:
    log.info("packets: %s", ", ".join(f"{name} {count}" for name, count in decap.counters().items()))
