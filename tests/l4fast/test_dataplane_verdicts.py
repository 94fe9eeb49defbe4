"""Every reason of `enum reason`, in each mode, protocol and IP version that can have it, with the exact bytes out.

A row is a short exchange. It names its reason, and the ways (a mode, with sessions or without) and protocols that it is
played in; `test_every_reason_has_a_row` holds the rows to stats.h. There is one server, so that no scheduler plays a
part.
"""

from __future__ import annotations

import ctypes as ct
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import pytest

from core.limits import Limits
from core.model import Acl, Mode, Scheduler
from core.prefixes import Prefixes
from core.resolve import Access, L4Service
from l4fast.hops import HERE
from l4fast.sessions import STATES
from l4fast.sources import reasons
from tests.packets import (
    ACK,
    CLIENT,
    DF,
    FIN,
    GATEWAY_MAC,
    HEADER,
    HOP_BY_HOP,
    ICMP_PROTOCOL,
    MTU,
    NODE,
    NOW_S,
    OPTIONS,
    REAL_MACS,
    REALS,
    ROUTING,
    RST,
    SYN,
    TCP,
    UDP,
    VIP,
    Case,
    End,
    Harness,
    Packet,
    address_bytes,
    as_version,
    echo,
    encapsulated,
    ends,
    icmp_error,
    service,
)

pytestmark = pytest.mark.root

VERSIONS = (4, 6)
# Reasons that the other version alone has: an IPv6 sender never counts on fragments that others make.
NOT_OF: dict[int, set[str]] = {4: set(), 6: {"drop_too_big"}}
POOL, ROUTER, OTHER = "10.0.9.1", "203.0.113.1", "10.0.0.99"
PORT, REAL_PORT = 80, 8080


@dataclass(frozen=True)
class Way:
    mode: Mode
    stateless: bool = False

    def __str__(self) -> str:
        return self.mode.value + " stateless" * self.stateless


NAT, DR, TUNNEL, FULLNAT = (Way(mode) for mode in (Mode.NAT, Mode.DR, Mode.TUNNEL, Mode.FULLNAT))
STATELESS = (Way(Mode.NAT, True), Way(Mode.DR, True), Way(Mode.TUNNEL, True))
STATEFUL = (NAT, DR, TUNNEL, FULLNAT)
ALL = (*STATEFUL, *STATELESS)
REPLYING = (NAT, FULLNAT, STATELESS[0])
TUNNELS = (TUNNEL, STATELESS[2])
ANY = (NAT,)  # the way plays no part
BOTH = (TCP, UDP)


@dataclass(frozen=True)
class Row:
    reason: str
    play: Callable[[Trial], None]
    ways: Sequence[Way]
    protocols: Sequence[int]
    versions: Sequence[int]


ROWS: list[Row] = []


def row(
    reason: str, ways: Sequence[Way] = ANY, protocols: Sequence[int] = (TCP,), versions: Sequence[int] = (4, 6)
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    def register(play: Callable[[Trial], None]) -> Callable[[Trial], None]:
        ROWS.append(Row(reason, play, ways, protocols, [version for version in versions if version in VERSIONS]))
        return play

    return register


@dataclass(eq=False)
class Trial:
    """One row in one way: a listener with one server, and what is known of the client's flow."""

    harness: Harness
    other_harness: Harness  # see `small`
    reason: str
    way: Way
    protocol: int
    version: int
    source: End | None = None  # fullnat: what the client's end has become
    of: L4Service = field(init=False)

    def __post_init__(self) -> None:
        self.client, self.vip, self.real, self.pool, self.router, self.node, self.other = as_version(
            self.version, CLIENT, VIP, REALS[0], POOL, ROUTER, NODE, OTHER
        )
        self.of = service(
            PORT,
            self.way.mode,
            protocol="tcp" if self.protocol == TCP else "udp",
            reals=REALS[:1],
            real_port=REAL_PORT,
            stateless=self.way.stateless,
            version=self.version,
        )
        self.set(self.of)

    def set(self, *services: L4Service) -> None:
        self.harness.reset(services, [self.pool])

    @cached_property
    def small(self) -> Harness:
        """With room for four sessions and one page of records for the peers."""
        self.other_harness.reset([self.of], [self.pool])
        return self.other_harness

    def apply(self, *services: L4Service, without: str = "", of: Harness | None = None) -> None:
        """The same sessions under another configuration, and without a MAC address."""
        harness = of or self.harness
        macs = {address: mac for address, mac in harness.macs.items() if address != without}
        harness.tables.apply(services, set(), macs)

    def packet(self, **fields: object) -> Packet:
        """From the client; TCP's is an ACK."""
        fields = {"protocol": self.protocol, "flags": ACK, "sequence": 1001} | fields
        return replace(Packet(source=self.client, destination=self.vip), **fields)  # type: ignore[arg-type]

    def forwarded(self, packet: Packet) -> Packet:
        """As the server's side sees it, tunnels apart."""
        if self.way.mode is Mode.NAT:
            return packet.to_real(self.real, REAL_PORT)
        if self.way.mode is Mode.FULLNAT:
            assert self.source
            return packet.translated(self.source, (self.real, REAL_PORT))
        return packet.to_mac(REAL_MACS[self.real])

    def left(self, packet: Packet) -> bytes:
        """What leaves towards the server."""
        return packet.in_tunnel(self.real) if self.way.mode is Mode.TUNNEL else self.forwarded(packet).frame()

    def send(self, packet: Packet, verdict: str = "", harness: Harness | None = None) -> None:
        """Forwarded towards the server, byte by byte as it has to be."""
        reason, after = (harness or self.harness).run(packet)
        if self.way.mode is Mode.FULLNAT and self.source is None:
            self.source = ends(after)[0]
            assert self.source[0] == self.pool
            assert self.source[1] >= 1024
        assert (reason, after.hex(" ")) == (verdict or self.reason, self.left(packet).hex(" "))

    def kept(self, frame: Packet | bytes, harness: Harness | None = None) -> None:
        """Not forwarded, and left as it is."""
        before = frame.frame() if isinstance(frame, Packet) else frame
        (harness or self.harness).check(Case("", before, self.reason))

    def begin(self, harness: Harness | None = None) -> None:
        """The flow is known, if any ever is."""
        if self.way.stateless:
            self.send(self.packet(), "tx_stateless", harness)
        elif self.protocol == UDP:
            self.send(self.packet(), "tx_new_session", harness)
        else:
            self.send(self.packet(flags=SYN, sequence=1000), "tx_syn", harness)
            self.send(self.packet(), "tx_new_session", harness)

    @property
    def known(self) -> str:
        """The verdict about another packet of that flow."""
        return "tx_stateless" if self.way.stateless else "tx_session"

    def answer(self, **fields: object) -> Packet:
        """From the server, as it arrives."""
        to = self.source or (self.client, 40000)
        packet = Packet(self.real, to[0], REAL_PORT, to[1], self.protocol, ACK, payload=b"an answer")
        return replace(packet, **fields)  # type: ignore[arg-type]

    def answered(self, answer: Packet) -> Packet:
        """As it leaves to the client."""
        return answer.translated((self.vip, PORT), (self.client, 40000), mac=GATEWAY_MAC)

    def error(self, about: Packet, **fields: int) -> Packet:
        return icmp_error(about, "time exceeded", source=self.router, **fields)


# Forwarded


@row("tx_syn", STATEFUL)
def a_syn(t: Trial) -> None:
    t.send(t.packet(flags=SYN, sequence=1000))
    t.send(t.packet(flags=SYN, sequence=1000, data_offset=6, payload=b"\2\4\5\xb4"))


@row("tx_new_session", STATEFUL, BOTH)
def the_packet_that_makes_a_session(t: Trial) -> None:
    if t.protocol == TCP:
        t.send(t.packet(flags=SYN, sequence=1000), "tx_syn")
    t.send(t.packet(payload=b"odd"))


@row("tx_session", STATEFUL, BOTH)
def packets_of_a_session(t: Trial) -> None:
    t.begin()
    for size in (0, 1, 100, 1400):
        t.send(t.packet(payload=b"x" * size, tos=0xBB, label=0xABCDE))
    t.send(t.packet(padding=b"x" * 6))
    t.send(t.packet(ttl=2))


@row("tx_untracked", (NAT, DR, TUNNEL))
def the_end_of_an_unknown_flow(t: Trial) -> None:
    t.send(t.packet(flags=ACK | FIN))
    t.send(t.packet(flags=RST))


@row("tx_untracked", (FULLNAT,))
def the_end_of_a_half_open_flow(t: Trial) -> None:
    t.send(t.packet(flags=SYN, sequence=1000), "tx_syn")
    t.send(t.packet(flags=RST))


@row("tx_stateless", STATELESS, BOTH)
def without_sessions(t: Trial) -> None:
    for flags in (SYN, ACK, ACK | FIN, RST):
        t.send(t.packet(flags=flags, payload=b"data"))


@row("tx_reply", REPLYING, BOTH)
def answers(t: Trial) -> None:
    t.begin()
    for fields in ({}, {"payload": b"x" * 1400}, {"ttl": 2, "tos": 0xBB}, {"padding": b"x" * 6}):
        answer = t.answer(**fields)
        t.harness.check(Case("", answer.frame(), t.reason, t.answered(answer).frame()))


@row("tx_too_big", TUNNELS, BOTH)
def more_than_the_tunnel_takes(t: Trial) -> None:
    header = HEADER[t.version]
    fits = MTU - 2 * header - (20 if t.protocol == TCP else 8)
    t.begin()
    t.send(t.packet(fragment=DF, payload=b"x" * fits), t.known)
    over = t.packet(fragment=DF, payload=b"x" * (fits + 1))
    t.harness.check(Case("", over.frame(), t.reason, over.too_big(MTU - header)))


@row("tx_fragment", ALL, BOTH)
def fragments(t: Trial) -> None:
    t.begin()
    packet = t.packet(payload=bytes(range(250)) * 4)
    if t.way.mode is Mode.TUNNEL:
        left = [encapsulated(frame, t.real) for frame in replace(packet, ttl=63).fragments(400, 400)]
        left = [frame[:6] + packet.eth_destination + frame[12:] for frame in left]
    else:
        left = t.forwarded(packet).fragments(400, 400)
    for before, after, verdict in zip(packet.fragments(400, 400), left, (t.known, t.reason, t.reason), strict=True):
        t.harness.check(Case("", before, verdict, after))


@row("tx_fragment", REPLYING, BOTH)
def fragments_of_answers(t: Trial) -> None:
    t.begin()
    answer = t.answer(payload=bytes(range(250)) * 4)
    sent, left = answer.fragments(400, 400), t.answered(answer).fragments(400, 400)
    for before, after, verdict in zip(sent, left, ("tx_reply", t.reason, t.reason), strict=True):
        t.harness.check(Case("", before, verdict, after))


@row("tx_echo")
def a_ping(t: Trial) -> None:
    ping = t.packet(protocol=ICMP_PROTOCOL[t.version], payload=echo(t.version, b"\1\2\3\4", b"data"), ttl=3)
    pong = replace(ping, source=t.vip, destination=t.client, payload=echo(t.version, b"\1\2\3\4", b"data", answer=True))
    t.harness.check(Case("", ping.frame(), t.reason, replace(pong, ttl=64).to_mac(ping.eth_source).frame()))


@row("tx_error", ALL, BOTH)
def errors_about_answers(t: Trial) -> None:
    t.begin()
    as_sent = t.answer(payload=b"x" * 100)
    about = t.answered(as_sent)
    for behind in (8, 20, 108):
        error, inside = t.error(about, behind=behind), t.error(as_sent, behind=behind)
        if t.way.mode is Mode.NAT:
            inside = t.error(replace(about, source=t.real, source_port=REAL_PORT), behind=behind)
            after = replace(inside, destination=t.vip).to_real(t.real).frame()
        elif t.way.mode is Mode.FULLNAT:
            as_left = replace(about, source=t.real, source_port=REAL_PORT, destination=t.pool, port=as_sent.port)
            inside = t.error(as_left, behind=behind)
            after = replace(inside, source=t.pool, ttl=63).to_mac(REAL_MACS[t.real]).frame()
        else:
            after = t.left(error)
        t.harness.check(Case("", error.frame(), t.reason, after))


@row("tx_reply_error", REPLYING, BOTH)
def errors_about_requests(t: Trial) -> None:
    t.begin()
    packet = t.packet(payload=b"x" * 100)
    for behind in (8, 20, 108):
        error = t.error(t.forwarded(packet), behind=behind)
        told = icmp_error(replace(packet, ttl=63), "time exceeded", behind=behind, source=t.vip)
        t.harness.check(Case("", error.frame(), t.reason, replace(told, ttl=63).to_mac(GATEWAY_MAC).frame()))


# Left to the kernel


@row("pass_not_ip")
def other_ethernet_types(t: Trial) -> None:
    for eth_type in (0x0806, 0x8100, 0x88CC):
        t.kept(t.packet(eth_type=eth_type))


@row("pass_truncated")
def a_frame_that_ends_in_its_header(t: Trial) -> None:
    for length in (14, 20, 13 + HEADER[t.version]):
        t.kept(t.packet().frame()[:length])


@row("pass_other_host")
def another_mac_address(t: Trial) -> None:
    t.kept(t.packet(eth_destination=b"\2\0\0\0\0\x0b"))
    t.kept(t.packet(eth_destination=b"\xff" * 6))


@row("pass_not_for_vip", protocols=BOTH)
def no_listeners(t: Trial) -> None:
    t.kept(t.packet(port=8))
    t.kept(t.packet(destination=t.other))
    t.kept(t.answer(source_port=9))


@row("pass_local", (NAT, STATELESS[0]), BOTH)
def an_answer_to_the_node(t: Trial) -> None:
    t.kept(t.answer(destination=t.node))


@row("pass_icmp")
def other_icmp(t: Trial) -> None:
    t.kept(t.packet(protocol=ICMP_PROTOCOL[t.version], payload=echo(t.version, answer=True)))


@row("pass_other_protocol")
def another_protocol(t: Trial) -> None:
    t.kept(t.packet(protocol=112, payload=bytes(8)))


@row("pass_no_listener", STATEFUL, BOTH)
def a_session_whose_listener_has_gone(t: Trial) -> None:
    t.begin()
    t.apply(replace(t.of, port=81, listener="other"))
    t.kept(t.packet())


@row("pass_served_here", (DR, STATELESS[1]), BOTH)
def a_server_on_the_node_itself(t: Trial) -> None:
    t.harness.tables.apply([t.of], set(), {**t.harness.macs, t.real: HERE})
    t.kept(t.packet(flags=SYN))
    t.kept(t.packet(ttl=1))


# Dropped


@row("drop_bad_ip")
def a_bad_header(t: Trial) -> None:
    if t.version == 4:
        for version_length in (0x65, 0x44):
            t.kept(t.packet(version_length=version_length))
        t.kept(t.packet(total_length=19))
        t.kept(t.packet(total_length=41))
    else:
        t.kept(t.packet(version_length=0x45))
        t.kept(t.packet(total_length=21))


@row("drop_ip_options")
def options(t: Trial) -> None:
    if t.version == 4:
        t.kept(t.packet(version_length=0x46, options=b"\1\1\1\0"))
    for kind in (HOP_BY_HOP, ROUTING, OPTIONS) if t.version == 6 else ():
        t.kept(t.packet(extensions=((kind, b"\1\4data"),)))


@row("drop_fragment", ALL, BOTH)
def a_later_fragment_without_its_first(t: Trial) -> None:
    t.begin()
    t.kept(t.packet(payload=bytes(800)).fragments(400)[1])


@row("drop_held_fragment", ALL, BOTH)
def a_later_fragment_that_the_daemon_takes(t: Trial) -> None:
    t.harness.plane.set(held_per_cpu_s=1 << 20)
    t.kept(t.packet(payload=bytes(800)).fragments(400)[1])


@row("drop_bad_fragment", protocols=BOTH)
def a_fragment_of_no_multiple_of_eight(t: Trial) -> None:
    t.kept(t.packet(payload=bytes(800)).fragments(401)[0])


@row("drop_bad_l4", protocols=BOTH)
def a_bad_length_of_l4(t: Trial) -> None:
    t.kept(t.packet(data_offset=4, udp_length=7))
    t.kept(t.packet(data_offset=6, udp_length=9))


@row("drop_bad_icmp")
def an_error_that_quotes_nothing(t: Trial) -> None:
    t.kept(t.error(t.packet(source=t.vip, destination=t.client), behind=7))


@row("drop_echo_limit")
def too_many_pings(t: Trial) -> None:
    t.harness.plane.set(echo_per_cpu_s=0)
    t.kept(t.packet(protocol=ICMP_PROTOCOL[t.version], payload=echo(t.version)))


@row("drop_bad_flags", ALL)
def flags_that_no_client_sends(t: Trial) -> None:
    for flags in (0, FIN, SYN | FIN, SYN | RST, SYN | ACK):
        t.kept(t.packet(flags=flags))


@row("drop_bad_source", ALL, BOTH)
def sources_that_no_client_has(t: Trial) -> None:
    for source in ("0.0.0.0", "127.0.0.1", "224.0.0.1"):
        t.kept(replace(t.packet(), source=as_version(t.version, source)[0]))
    t.kept(t.packet(source=t.vip))


@row("drop_denied", ALL, BOTH)
def who_is_denied(t: Trial) -> None:
    t.set(
        replace(
            t.of,
            access=Access(Acl.WHITE, Prefixes.of(["192.0.2.0/24" if t.version == 4 else "2001:db9::/32"], t.version)),
        )
    )
    t.kept(t.packet(flags=SYN))


@row("drop_connection_rate", STATEFUL, BOTH)
def more_connections_than_the_listener_may_take(t: Trial) -> None:
    t.set(replace(t.of, limits=Limits(new_connections_per_s=1)))
    for n in range(1000):  # at once, but for a machine that stalls
        packet = t.packet(flags=SYN, source_port=1024 + n)
        reason, after = t.harness.run(packet)
        if reason == t.reason:
            assert after == packet.frame()
            return
    pytest.fail("as many as came")


@row("drop_connections", STATEFUL, BOTH)
def more_connections_than_the_listener_may_have(t: Trial) -> None:
    t.set(replace(t.of, limits=Limits(connections=1)))
    t.begin()
    t.kept(t.packet(flags=SYN, source_port=2))


@row("drop_bandwidth_in", ALL, BOTH)
def more_than_the_listener_may_take(t: Trial) -> None:
    t.set(replace(t.of, limits=Limits(in_mbit_s=1)))
    t.begin()
    until_refused(t, t.packet(payload=bytes(1400)))


@row("drop_bandwidth_out", REPLYING, BOTH)
def more_than_the_listener_may_answer(t: Trial) -> None:
    t.set(replace(t.of, limits=Limits(out_mbit_s=1)))
    t.begin()
    until_refused(t, t.answer(payload=bytes(1400)))


def until_refused(t: Trial, packet: Packet) -> None:
    """At once, but for a machine that stalls."""
    for _ in range(1000):
        reason, after = t.harness.run(packet)
        if reason == t.reason:
            assert after == packet.frame()
            return
    pytest.fail("as many as came")


@row("drop_ttl", (NAT, TUNNEL, FULLNAT, STATELESS[0], STATELESS[2]), BOTH)
def the_last_hop(t: Trial) -> None:
    t.begin()
    t.kept(t.packet(ttl=1))


@row("drop_too_big", TUNNELS, BOTH, versions=(4,))
def a_sender_that_counts_on_fragments(t: Trial) -> None:
    t.kept(t.packet(payload=bytes(MTU - 40 - (20 if t.protocol == TCP else 8) + 1)))


@row("drop_no_address", TUNNELS, BOTH)
def a_tunnel_without_an_end(t: Trial) -> None:
    t.harness.tables.set_local(())
    t.kept(t.packet())


@row("drop_no_port", (FULLNAT,), BOTH)
def no_pool(t: Trial) -> None:
    t.harness.reset([t.of])
    t.kept(t.packet(flags=SYN))


@row("drop_no_session", (FULLNAT,))
def an_unknown_flow(t: Trial) -> None:
    t.kept(t.packet())


@row("drop_no_session", (FULLNAT,), BOTH)
def an_answer_to_nobody(t: Trial) -> None:
    t.kept(t.answer(destination=t.pool))


@row("drop_unsynced", (NAT, DR, TUNNEL))
def an_unknown_flow_that_peers_may_know(t: Trial) -> None:
    """Who chooses in turns cannot place it; whoever chooses by hash can."""
    t.set(replace(t.of, scheduler=Scheduler.WRR))
    t.send(t.packet(), "tx_untracked")
    t.harness.tables.set_lacking(True)
    t.kept(t.packet())
    t.kept(t.packet(flags=ACK | FIN))
    t.send(t.packet(flags=SYN, sequence=1000), "tx_syn")
    t.send(t.packet(flags=ACK, sequence=1001), "tx_new_session")
    t.send(t.packet(), "tx_session")
    t.set(t.of)
    t.harness.tables.set_lacking(True)
    t.send(t.packet(), "tx_new_session")


@row("drop_no_listener", protocols=BOTH)
def what_the_kernel_would_answer_for_a_vip_of_its_own(t: Trial) -> None:
    t.harness.tables.set_vips_here(True)
    t.kept(t.packet(port=8))
    t.kept(t.packet(port=22, flags=SYN))


@row("drop_no_listener", STATEFUL, BOTH)
def a_session_whose_listener_has_gone_from_a_vip_of_its_own(t: Trial) -> None:
    t.begin()
    t.harness.tables.set_vips_here(True)
    t.apply(replace(t.of, port=81, listener="other"))
    t.kept(t.packet())


@row("pass_not_for_vip", protocols=BOTH)
def what_is_for_no_vip_where_vips_are_the_nodes_own(t: Trial) -> None:
    t.harness.tables.set_vips_here(True)
    t.kept(t.packet(destination=t.other))
    t.kept(t.packet(destination=t.node))
    t.kept(t.answer(source_port=9))


@row("drop_no_real", ALL, BOTH)
def no_server(t: Trial) -> None:
    t.set(replace(t.of, reals=tuple(replace(real, weight=0) for real in t.of.reals)))
    t.kept(t.packet(flags=SYN))


@row("drop_no_neighbour", ALL, BOTH)
def a_server_that_nobody_can_find(t: Trial) -> None:
    t.begin()
    t.apply(t.of, without=t.real)
    t.kept(t.packet())
    t.kept(t.packet(flags=SYN, source_port=2))


@row("drop_no_gateway", REPLYING, BOTH)
def no_way_to_clients(t: Trial) -> None:
    t.begin()
    t.harness.tables.apply([t.of], set(), {t.real: REAL_MACS[t.real]})
    t.kept(t.answer())


@row("drop_reply_ambiguous", protocols=BOTH)
def an_answer_of_one_of_two_listeners(t: Trial) -> None:
    t.set(t.of, replace(t.of, port=81, listener="other"))
    t.kept(t.answer())


@row("drop_internal", (FULLNAT,))
def a_server_that_is_in_no_table(t: Trial) -> None:
    """It takes a fault to get there: a half-open entry is written that names one."""
    t.send(t.packet(flags=SYN, sequence=1000), "tx_syn")
    half_open = t.harness.plane.map("half_open_fullnat", t.version)
    ((key, value, _),) = list(half_open.blocks(16))
    entry = half_open.value.from_buffer_copy(value)
    entry.member = 0xFFFF
    half_open.put(half_open.key.from_buffer_copy(key), entry)
    t.kept(t.packet())


# Events


@row("event_table_full", (NAT, DR, TUNNEL), BOTH)
def a_full_table(t: Trial) -> None:
    for n in range(4):
        t.small.run(t.packet(protocol=t.protocol, source_port=2000 + n))
    events = t.small.events(lambda: t.send(t.packet(), "tx_untracked", t.small))
    assert events[t.reason] == 1


@row("event_table_full", (FULLNAT,), BOTH)
def a_full_table_in_fullnat(t: Trial) -> None:
    """TCP goes on half open; a datagram has nowhere to be remembered."""
    table = t.small.plane.map("sessions", t.version)
    keys = b"".join(bytes([n]) * ct.sizeof(table.key) for n in range(1, 5))
    assert table.put_many(keys, bytes(4 * ct.sizeof(table.value)), 4) == 4
    if t.protocol == UDP:
        assert t.small.events(lambda: t.small.run(t.packet())) == {"drop_no_port": 1, t.reason: 1}
        return
    t.send(t.packet(flags=SYN, sequence=1000), "tx_syn", t.small)
    assert t.small.events(lambda: t.send(t.packet(), "tx_untracked", t.small)) == {"tx_untracked": 1, t.reason: 1}


@row("event_unproven_limit", (NAT, DR, TUNNEL))
def too_many_unknown_flows(t: Trial) -> None:
    t.harness.plane.set(unproven_per_cpu_s=0)
    assert t.harness.events(lambda: t.send(t.packet(), "tx_untracked")) == {"tx_untracked": 1, t.reason: 1}


@row("event_no_port", (FULLNAT,), BOTH)
def every_port_is_a_sessions(t: Trial) -> None:
    """The pool's one address has an answer of somebody else's session at each of its ports."""
    table = t.harness.plane.map("sessions", t.version)
    ends_of_answers = address_bytes(t.real) + address_bytes(t.pool)
    keys = b"".join(ends_of_answers + struct.pack("!HHB3x", REAL_PORT, port, t.protocol) for port in range(1024, 65536))
    values = bytes(table.value(mode=3, state=STATES.index("answer"))) * 64512
    assert table.put_many(keys, values, 64512) == 64512
    assert t.harness.events(lambda: t.harness.run(t.packet(flags=SYN))) == {"drop_no_port": 1, t.reason: 1}


@row("event_warmed", STATEFUL, BOTH)
def a_change_of_configuration(t: Trial) -> None:
    t.begin()
    t.apply(replace(t.of, idle_timeout_s=30))
    assert t.harness.events(lambda: t.send(t.packet(), "tx_session"))[t.reason] == 1
    assert t.reason not in t.harness.events(lambda: t.send(t.packet(), "tx_session"))


@row("event_sync_staged", STATEFUL, BOTH)
def the_third_packet(t: Trial) -> None:
    t.begin()
    t.send(t.packet(), "tx_session")
    events = [t.harness.events(lambda: t.send(t.packet(), "tx_session")) for _ in range(2)]
    records = 2 if t.way is FULLNAT else 1
    assert events == [{"tx_session": 1, t.reason: records}, {"tx_session": 1}]


@row("event_sync_lost", STATEFUL, BOTH)
def a_full_ring(t: Trial) -> None:
    t.begin(t.small)

    def load() -> None:
        for n in range(200):
            t.small.tables.set_epoch(NOW_S + 300 * n)
            t.send(t.packet(), "tx_session", t.small)

    assert t.small.events(load)[t.reason] >= 21


# The rows, played


@pytest.fixture(scope="module")
def tiny() -> Iterator[Harness]:
    harness = Harness(sessions=4, half_open=64, sync_ring_bytes=4096)
    yield harness
    harness.close()


def played(played_row: Row) -> list[tuple[Row, Way, int, int]]:
    return list(product([played_row], played_row.ways, played_row.protocols, played_row.versions))


def name(case: tuple[Row, Way, int, int]) -> str:
    of, way, protocol, version = case
    ways = "" if of.ways is ANY else f"-{way}"
    return f"{of.reason}-{of.play.__name__}{ways}-{'tcp' if protocol == TCP else 'udp'}-{version}"


@pytest.mark.parametrize("case", [pytest.param(case, id=name(case)) for each in ROWS for case in played(each)])
def test_verdict_and_bytes(roomy: Harness, tiny: Harness, case: tuple[Row, Way, int, int]) -> None:
    of, way, protocol, version = case
    trial = Trial(roomy, tiny, of.reason, way, protocol, version)
    counters = [each.tables.counters()[of.reason] for each in (roomy, tiny)]
    of.play(trial)
    assert [each.tables.counters()[of.reason] for each in (roomy, tiny)] != counters


def test_every_reason_has_a_row() -> None:
    for version in VERSIONS:
        assert {of.reason for of in ROWS if version in of.versions} == set(reasons()) - NOT_OF[version]


# What a forwarding way can do, each protocol: all rows of these reasons compare the exact bytes that leave.
FORWARDED = {"tx_syn", "tx_new_session", "tx_session", "tx_stateless", "tx_reply", "tx_fragment", "tx_error"}


@pytest.mark.parametrize("way", ALL, ids=str)
@pytest.mark.parametrize("protocol", BOTH)
def test_every_way_has_its_rows(way: Way, protocol: int) -> None:
    expected = {"tx_stateless"} if way.stateless else {"tx_syn", "tx_new_session", "tx_session"}
    expected |= {"tx_reply"} if way in REPLYING else set()
    expected |= {"tx_fragment", "tx_error"}
    expected -= {"tx_syn"} if protocol == UDP else set()
    assert {of.reason for of in ROWS if way in of.ways and protocol in of.protocols} & FORWARDED == expected
