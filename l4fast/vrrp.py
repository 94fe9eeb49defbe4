"""What keepalived is told, and what it says. Pure.

One VRRP instance for each address (RFC 9568, version 3), all of them beginning as backup; the priorities follow from
the node's rank for the address (`shares.py`). Two nodes agree on an instance by its number, the virtual router id:
that is the last byte of the address where it lies within the range and is free, else the next free one. With 255 ids
for each IP version, that is also how many addresses there may be.

The owner has the address on its interface, with the prefix of a single host: its kernel then answers ARP and neighbour
solicitations for it, and nobody else's does. keepalived sends gratuitous ARP and unsolicited neighbour advertisements
when an address comes. It has the address on every interface of the data plane, so that servers behind another one than
the clients may use it as their gateway, and hear of it when it moves.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from core.endpoints import version
from l4fast.shares import Share, ipaddress_key
from l4fast.vip_states import VipState

IDS: Final = (1, 255)  # RFC 9568, 5.2.3
ADVERT_S: Final = 0.1  # a dead owner is missed after three of these and a tenth of one at most: 0.4 s
FIRST_PRIORITY: Final = 250  # 255 would mean that nobody may ever contest it
LAST_PRIORITY: Final = 10
STEP_MOST: Final = 20  # the higher the priority, the sooner the heir speaks up
REFRESH_S: Final = 30  # gratuitous ARP again: a neighbour that has missed the first ones

_STATES: Final = {
    "MASTER": VipState.MASTER, "BACKUP": VipState.BACKUP, "FAULT": VipState.FAULT, "STOP": VipState.WITHDRAWN,
}  # fmt: skip
_NOTICE = re.compile(r'INSTANCE "([0-9a-f.:]+)" ([A-Z_]+) \d+')
_ADDRESS = re.compile(r"^ +([0-9a-f.:]+)/(?:32|128) dev (\S+)$", re.MULTILINE)


class TooManyAddresses(ValueError):
    """More addresses than virtual router ids."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A line of keepalived's. `rival`: while it was master it heard another master, whose priority is lower."""

    address: str
    state: VipState | None
    rival: bool = False


def router_ids(addresses: Iterable[str], ids: tuple[int, int]) -> dict[str, int]:
    """The virtual router id of each address, of those from `ids[0]` to `ids[1]`. Raises TooManyAddresses."""
    first, last = ids
    size = last - first + 1
    taken: dict[tuple[int, int], str] = {}
    for address in sorted(addresses, key=ipaddress_key):
        ip = version(address)
        wanted = ipaddress.ip_address(address).packed[-1]
        start = wanted - first if first <= wanted <= last else wanted % size
        free = (first + (start + step) % size for step in range(size))
        number = next((number for number in free if (ip, number) not in taken), None)
        if number is None:
            raise TooManyAddresses(f"{size} virtual router ids are too few for the IPv{ip} addresses")
        taken[ip, number] = address
    return {address: number for (_, number), address in taken.items()}


def priority(share: Share) -> int:
    step = max(1, min(STEP_MOST, (FIRST_PRIORITY - LAST_PRIORITY) // max(share.nodes - 1, 1)))
    return max(LAST_PRIORITY, FIRST_PRIORITY - share.rank * step)


def configuration(
    shares: Sequence[Share], *, node: str, interface: str, interfaces: Sequence[str], ids: tuple[int, int], fifo: str
) -> str:
    """keepalived.conf. VRRP is spoken on `interface`; `interfaces`: those that have to be up, and have the addresses.
    Raises TooManyAddresses."""
    numbers = router_ids([share.address for share in shares], ids)
    parts = [
        "# Written by paifang l4, and overwritten.",
        "global_defs {",
        f"    router_id {node}",
        "    vrrp_version 3",
        f'    vrrp_notify_fifo "{fifo}"',
        "    vrrp_garp_master_delay 1",
        f"    vrrp_garp_master_refresh {REFRESH_S}",
        "    vrrp_priority -10",
        "}",
    ]
    for share in shares:
        parts += _instance(share, numbers[share.address], interface, interfaces)
    return "\n".join(parts) + "\n"


def _instance(share: Share, number: int, interface: str, interfaces: Sequence[str]) -> list[str]:
    others = [name for name in interfaces if name != interface]
    own = f"        {share.address}/{32 if version(share.address) == 4 else 128} dev "
    tracked = ["    track_interface {", *(f"        {name}" for name in others), "    }"]
    everywhere = ["    virtual_ipaddress_excluded {", *(own + name for name in others), "    }"]
    return [
        f"vrrp_instance {share.address} {{",
        "    state BACKUP",
        f"    interface {interface}",
        f"    virtual_router_id {number}",
        f"    priority {priority(share)}",
        f"    advert_int {ADVERT_S}",
        "    virtual_ipaddress {",
        own + interface,
        "    }",
        *(tracked + everywhere if others else []),
        "}",
    ]


def configured(text: str) -> tuple[tuple[str, str], ...]:
    """(address, interface) that a configuration of ours has keepalived put on interfaces: it may have left them."""
    return tuple(dict.fromkeys(_ADDRESS.findall(text)))


class Notices:
    """The lines of the notify fifo, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def receive_data(self, data: bytes) -> list[Notice]:
        """Lines of other kinds, of other releases for instance, are left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        matches = (_NOTICE.fullmatch(line.decode("ascii", "replace").strip()) for line in lines)
        found = [(match[1], match[2]) for match in matches if match]
        return [
            Notice(address, _STATES.get(word), word == "MASTER_RX_LOWER_PRI")
            for address, word in found
            if word in _STATES or word == "MASTER_RX_LOWER_PRI"
        ]
