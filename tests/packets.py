"""Packet tables for the XDP program: what goes in, the verdict's name, the exact bytes that come out.

`Packet` builds frames field by field with checksums computed over the whole, so that an expected frame owes nothing to
the incremental arithmetic under test. `Harness` is a loaded program with its tables, run by BPF_PROG_TEST_RUN.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from core.model import Mode, Scheduler
from core.resolve import Access, L4Service, Real
from core.schedule import flow_table
from l4fast.loader import DataPlane
from l4fast.tables import CLIENT_GATEWAY, MAGLEV_SMALL, Tables

NODE_MAC = bytes.fromhex("02000000000a")
ROUTER_MAC = bytes.fromhex("020000000001")
GATEWAY_MAC = bytes.fromhex("0200000000fe")
NODE, VIP, CLIENT = "10.0.0.2", "10.0.0.100", "198.51.100.7"
MTU = 1500
REALS = ("10.0.1.1", "10.0.1.2", "10.0.1.3")
REAL_MACS: Mapping[str, bytes] = {address: bytes.fromhex("0200000001") + bytes([n]) for n, address in enumerate(REALS)}
NOW_S = 1_700_000_000

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX = 0, 1, 2, 3
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
ICMP, TCP, UDP = socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_UDP


End = tuple[str, int]  # address and port


def ends(frame: bytes) -> tuple[End, End]:
    """Source and destination of an IPv4 frame."""
    ports = struct.unpack("!HH", frame[34:38])
    return (socket.inet_ntoa(frame[26:30]), ports[0]), (socket.inet_ntoa(frame[30:34]), ports[1])


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_header(source: str, destination: str, protocol: int, length: int, *, tos: int = 0) -> bytes:
    """A header before `length` bytes, as a host makes it that forbids fragments: identification 0."""
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + length, 0, 0x4000, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:]


def icmp(kind: int, code: int, rest: bytes = bytes(4), data: bytes = b"") -> bytes:
    """A message, for `Packet(protocol=ICMP, payload=…)`; `rest`: what stands between checksum and data."""
    value = checksum(bytes((kind, code, 0, 0)) + rest + data)
    return struct.pack("!BBH", kind, code, value) + rest + data


@dataclass(frozen=True)
class Packet:
    """An IPv4 packet in an Ethernet frame. `None` for a length or checksum means the right one."""

    source: str = CLIENT
    destination: str = VIP
    source_port: int = 40000
    port: int = 80
    protocol: int = TCP
    flags: int = SYN
    sequence: int = 1000
    payload: bytes = b""
    ttl: int = 64
    tos: int = 0
    eth_source: bytes = ROUTER_MAC
    eth_destination: bytes = NODE_MAC
    eth_type: int = 0x0800
    version_length: int = 0x45
    options: bytes = b""
    fragment: int = 0
    total_length: int | None = None
    data_offset: int = 5
    udp_length: int | None = None
    l4_checksum: int | None = None
    padding: bytes = b""

    def frame(self) -> bytes:
        l4 = self._l4()
        length = 20 + len(self.options) + len(l4) if self.total_length is None else self.total_length
        head = struct.pack(
            "!BBHHHBBH", self.version_length, self.tos, length, 7, self.fragment, self.ttl, self.protocol, 0
        )
        head += socket.inet_aton(self.source) + socket.inet_aton(self.destination)
        head = head[:10] + struct.pack("!H", checksum(head + self.options)) + head[12:] + self.options
        eth = self.eth_destination + self.eth_source + struct.pack("!H", self.eth_type)
        return eth + head + l4 + self.padding

    def _l4(self) -> bytes:
        if self.protocol == TCP:
            ack = 5000 if self.flags & ACK else 0
            head = struct.pack("!HHIIBBHHH", self.source_port, self.port, self.sequence, ack, self.data_offset << 4,
                               self.flags, 512, 0, 0)  # fmt: skip
            at = 16
        elif self.protocol == UDP:
            length = 8 + len(self.payload) if self.udp_length is None else self.udp_length
            head = struct.pack("!HHHH", self.source_port, self.port, length, 0)
            at = 6
        else:
            return self.payload
        whole = head + self.payload
        pseudo = socket.inet_aton(self.source) + socket.inet_aton(self.destination)
        pseudo += struct.pack("!BBH", 0, self.protocol, len(whole))
        value = checksum(pseudo + whole) if self.l4_checksum is None else self.l4_checksum
        if self.protocol == UDP and self.l4_checksum is None:
            value = value or 0xFFFF
        return whole[:at] + struct.pack("!H", value) + whole[at + 2 :]

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
        inner = replace(self, ttl=self.ttl - 1).frame()[14:]
        length = len(inner) - len(self.padding)
        outer = ipv4_header(NODE, address, 4, length, tos=self.tos if tos is None else tos)
        real_mac = REAL_MACS[address] if mac is None else mac
        return real_mac + self.eth_destination + b"\x08\x00" + outer + inner

    def too_big(self, mtu: int) -> bytes:
        """The ICMP error that the sender gets (RFC 1191)."""
        packet = self.frame()
        message = icmp(3, 4, struct.pack("!HH", 0, mtu), packet[14:42])
        head = ipv4_header(self.destination, self.source, ICMP, len(message), tos=0xC0)
        return self.eth_source + self.eth_destination + b"\x08\x00" + head + message

    def translated(self, source: End, destination: End, *, mac: bytes | None = None) -> Packet:
        """As fullnat forwards it, in either direction."""
        return replace(
            self.to_mac(REAL_MACS.get(destination[0], GATEWAY_MAC) if mac is None else mac),
            source=source[0], source_port=source[1], destination=destination[0], port=destination[1], ttl=self.ttl - 1,
        )  # fmt: skip

    def to_client(self, vip: str, port: int) -> Packet:
        """As nat hands a real's answer back."""
        return replace(self.to_mac(GATEWAY_MAC), source=vip, source_port=port, ttl=self.ttl - 1)


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
) -> L4Service:
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


def flow_slot(packet: Packet, scheduler: Scheduler, slots: int) -> int:
    """select.h's flow_slot on a little-endian machine: murmur3's fmix64 over the key, scaled to the table."""

    def word(address: str) -> int:
        return int.from_bytes(socket.inet_aton(address), "little")

    ports = socket.htons(packet.source_port) | socket.htons(packet.port) << 16
    mask = (1 << 64) - 1
    h = word(packet.source) << 32
    if scheduler is not Scheduler.SH:
        h = (h | ports) ^ word(packet.destination) << 8
    if scheduler is not Scheduler.SH and scheduler is not Scheduler.TCH:
        h ^= packet.protocol
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & mask
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & mask
    h ^= h >> 33
    return (h & 0xFFFFFFFF) * slots >> 32


def maglev_real(packet: Packet, of: L4Service) -> Real:
    """Where core.schedule sends this flow, for schedulers that hash."""
    table = flow_table([f"{r.address}:{r.port}" for r in of.reals], [r.weight for r in of.reals], (), MAGLEV_SMALL)
    flow = replace(packet, destination=of.vip, port=of.port)
    return of.reals[table[flow_slot(flow, of.scheduler, len(table))]]


class Harness:
    """A loaded program with its tables; `reset` between tests."""

    def __init__(self, **sizes: int) -> None:
        self.plane = DataPlane.load(**sizes)
        self.plane.set(mac=NODE_MAC, mtu=MTU)
        self.tables = Tables(self.plane)
        self.macs: dict[str, bytes] = {}

    def reset(self, services: Iterable[L4Service] = (), pool: Sequence[str] = ()) -> None:
        """No sessions, no half-open entries, no limit to unproven ones, these services, all reals up and resolved."""
        for name in ("half_open", "half_open_answers", "clients"):
            table = self.plane.map(name)
            for keys, _, count in list(table.blocks(1024)):
                table.delete_many(keys, count)
        for keys, _, _ in list(self.tables.session_map.blocks(1024)):
            self.tables.delete_sessions(self.tables.split_keys(keys))
        self.macs = {**REAL_MACS, CLIENT_GATEWAY: GATEWAY_MAC}
        self.tables.set_epoch(NOW_S)
        self.tables.set_local((NODE,))
        self.tables.set_pools(pool, ())
        self.plane.set(unproven_per_cpu_s=1 << 30)
        self.tables.apply(list(services), set(), self.macs)

    def run(self, packet: Packet | bytes) -> tuple[str, bytes]:
        """(the reason's name, the frame afterwards); the XDP action is what the reason says.

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
        assert action == {"tx": XDP_TX, "pass": XDP_PASS, "drop": XDP_DROP}[reason.split("_")[0]]
        return reason, after

    def check(self, case: Case) -> None:
        reason, after = self.run(case.before)
        assert reason == case.verdict, case.description
        expected = case.before if case.after is None else case.after
        assert after.hex(" ") == expected.hex(" "), case.description

    def real_of(self, packet: Packet) -> str:
        """The address that a packet to a nat listener was forwarded to."""
        reason, after = self.run(packet)
        assert reason.startswith("tx_"), reason
        return socket.inet_ntoa(after[30:34])

    def session(self, packet: Packet) -> dict[str, int] | None:
        """The fields of a client packet's session."""
        table = self.tables.session_map
        key = table.key(
            client=int.from_bytes(socket.inet_aton(packet.source), "little"),
            vip=int.from_bytes(socket.inet_aton(packet.destination), "little"),
            client_port=socket.htons(packet.source_port),
            vip_port=socket.htons(packet.port),
            protocol=packet.protocol,
        )
        value = table.get(key)
        if value is None:
            return None
        names = ("bytes", "packets", "last_s", "mode", "state", "generation", "learnt", "sync_due_s")
        return {name: getattr(value, name) for name in names}

    def events(self, action: Callable[[], object]) -> dict[str, int]:
        """What the counters gained during an action."""
        before = self.tables.counters()
        action()
        return {name: n - before[name] for name, n in self.tables.counters().items() if n != before[name]}

    def close(self) -> None:
        self.plane.close()
