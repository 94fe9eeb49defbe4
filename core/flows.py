"""Where a new flow of an L4 service goes: the order of its servers, and the hash that finds a slot of it.

The nodes write `order` into their maps; the XDP program indexes it, by `slot` (select.h: flow_slot) where the scheduler
hashes. Tests hold the program to what is said here; whoever explains a flow asks `chosen`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence, Set
from ipaddress import ip_address
from typing import Final

from core.model import HASH_SCHEDULERS, Scheduler
from core.resolve import L4Service, Real
from core.schedule import flow_table, smooth_wrr_ring

# Maglev's paper (section 5.3): the more slots per server, the more even; both primes. The size follows from the number
# of configured servers, healthy or not, so that a failing one does not change it.
MAGLEV_SMALL, MAGLEV_LARGE, MAGLEV_SMALL_REALS = 4099, 65537, 40
RING_LIMIT = 65537
IPPROTO: Final = {"tcp": 6, "udp": 17}
_ALL: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2^64 / golden ratio (Knuth)

Down = Set[tuple[str, int, str]]  # address, port and protocol of reals


def takes(service: L4Service, real: Real, down: Down) -> bool:
    """Whether it takes new flows."""
    return real.weight > 0 and (real.address, real.port, service.protocol) not in down


def order(scheduler: Scheduler, names: Sequence[str], weights: Sequence[int], unable: Sequence[int]) -> array[int]:
    """The servers slot by slot, by their index: a table for schedulers that hash, else the turns of a round.

    `unable`: the indexes of those with a weight that take nothing now. Empty if nobody takes anything.
    """
    weights = tuple(min(weight, 1) for weight in weights) if scheduler is Scheduler.RR else tuple(weights)
    if scheduler in HASH_SCHEDULERS:
        size = MAGLEV_SMALL if len(names) <= MAGLEV_SMALL_REALS else MAGLEV_LARGE
        return flow_table(names, weights, unable, size)
    return smooth_wrr_ring([0 if index in unable else weight for index, weight in enumerate(weights)], RING_LIMIT)


def slot(
    client: tuple[str, int], vip: tuple[str, int], protocol: str, scheduler: Scheduler, slots: int, seed: int
) -> int:
    """Where in a table of so many slots a flow finds its server, under the cluster's seed.

    Murmur3's fmix64 over the client's address and port, the VIP, its port and the protocol, as a little-endian machine
    reads them from the packet; `sh` leaves out all but the client's address, `tch` the protocol.
    """
    here, there = _words(client[0]), _words(vip[0])
    ports = 0 if scheduler is Scheduler.SH else _wire(client[1]) | _wire(vip[1]) << 16
    if len(here) == 1:
        service, mixed = there[0], (here[0] << 32 | ports) ^ seed
    else:
        service = there[0] * _GOLDEN + (there[1] << 32 | there[2]) & _ALL ^ there[3]
        mixed = ((here[1] << 32 | here[0]) ^ seed) * _GOLDEN & _ALL
        mixed ^= mixed >> 32
        mixed ^= here[3] << 32 | here[2]
        mixed = mixed * _GOLDEN & _ALL
        mixed ^= mixed >> 32 ^ ports
    if scheduler is not Scheduler.SH:
        number = 0 if scheduler is Scheduler.TCH else IPPROTO[protocol]
        mixed ^= (service << 8 | number) & _ALL
    mixed ^= mixed >> 33
    mixed = mixed * 0xFF51AFD7ED558CCD & _ALL
    mixed ^= mixed >> 33
    mixed = mixed * 0xC4CEB9FE1A85EC53 & _ALL
    mixed ^= mixed >> 33
    return (mixed & 0xFFFFFFFF) * slots >> 32


def chosen(service: L4Service, client: tuple[str, int], down: Down, seed: int) -> Real | None:
    """The real of a new flow, for schedulers that hash; None where nobody takes one."""
    names = [f"{real.address}:{real.port}" for real in service.reals]
    weights = [real.weight for real in service.reals]
    unable = [n for n, real in enumerate(service.reals) if real.weight and not takes(service, real, down)]
    table = order(service.scheduler, names, weights, unable)
    if not table:
        return None
    vip = (service.vip, service.port)
    return service.reals[table[slot(client, vip, service.protocol, service.scheduler, len(table), seed)]]


def _words(address: str) -> list[int]:
    packed = ip_address(address).packed
    return [int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]


def _wire(port: int) -> int:
    return port >> 8 | (port & 0xFF) << 8
