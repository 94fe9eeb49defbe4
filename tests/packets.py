"""Packet tables for the XDP program: what goes in, the verdict's name, the exact bytes that come out.

`Packet` builds frames field by field with checksums computed over the whole, so that an expected frame owes nothing to
the incremental arithmetic under test. Its addresses say whether it is IPv4 or IPv6; a table of IPv4 packets serves both
by `Packet.as_version`, where `six` gives every address its counterpart. tests/l4fast/test_packets.py holds the builders
to scapy. `Harness` is a loaded program with its tables, run by BPF_PROG_TEST_RUN.
"""

from __future__ import annotations

import ctypes as ct
import functools
import hashlib
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from core.flows import MAGLEV_SMALL
from core.model import Mode, Scheduler
from core.resolve import Access, L4Service, Real
from core.schedule import flow_table
from l4fast.interfaces import Interface
from l4fast.loader import IP_VERSIONS, DataPlane, Estate
from l4fast.merging import Merged
from l4fast.sessions import Wanted
from l4fast.sweep import Sweep
from l4fast.tables import CLIENT_GATEWAY, CLIENT_GATEWAY6, ECHO_PER_CPU_S, FOREVER_S, Tables
from tests.l4fast import told

NODE_MAC = bytes.fromhex("02000000000a")
ROUTER_MAC = bytes.fromhex("020000000001")
GATEWAY_MAC = bytes.fromhex("0200000000fe")
NODE, VIP, CLIENT = "10.0.0.2", "10.0.0.100", "198.51.100.7"
MTU = 1500
INTERFACE = Interface("eth0", 1, NODE_MAC, MTU)  # test runs pretend to come in by the first link, which is lo
REALS = ("10.0.1.1", "10.0.1.2", "10.0.1.3")
NOW_S = 1_700_000_000

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
ICMP, TCP, UDP, ICMP6 = socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS = 0, 43, 44, 51, 60  # IPv6 extension headers
DF, MORE, OFFSET = 0x4000, 0x2000, 0x1FFF  # IPv4's fragment field

# By version
HEADER = {4: 20, 6: 40}
ETH_TYPE = {4: 0x0800, 6: 0x86DD}
TUNNEL_PROTOCOL = {4: socket.IPPROTO_IPIP, 6: socket.IPPROTO_IPV6}
ICMP_PROTOCOL = {4: ICMP, 6: ICMP6}
ECHO, ECHO_ANSWER = {4: 8, 6: 128}, {4: 0, 6: 129}
# Types and codes (RFC 792, RFC 4443)
ICMP_ERRORS = {
    "no route": {4: (3, 0), 6: (1, 0)},
    "port unreachable": {4: (3, 3), 6: (1, 4)},
    "too big": {4: (3, 4), 6: (2, 0)},
    "time exceeded": {4: (11, 0), 6: (3, 0)},
    "parameter problem": {4: (12, 0), 6: (4, 0)},
}
QUOTED_MOST = {4: 548, 6: 1232}  # bytes, RFC 1812 and RFC 4443

End = tuple[str, int]  # address and port

# Those that no client may have are not like others.
_SIX = {"0.0.0.0": "::", "127.0.0.1": "::1", "224.0.0.1": "ff02::1", "255.255.255.255": "ff0e::1"}


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


def address_bytes(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def address_text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


@functools.cache
def six(address: str) -> str:
    """The IPv6 counterpart of an IPv4 address: of a network /n it is in the counterpart's /(32 + n), and no word of it
    is like another's."""
    if address in _SIX:
        return _SIX[address]
    four = socket.inet_aton(address)
    return address_text(bytes.fromhex("20010db8") + four + hashlib.sha256(four).digest()[:8])


def as_version(version: int, *addresses: str) -> tuple[str, ...]:
    return addresses if version == 4 else tuple(map(six, addresses))


REAL_MACS: Mapping[str, bytes] = {
    address: bytes.fromhex("0200000001") + bytes([version % 4 * 8 + n])
    for version in (4, 6)
    for n, address in enumerate(as_version(version, *REALS))
}


def l4_at(frame: bytes) -> int:
    """Where the header behind the IP header begins."""
    return 54 if frame[12:14] == b"\x86\xdd" else 34


def addresses_of(frame: bytes) -> tuple[str, str]:
    """Source and destination of a frame's packet."""
    at = l4_at(frame)
    size = 4 if at == 34 else 16
    return address_text(frame[at - 2 * size : at - size]), address_text(frame[at - size : at])


def ends(frame: bytes) -> tuple[End, End]:
    """Source and destination with their ports, of a frame without IP options or extension headers."""
    source, destination = addresses_of(frame)
    ports = struct.unpack_from("!HH", frame, l4_at(frame))
    return (source, ports[0]), (destination, ports[1])


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """IPv6's (RFC 8200, section 8.1); with IPv4 addresses its sum is that of IPv4's (RFC 9293, section 3.1)."""
    return address_bytes(source) + address_bytes(destination) + struct.pack("!II", length, protocol)


def ipv4_header(source: str, destination: str, protocol: int, length: int, *, tos: int = 0) -> bytes:
    """A header before `length` bytes, as a host makes it that forbids fragments: identification 0."""
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + length, 0, 0x4000, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:]


def ip_header(source: str, destination: str, protocol: int, length: int, *, tos: int = 0, label: int = 0) -> bytes:
    """The same in the addresses' version."""
    if version_of(source) == 4:
        return ipv4_header(source, destination, protocol, length, tos=tos)
    head = struct.pack("!IHBB", 6 << 28 | tos << 20 | label, length, protocol, 64)
    return head + address_bytes(source) + address_bytes(destination)


def icmp(kind: int, code: int, rest: bytes = bytes(4), data: bytes = b"") -> bytes:
    """A message, for `Packet(protocol=ICMP, payload=…)`; `rest`: what stands between checksum and data. In an ICMPv6
    packet the checksum is made anew, since it is of the addresses too."""
    value = checksum(bytes((kind, code, 0, 0)) + rest + data)
    return struct.pack("!BBH", kind, code, value) + rest + data


def echo(version: int, rest: bytes = bytes(4), data: bytes = b"", *, answer: bool = False) -> bytes:
    return icmp((ECHO_ANSWER if answer else ECHO)[version], 0, rest, data)


def icmp_error(about: Packet, kind: str, *, behind: int = 48, mtu: int = 1300, source: str) -> Packet:
    """What `source` tells the sender of a packet, quoting its headers and so many bytes behind the IP header."""
    version = about.version
    frame = about.frame()
    quoted = frame[14 : min(l4_at(frame) + behind, 14 + QUOTED_MOST[version])]
    rest = struct.pack("!I", mtu if kind == "too big" else 0)
    payload = icmp(*ICMP_ERRORS[kind][version], rest, quoted)
    return Packet(source=source, destination=about.source, protocol=ICMP_PROTOCOL[version], payload=payload)


def extension(kind: int, next_header: int, contents: bytes) -> bytes:
    """An IPv6 extension header of `kind`; `contents` are what follows the length (RFC 8200, section 4; RFC 4302)."""
    size = 2 + len(contents)
    assert size % 8 == 0, "extension headers are multiples of eight bytes"
    length = {FRAGMENT: 0, AUTHENTICATION: size // 4 - 2}.get(kind, size // 8 - 1)
    return bytes((next_header, length)) + contents


@dataclass(frozen=True)
class Packet:
    """An IP packet in an Ethernet frame, of its addresses' version. `None` for a type, a length or a checksum means the
    right one. What only one version has does nothing in the other: `options` and DF, `extensions` and `label`.
    """

    source: str = CLIENT
    destination: str = VIP
    source_port: int = 40000
    port: int = 80
    protocol: int = TCP
    flags: int = SYN
    sequence: int = 1000
    payload: bytes = b""
    ttl: int = 64  # IPv6: hop limit
    tos: int = 0  # IPv6: traffic class
    label: int = 0
    eth_source: bytes = ROUTER_MAC
    eth_destination: bytes = NODE_MAC
    eth_type: int | None = None
    version_length: int | None = None  # the first byte; IPv6: its high half alone
    options: bytes = b""
    extensions: tuple[tuple[int, bytes], ...] = ()  # kind and contents, see `extension`; before a fragment header
    id: int = 7
    fragment: int = 0  # IPv4's field; an IPv6 packet gets a fragment header for MORE or an offset
    total_length: int | None = None  # IPv6: the payload length
    data_offset: int = 5
    udp_length: int | None = None
    l4_checksum: int | None = None
    padding: bytes = b""

    @property
    def version(self) -> int:
        return version_of(self.source)

    def as_version(self, version: int) -> Packet:
        """This IPv4 packet, or its counterpart. ICMP messages differ, and have to be given anew."""
        source, destination = as_version(version, self.source, self.destination)
        protocol = ICMP_PROTOCOL[version] if self.protocol == ICMP else self.protocol
        return replace(self, source=source, destination=destination, protocol=protocol)

    def frame(self) -> bytes:
        return self.around(self.l4())

    def around(self, l4: bytes) -> bytes:
        """The frame, with these bytes behind the IP header and its extensions."""
        head = self._ipv4(len(l4)) if self.version == 4 else self._ipv6(len(l4))
        eth_type = ETH_TYPE[self.version] if self.eth_type is None else self.eth_type
        return self.eth_destination + self.eth_source + struct.pack("!H", eth_type) + head + l4 + self.padding

    def _ipv4(self, size: int) -> bytes:
        first = 0x45 if self.version_length is None else self.version_length
        length = 20 + len(self.options) + size if self.total_length is None else self.total_length
        head = struct.pack("!BBHHHBBH", first, self.tos, length, self.id, self.fragment, self.ttl, self.protocol, 0)
        head += address_bytes(self.source) + address_bytes(self.destination)
        return head[:10] + struct.pack("!H", checksum(head + self.options)) + head[12:] + self.options

    def _ipv6(self, size: int) -> bytes:
        extensions = list(self.extensions)
        if self.fragment & (MORE | OFFSET):
            field = (self.fragment & OFFSET) << 3 | bool(self.fragment & MORE)
            extensions.append((FRAGMENT, struct.pack("!HI", field, self.id)))
        chain, following = b"", self.protocol
        for kind, contents in reversed(extensions):
            chain = extension(kind, following, contents) + chain
            following = kind
        version = 6 if self.version_length is None else self.version_length >> 4
        length = len(chain) + size if self.total_length is None else self.total_length
        head = struct.pack("!IHBB", version << 28 | self.tos << 20 | self.label, length, following, self.ttl)
        return head + address_bytes(self.source) + address_bytes(self.destination) + chain

    def l4(self) -> bytes:
        """What is behind the IP header and its extensions."""
        if self.protocol == TCP:
            ack = 5000 if self.flags & ACK else 0
            head = struct.pack("!HHIIBBHHH", self.source_port, self.port, self.sequence, ack, self.data_offset << 4,
                               self.flags, 512, 0, 0)  # fmt: skip
            at = 16
        elif self.protocol == UDP:
            length = 8 + len(self.payload) if self.udp_length is None else self.udp_length
            head = struct.pack("!HHHH", self.source_port, self.port, length, 0)
            at = 6
        elif self.protocol == ICMP6 and self.version == 6 and len(self.payload) >= 4:
            head, at = self.payload[:2] + bytes(2), 2
        else:
            return self.payload
        whole = head + self.payload[len(head) if self.protocol == ICMP6 else 0 :]
        value = self.l4_checksum
        if value is None:
            value = checksum(pseudo_header(self.source, self.destination, self.protocol, len(whole)) + whole)
            if self.protocol == UDP:
                value = value or 0xFFFF
        return whole[:at] + struct.pack("!H", value) + whole[at + 2 :]

    def fragments(self, *sizes: int) -> list[bytes]:
        """The packet in fragments with so many bytes of what is behind the IP header each, and the rest in the last."""
        l4 = self.l4()
        frames: list[bytes] = []
        at = 0
        for size in (*sizes, len(l4) - sum(sizes)):
            more = MORE if at + size < len(l4) else 0
            frames.append(replace(self, fragment=more | at // 8).around(l4[at : at + size]))
            at += size
        return frames

    def to_real(self, address: str, port: int = 8080, *, mac: bytes | None = None) -> Packet:
        """As nat forwards it."""
        return replace(
            self.to_mac(REAL_MACS[address] if mac is None else mac), destination=address, port=port, ttl=self.ttl - 1
        )

    def to_mac(self, mac: bytes) -> Packet:
        """As dr forwards it."""
        return replace(self, eth_source=self.eth_destination, eth_destination=mac)

    def in_tunnel(self, address: str, *, mac: bytes | None = None, tos: int | None = None) -> bytes:
        """As tunnel forwards it: one hop older, inside a packet from the node."""
        inner = replace(self, ttl=self.ttl - 1, padding=b"").frame()
        tos = self.tos if tos is None else tos
        return encapsulated(inner, address, mac=mac, tos=tos, label=self.label) + self.padding

    def too_big(self, mtu: int, *, quoted: int | None = None) -> bytes:
        """The ICMP error that the sender gets (RFC 1191, RFC 4443), quoting what icmp.h quotes."""
        frame, version = self.frame(), self.version
        most = {4: 28, 6: 56}[version] if quoted is None else quoted
        told = frame[14 : min(14 + most, len(frame) - len(self.padding))]
        payload = icmp(*ICMP_ERRORS["too big"][version], struct.pack("!I", mtu), told)
        message = Packet(self.destination, self.source, protocol=ICMP_PROTOCOL[version], payload=payload).l4()
        head = ip_header(self.destination, self.source, ICMP_PROTOCOL[version], len(message), tos=0xC0)
        return self.eth_source + self.eth_destination + struct.pack("!H", ETH_TYPE[version]) + head + message

    def translated(self, source: End, destination: End, *, mac: bytes | None = None) -> Packet:
        """As fullnat forwards it, in either direction."""
        return replace(
            self.to_mac(REAL_MACS.get(destination[0], GATEWAY_MAC) if mac is None else mac),
            source=source[0], source_port=source[1], destination=destination[0], port=destination[1], ttl=self.ttl - 1,
        )  # fmt: skip

    def to_client(self, vip: str, port: int) -> Packet:
        """As nat hands a real's answer back."""
        return replace(self.to_mac(GATEWAY_MAC), source=vip, source_port=port, ttl=self.ttl - 1)


def encapsulated(frame: bytes, address: str, *, mac: bytes | None = None, tos: int = 0, label: int = 0) -> bytes:
    """A frame's packet, as it is, in a packet from the node to this address."""
    (node,) = as_version(version_of(address), NODE)
    protocol = TUNNEL_PROTOCOL[4 if frame[12:14] == b"\x08\x00" else 6]
    outer = ip_header(node, address, protocol, len(frame) - 14, tos=tos, label=label)
    eth_type = struct.pack("!H", ETH_TYPE[version_of(address)])
    return (REAL_MACS[address] if mac is None else mac) + frame[:6] + eth_type + outer + frame[14:]


@dataclass(frozen=True)
class Case:
    """One row: `after` None means the same bytes as before."""

    description: str
    before: bytes
    verdict: str
    after: bytes | None = None


def service(
    port: int,
    mode: Mode = Mode.NAT,
    scheduler: Scheduler = Scheduler.MAGLEV,
    protocol: str = "tcp",
    *,
    name: str = "",
    vip: str = VIP,
    weights: Sequence[int] = (100, 100, 100),
    real_port: int = 8080,
    reals: Sequence[str] = REALS,
    idle_timeout_s: int = 900,
    stateless: bool = False,
    persistence: tuple[int, int] = (0, 32),
    access: Access | None = None,
    version: int = 4,
) -> L4Service:
    """A listener; with version 6 its addresses are the counterparts of those given."""
    vip, *reals = as_version(version, vip, *reals)
    real_port = real_port if mode in (Mode.NAT, Mode.FULLNAT) else port
    members = tuple(
        Real(address, real_port, weight, real_port) for address, weight in zip(reals, weights, strict=False)
    )
    return L4Service(
        name or f"{protocol}-{port}",
        vip,
        port,
        protocol,
        mode,
        scheduler,
        members,
        None,
        idle_timeout_s,
        stateless,
        *persistence,
        access,
    )


def flow_slot(packet: Packet, scheduler: Scheduler, slots: int, seed: int = 0) -> int:
    """select.h's flow_slot on a little-endian machine: murmur3's fmix64 over the key, scaled to the
    table."""
    mask = (1 << 64) - 1
    h: int
    client = struct.unpack(f"<{len(address_bytes(packet.source)) // 4}I", address_bytes(packet.source))
    vip = struct.unpack(f"<{len(client)}I", address_bytes(packet.destination))
    ports: int = 0 if scheduler is Scheduler.SH else socket.htons(packet.source_port) | socket.htons(packet.port) << 16
    if packet.version == 4:
        service = vip[0]
        h = (client[0] << 32 | ports) ^ seed
    else:
        golden = 0x9E3779B97F4A7C15
        service = vip[0] * golden + (vip[1] << 32 | vip[2]) ^ vip[3]
        h = ((client[1] << 32 | client[0]) ^ seed) * golden & mask
        h ^= h >> 32
        h ^= client[3] << 32 | client[2]
        h = h * golden & mask
        h ^= h >> 32 ^ ports
    if scheduler is not Scheduler.SH:
        h ^= service << 8 & mask
    if scheduler is not Scheduler.SH and scheduler is not Scheduler.TCH:
        h ^= packet.protocol
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & mask
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & mask
    h ^= h >> 33
    return (h & 0xFFFFFFFF) * slots >> 32


def maglev_real(packet: Packet, of: L4Service, seed: int = 0) -> Real:
    """Where core.schedule sends this flow, for schedulers that hash."""
    table = flow_table([f"{r.address}:{r.port}" for r in of.reals], [r.weight for r in of.reals], (), MAGLEV_SMALL)
    flow = replace(packet, destination=of.vip, port=of.port)
    return of.reals[table[flow_slot(flow, of.scheduler, len(table), seed)]]


class Harness:
    """A loaded program with its tables; `reset` between tests."""

    def __init__(self, *, left: Estate | None = None, **sizes: int) -> None:
        self.plane = DataPlane.load(left=left, **sizes)
        self.plane.use(INTERFACE)
        self.tables = Tables(self.plane)
        self.macs: dict[str, bytes] = {}

    def reset(
        self, services: Iterable[L4Service] = (), pool: Sequence[str] = (), peers_pools: Sequence[str] = ()
    ) -> None:
        """As newly loaded, but for the node's counters: these services, all reals up and resolved, and no limit to
        unproven sessions."""
        names = ("half_open_fullnat", "half_open_answers", "clients", "fragments")
        for name, version in itertools.product(names, IP_VERSIONS):
            table = self.plane.map(name, version)
            for keys, _, count in list(table.blocks(1024)):
                table.delete_many(keys, count)
        for version in IP_VERSIONS:
            syns = self.plane.map("half_open", version)
            keys = struct.pack(f"={syns.max_entries}I", *range(syns.max_entries))
            syns.put_many(keys, bytes(ct.sizeof(syns.value)) * syns.max_entries, syns.max_entries)
        for version, keys, _, _ in list(self.tables.session_blocks(1024)):
            self.tables.end_keys(version, keys, FOREVER_S)
        self.tables.sweep = Sweep()
        self.macs = {**REAL_MACS, CLIENT_GATEWAY: GATEWAY_MAC, CLIENT_GATEWAY6: GATEWAY_MAC}
        self.tables.set_epoch(NOW_S)
        self.tables.set_local((NODE, six(NODE)))
        self.tables.set_pools(pool, peers_pools)
        self.plane.use(INTERFACE)
        self.plane.set(
            unproven_per_cpu_s=1 << 30, echo_per_cpu_s=ECHO_PER_CPU_S, held_per_cpu_s=0, lacking=0, vips_here=0
        )  # fmt: skip
        self.tables.apply([], set(), self.macs)  # so that listeners of earlier tests leave no counts
        self.tables.apply(list(services), set(), self.macs)

    def run(self, packet: Packet | bytes) -> tuple[str, bytes]:
        """(the reason's name, the frame afterwards); the XDP action is what the reason says, or XDP_REDIRECT for
        XDP_TX, where the packet leaves by another interface.

        Always on the same CPU: whose turn it is among servers is each CPU's own.
        """
        before = self.tables.counters()
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            action, after = self.plane.run(packet.frame() if isinstance(packet, Packet) else packet)
        finally:
            os.sched_setaffinity(0, allowed)
        (reason,) = [
            name for name, n in self.tables.counters().items() if n != before[name] and not name.startswith("event_")
        ]
        assert action in {"tx": (XDP_TX, XDP_REDIRECT), "pass": (XDP_PASS,), "drop": (XDP_DROP,)}[reason.split("_")[0]]
        return reason, after

    def merge(self, version: int, keys: bytes, values: bytes, count: int) -> Merged:
        """What a peer's snapshot has."""
        return self.tables.merge_sessions(version, keys + values, count)

    def hear(self, version: int, keys: bytes, values: bytes, count: int) -> Merged:
        """What a peer tells of the same in datagrams."""
        key, value = self.tables.layouts[version][:2]
        of_both = zip((key * count).from_buffer_copy(keys), (value * count).from_buffer_copy(values), strict=True)
        heard = [
            self.tables.hear_sessions(version, *page)
            for page in told.pages(version, [told.of_entry(*each) for each in of_both])
        ]
        return Merged(*map(sum, zip(Merged(), *heard, strict=True)))

    def half_open(self, version: int = 4) -> int:
        """How many flows are remembered by their SYN."""
        syns, of_fullnat = (self.plane.map(name, version) for name in ("half_open", "half_open_fullnat"))
        buckets = [
            bucket for _, values, count in syns.blocks(1024) for bucket in (syns.value * count).from_buffer_copy(values)
        ]
        return sum(entry != 0 for bucket in buckets for entry in bucket.entry) + sum(
            count for _, _, count in of_fullnat.blocks(1024)
        )

    def check(self, case: Case) -> None:
        reason, after = self.run(case.before)
        assert reason == case.verdict, case.description
        expected = case.before if case.after is None else case.after
        assert after.hex(" ") == expected.hex(" "), case.description

    def real_of(self, packet: Packet) -> str:
        """The address that a packet to a nat listener was forwarded to."""
        reason, after = self.run(packet)
        assert reason.startswith("tx_"), reason
        return addresses_of(after)[1]

    def session(self, packet: Packet) -> dict[str, int] | None:
        """The fields of a client packet's session."""
        table = self.plane.map("sessions", packet.version)
        key = address_bytes(packet.source) + address_bytes(packet.destination)
        key += struct.pack("!HHB3x", packet.source_port, packet.port, packet.protocol)
        value = table.get(table.key.from_buffer_copy(key))
        if value is None:
            return None
        names = ("bytes", "packets", "last_s", "mode", "state", "generation", "learnt", "sync_due_s")
        return {name: getattr(value, name) for name in names}

    def kill(self, wanted: Wanted) -> int:
        """How many sessions there were."""
        killed = self.tables.kill(wanted)
        return sum(len(keys) // self.tables.versions[version].key_size for version, keys in killed.items())

    def events(self, action: Callable[[], object]) -> dict[str, int]:
        """What the counters gained during an action."""
        before = self.tables.counters()
        action()
        return {name: n - before[name] for name, n in self.tables.counters().items() if n != before[name]}

    def close(self) -> None:
        self.plane.close()
