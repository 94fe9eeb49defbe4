"""The desired state of one IP version as map contents, written by differences.

`apply` takes the whole desired state each time. What the maps hold is mirrored here as bytes, so that applying the same
state twice writes nothing. The order of writes keeps every moment consistent for packets: next hops and members, then
rings, then the listeners that use them; deletions last. Indexes of what has gone come free at the next `apply`, when no
packet can still be using them.

A listener keeps its index while it lives, a member its number (its counters), a real's address its next hop. Sessions
remember a member, a next hop and a refresh time; when any of these may have changed, or a listener's access list, the
generation is raised and each session looks them up again. A MAC address that changes is written where it stands.
"""

from __future__ import annotations

import ctypes as ct
import socket
import struct
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set

from core.endpoints import endpoint
from core.model import HASH_SCHEDULERS, Mode, Scheduler
from core.resolve import L4Service
from l4fast.access import AccessLists
from l4fast.addresses import address_bytes, prefix_mask, put_address, text_of
from l4fast.errors import TablesError
from l4fast.hop_tables import Hops
from l4fast.hops import Hop
from l4fast.limits import LIMITED_BANDWIDTH, ListenerLimits, limited
from l4fast.loader import POOL_ADDRESSES_MOST, DataPlane
from l4fast.members import NOBODY, Members, ServiceKey, counted, least, members_of
from l4fast.mirror import Indexes, Mirror
from l4fast.rings import Rings

PROTOCOLS: Mapping[str, int] = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
# enum mode and scheduler of types.h
MODES: Mapping[Mode, int] = {Mode.NAT: 0, Mode.DR: 1, Mode.TUNNEL: 2, Mode.FULLNAT: 3}
HASH, RING, LEAST = 0, 1, 2
# VIP_* of types.h
VIP_ANY, VIP_STATELESS = 1, 2
# What the hash of a flow is of, beside the client's address (listener.hash_ports, listener.hash_service). The
# schedulers that do not hash use it for the packets of flows that nobody knows.
_ALL = (1 << 64) - 1
HASHED: Mapping[Scheduler, tuple[int, int]] = {
    Scheduler.SH: (0, 0),
    Scheduler.TCH: (0xFFFFFFFF, _ALL & ~0xFF),
    Scheduler.MAGLEV: (0xFFFFFFFF, _ALL),
}

Endpoint = tuple[str, int, str]  # address, port and protocol of a real


def service_key(service: L4Service) -> ServiceKey:
    return service.vip, service.port, service.protocol


class VersionTables:
    """Writes the desired state of one IP version. Not thread-safe: one task calls it.

    `prepare` checks a state and raises TablesError, having changed nothing; `apply` writes it.
    """

    def __init__(self, plane: DataPlane, version: int, sync_period_s: int) -> None:
        self.services: dict[ServiceKey, L4Service] = {}
        self.seed = 0
        self.session_map = plane.map("sessions", version)
        self.key_size = ct.sizeof(self.session_map.key)
        self.value_size = ct.sizeof(self.session_map.value)
        self.members = Members(plane, version)
        self._plane = plane
        self._version = version
        self._settings = plane.settings[version]
        self._sync_period_s = sync_period_s
        self._listeners = Mirror(plane, "listeners", version)
        self._vips = Mirror(plane, "vips", version)
        self._hops = Hops(plane, version)
        self._owners = Mirror(plane, "reverse", version)
        self._limits = ListenerLimits(plane, version)
        self._listener_indexes = Indexes(plane.sizes["listeners"])
        self._listener_indexes.take(NOBODY)
        self._rings = Rings(plane, version)
        self._access_lists = AccessLists(plane, version)
        self._generation = 1
        self._configuration = 1
        self._pool: tuple[str, ...] = ()
        self._pools: frozenset[str] = frozenset()
        self.idle: Set[Endpoint] = frozenset()  # reals that took no new flows when an agent before ended
        self._restored = plane.inherited
        if plane.inherited:
            self._restore()
        else:
            plane.set(version, generation=1, configuration=1)

    def _restore(self) -> None:
        """Goes on where an agent before has ended, by what stands in the maps."""
        for mirror in self._listeners, self._vips, self._owners:
            mirror.restore()
        self._hops.restore()
        layout = self._listeners.map.value
        left = {_service_key_of(key): layout.from_buffer_copy(value) for key, value in self._listeners.held.items()}
        names = {value.index: key for key, value in left.items()}
        ended = self.members.restore(names, {value.index for value in left.values() if value.counts})
        self.idle = self.members.idle(names)
        self._listener_indexes.restore({key: value.index for key, value in left.items()} | ended)
        self._rings.restore({value.ring for value in left.values() if value.ring_size})
        self._access_lists.restore({value.access_list for value in left.values() if value.acl})
        self._generation, self._configuration = self._settings.generation, self._settings.configuration

    def set_local(self, *addresses: Sequence[str]) -> tuple[str, ...]:
        """Those of each interface; returns those that have no room, the last ones of their interfaces."""
        size = len(self._settings.local)
        ranked = [of[rank] for rank in range(max(map(len, addresses), default=0)) for of in addresses if rank < len(of)]
        local = [address_bytes(address) for address in ranked[:size]]
        nobody = bytes(ct.sizeof(self._settings.local[0]))
        for slot, field in enumerate(self._settings.interfaces):
            of = addresses[slot % len(addresses)]
            put_address(field, "address", address_bytes(of[0]) if of else nobody)
        self._plane.set(self._version, local=b"".join(local).ljust(size * len(nobody), b"\0"))
        return tuple(ranked[size:])

    def set_pools(self, own: Sequence[str], everyones: Collection[str]) -> None:
        size = len(self._settings.pool)
        if len(own) > size:
            raise TablesError(f"{len(own)} source addresses; at most {size} are supported")
        if len(everyones) > POOL_ADDRESSES_MOST - size:
            raise TablesError(f"{len(everyones)} source addresses of all nodes; too many for the tables")
        self._pool, self._pools = tuple(own), frozenset(everyones) | frozenset(own)

    def prepare(self, services: Sequence[L4Service]) -> None:
        """Checks that the services fit. Raises TablesError."""
        wanted = {service_key(service): service for service in services}
        self._listener_indexes.settle()
        self._hops.settle()
        self.members.settle()
        self._rings.settle()
        self._access_lists.settle()
        self._check_room(wanted)

    def apply(
        self,
        services: Sequence[L4Service],
        down: Set[tuple[str, int, str]],
        next_hops: Mapping[str, Hop | bytes],
        gateway: str,
    ) -> None:
        """Makes the maps say this and nothing else, once `prepare` has allowed it. `gateway`: a key of `next_hops`."""
        wanted = {service_key(service): service for service in services}
        reverse = _reverse_of(wanted)
        lists = {service.access.listed for service in services if service.access is not None}

        addresses = {real.address for service in services for real in service.reals}
        hops = {address: Hop.of(hop) for address, hop in next_hops.items()}
        here = frozenset(address for address in addresses if address in hops and hops[address].here)
        stale = self._hops.write(addresses, hops, gateway, beside(services, here)) | self._restored
        listener_index = {key: self._listener_index(key) for key in wanted}
        sharing = {name: self._listener_index(key) for name, key in _sharing(wanted).items()}
        self._limits.write(
            {index: wanted[key].limits for key, index in listener_index.items() if wanted[key].limits}, sharing
        )
        self.members.write(wanted, down, listener_index, self._hops.numbers, here)
        rings = {
            key: self._rings.content(
                service, [self.members.number((key, real.address, real.port)) for real in service.reals], down
            )
            for key, service in wanted.items()
        }
        self._rings.write(set(rings.values()))
        self._access_lists.write(lists)
        shared = {key for keys in reverse.values() if len(keys) > 1 for key in keys}
        listeners = {
            _listener_key(key): self._listener(service, rings[key], key in shared, here)
            for key, service in wanted.items()
        }
        owners = {_reverse_key(end): self._reverse(end, keys, wanted) for end, keys in reverse.items()}
        vips = {address_bytes(vip): struct.pack("=I", n) for vip, n in Counter(key[0] for key in wanted).items()}
        vips |= {address_bytes(address): struct.pack("=I", 0) for address in self._pools}
        stale |= self._remembered_differs(wanted, listeners)
        vip_filter = self._vip_filter(wanted)
        self._vips.add(vips)
        self._plane.set(
            self._version,
            vip_filter=[old | new for old, new in zip(self._settings.vip_filter, vip_filter, strict=True)],
            pool=self._pool_slots(),
        )
        written = ((self._vips, vips), (self._listeners, listeners), (self._owners, owners))
        for mirror, entries in written:
            mirror.add(entries)
        for mirror, entries in reversed(written):
            mirror.prune(entries)

        self._hops.keep(addresses)
        ending = self.members.prune(wanted)
        self._listener_indexes.keep({*wanted, *_sharing(wanted).values(), *ending, NOBODY})
        self._rings.keep(set(rings.values()))
        self._access_lists.keep(lists)
        self.services = wanted
        self._restored = False
        if stale:  # 0 means "cold"; nobody keeps a generation for 65,535 changes
            self._generation = self._generation % 0xFFFF + 1
        self._configuration = self._configuration % 0xFFFFFFFF + 1
        self._plane.set(
            self._version,
            generation=self._generation,
            configuration=self._configuration,
            vip_filter=vip_filter,
        )

    def _check_room(self, wanted: Mapping[ServiceKey, L4Service]) -> None:
        reverse = _reverse_of(wanted)
        if not self.members.room(members_of(wanted)):
            raise TablesError(
                f"{len(members_of(wanted))} pairs of a listener and a server do not fit the tables; load them larger"
            )
        for what, indexes, things in (
            ("listeners", self._listener_indexes, {*wanted, *_sharing(wanted).values()}),
            ("next hops", self._hops, {real.address for service in wanted.values() for real in service.reals}),
        ):
            if not indexes.room(things):
                raise TablesError(f"{len(things)} {what} do not fit the tables; load them larger")
        most = len(self._owners.map.value().candidates)
        for (address, port, _), keys in reverse.items():
            if len(keys) > most:
                names = ", ".join([*(endpoint(vip, vip_port) for vip, vip_port, _ in keys[:most]), "…"])
                raise TablesError(
                    f"{len(keys)} nat listeners share the server {endpoint(address, port)} ({names}); at most {most} "
                    "may: use mode dr, or other ports"
                )
        self._access_lists.check_room({s.access.listed for s in wanted.values() if s.access is not None})

    def _vip_filter(self, services: Mapping[ServiceKey, L4Service]) -> list[int]:
        """select.h: vip_slot."""
        filter_words = [0] * len(self._settings.vip_filter)
        marks = [(service.vip, VIP_ANY | VIP_STATELESS * service.stateless) for service in services.values()]
        for address, mark in (*marks, *((address, VIP_ANY) for address in self._pools)):
            word = 0
            for part in array("I", address_bytes(address)):
                word ^= part
            slot = (word * 0x9E3779B1 & 0xFFFFFFFF) >> 21
            filter_words[slot // 16] |= mark << slot % 16 * 2
        return filter_words

    def _listener(self, service: L4Service, ring: bytes, shared: bool, here: Set[str]) -> bytes:
        mine = [real for real in service.reals if real.address in here] if service.mode is Mode.DR else []
        scheduler = HASH if service.scheduler in HASH_SCHEDULERS else LEAST if least(service) else RING
        hash_ports, hash_service = HASHED.get(service.scheduler, HASHED[Scheduler.MAGLEV])
        value = self._listeners.map.value(
            ring=self._rings.number(ring),
            ring_size=len(ring) // 2,
            index=self._listener_indexes.used[service_key(service)],
            mode=MODES[service.mode],
            scheduler=scheduler,
            refresh_s=max(1, min(self._sync_period_s, service.idle_timeout_s // 3, 255)),
            track=shared or ((scheduler != HASH or service.persistence_timeout_s > 0) and service.protocol == "tcp"),
            persist_s=service.persistence_timeout_s,
            stateless=service.stateless,
            here=self.members.number((service_key(service), mine[0].address, mine[0].port)) if mine else 0,
            hash_ports=hash_ports,
            hash_service=hash_service,
            seed=self.seed,
            limited=limited(service.limits),
            counts=counted(service),
            **self._access_lists.fields(service.access),
        )
        put_address(value, "persist_mask", prefix_mask(service.persistence_prefix, self._version))
        return bytes(value)

    def _listener_index(self, key: ServiceKey) -> int:
        index, new = self._listener_indexes.take(key)
        if new:
            self._limits.clear(index)
        return index

    def connections(self, key: ServiceKey) -> int:
        """How many the listener has, if they are counted."""
        return self._limits.connections(self._listener_indexes.used[key])

    def refused(self) -> dict[ServiceKey, dict[str, int]]:
        """Packets that the listeners' access lists and limits kept out."""
        return self._limits.counters(self._listener_indexes.used)

    def _remembered_differs(self, wanted: Mapping[ServiceKey, L4Service], listeners: Mapping[bytes, bytes]) -> bool:
        """Whether sessions remember something of a listener that will be gone or different, who is admitted, or a
        member that is one no more or again."""

        def remembered(entry: bytes) -> tuple[int, ...]:
            value = self._listeners.map.value.from_buffer_copy(entry)
            return (
                value.index, value.refresh_s, value.acl, value.access_list, value.counts,
                value.limited & LIMITED_BANDWIDTH,
            )  # fmt: skip

        return any(
            members_of({key: service}) != members_of({key: wanted.get(key, service)})
            for key, service in self.services.items()
        ) or any(
            key not in listeners or remembered(listeners[key]) != remembered(entry)
            for key, entry in self._listeners.held.items()
        )

    def _reverse(self, end: Endpoint, keys: Sequence[ServiceKey], services: Mapping[ServiceKey, L4Service]) -> bytes:
        address, real_port, _ = end
        value = self._owners.map.value(
            count=len(keys),
            stateless=len(keys) == 1 and services[keys[0]].stateless,
            limited=any(services[key].limits.of_bandwidth for key in keys),
        )
        for candidate, key in zip(value.candidates, keys, strict=False):
            vip, port, _ = key
            put_address(candidate, "vip", address_bytes(vip))
            candidate.port = socket.htons(port)
            candidate.member = self.members.number((key, address, real_port))
        return bytes(value)

    def _pool_slots(self) -> bytes:
        size = len(self._settings.pool)
        pool = [address_bytes(self._pool[slot % len(self._pool)]) for slot in range(size)] if self._pool else []
        return b"".join(pool).ljust(type(self._settings).pool.size, b"\0")


def beside(services: Iterable[L4Service], here: Set[str]) -> frozenset[str]:
    """The other servers of the listeners that have one on this node, to which packets may be handed as they are."""
    return frozenset(
        real.address
        for service in services
        if service.mode is Mode.DR and any(real.address in here for real in service.reals)
        for real in service.reals
        if real.address not in here
    )


def _listener_key(key: ServiceKey) -> bytes:
    vip, port, protocol = key
    return address_bytes(vip) + struct.pack("!HBx", port, PROTOCOLS[protocol])


def _sharing(services: Mapping[ServiceKey, L4Service]) -> dict[str, ServiceKey]:
    """The instances whose listeners share limits, and what stands for each among the listeners' indexes."""
    return {s.limits.instance: (s.limits.instance, 0, "instance") for s in services.values() if s.limits.of_instance}


def _service_key_of(key: bytes) -> ServiceKey:
    """The reverse of `_listener_key`."""
    port, protocol = struct.unpack("!HBx", key[-4:])
    return text_of(key[:-4]), port, {number: name for name, number in PROTOCOLS.items()}[protocol]


def _reverse_key(end: Endpoint) -> bytes:
    address, port, protocol = end
    return address_bytes(address) + struct.pack("!HBx", port, PROTOCOLS[protocol])


def _reverse_of(services: Mapping[ServiceKey, L4Service]) -> dict[Endpoint, list[ServiceKey]]:
    """Which nat listeners answer through each real."""
    result: dict[Endpoint, list[ServiceKey]] = {}
    for key, service in services.items():
        if service.mode is Mode.NAT:
            for end in dict.fromkeys((real.address, real.port, service.protocol) for real in service.reals):
                result.setdefault(end, []).append(key)
    return result
